"""What reading and writing files costs: the peak of memory of decoding 100 megapixels, and the time of fsync.

    python benchmarks/files.py memory [FOLDER [WORD]]
    python benchmarks/files.py fsync [FOLDER]

Prints a table in Markdown. The pictures are made here, in FOLDER (by default a temporary one); with WORD, only those
whose names have it in them. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageChops, ImageCms

from faitheir.images import Picture, encode_picture, frame_count
from faitheir.storage import write_atomic

WIDTH, HEIGHT = 12_500, 8_000

DECODE = """
import json, sys, time
from faitheir.images import read_picture

def mark(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

before, start = mark("VmRSS"), time.perf_counter()
picture = read_picture(sys.argv[1], frame=int(sys.argv[2]))
seconds, pixels = time.perf_counter() - start, picture.width * picture.height
size = picture.rgb.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)
print(json.dumps({"picture": size / pixels, "over": (mark("VmHWM") - before - size) / pixels, "seconds": seconds}))
"""


def kinds(folder: Path, word: str = "") -> dict[str, Path]:
    """Pictures of every kind whose name has a word in it, 12,500 x 8,000 and smooth."""
    levels = np.arange(WIDTH, dtype=np.uint16)[None] * 4 + np.arange(HEIGHT, dtype=np.uint16)[:, None]
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    rgb = Image.merge("RGB", [grey] * 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, Path] = {}

    def save(name: str, image: Image.Image, suffix: str, **options: Any) -> None:
        if path := place(name, suffix):
            image.save(path, **options)

    def place(name: str, suffix: str) -> Path | None:
        """Where it is to be made, if it is."""
        if word not in name:
            return None
        made[name] = folder / f"{name.replace(' ', '_')}.{suffix}"
        return None if made[name].exists() else made[name]

    def save_deep(name: str, values: Any, chroma: str) -> None:
        if path := place(name, "avif"):
            path.write_bytes(imagecodecs.avif_encode(values, level=60, speed=10, bitspersample=10, pixelformat=chroma))

    save("RGB JPEG", rgb, "jpg")
    save("progressive JPEG", rgb, "jpg", progressive=True)
    save("turned JPEG", rgb, "jpg", exif=turned)
    save("CMYK JPEG", Image.merge("CMYK", [grey] * 4), "jpg")
    save("RGBA PNG", Image.merge("RGBA", [grey] * 4), "png", compress_level=1)
    save("RGBA PNG turned", Image.merge("RGBA", [grey] * 4), "png", compress_level=1, exif=turned)
    save("16-bit PNG", Image.fromarray(levels), "png", compress_level=1)
    save("palette PNG", grey.convert("P"), "png", compress_level=1, transparency=3)
    save("RGB PNG with profile", rgb, "png", compress_level=1, icc_profile=swapped_profile())
    save("RGB TIFF turned", rgb, "tiff", exif=turned)
    save("float TIFF", Image.fromarray(levels.astype(np.float32) / 65535), "tiff")
    save("WebP", rgb, "webp", quality=50, method=0)
    save("lossless WebP", rgb, "webp", lossless=True, quality=0, method=0)
    save("WebP with alpha", Image.merge("RGBA", [grey] * 4), "webp", quality=50, method=0)
    save("animated WebP", rgb, "webp", quality=50, method=0, save_all=True, append_images=[ImageChops.invert(rgb)])
    save("GIF", grey, "gif")
    save("BMP", rgb, "bmp")
    save("PPM", rgb, "ppm")
    save("AVIF", rgb, "avif", quality=50, speed=10)
    save("AVIF 4:4:4", rgb, "avif", quality=50, speed=10, subsampling="4:4:4")
    save("AVIF with alpha", Image.merge("RGBA", [grey] * 4), "avif", quality=50, speed=10)
    save("AVIF 4:4:4 with alpha", Image.merge("RGBA", [grey] * 4), "avif", quality=50, speed=10, subsampling="4:4:4")
    ten = np.stack([levels >> 6] * 4, axis=2)
    save_deep("10-bit AVIF", ten[..., :3], "420")
    save_deep("10-bit AVIF with alpha", ten, "420")
    save_deep("10-bit AVIF 4:4:4", ten[..., :3], "444")
    save_deep("10-bit AVIF 4:4:4 with alpha", ten, "444")
    save("JPEG 2000", rgb, "jp2", quality_mode="rates", quality_layers=[20])
    save("JPEG 2000 sYCC", rgb.convert("YCbCr"), "jp2", quality_mode="rates", quality_layers=[100])
    save("JPEG 2000 CMYK", Image.merge("CMYK", [grey] * 4), "jp2", quality_mode="rates", quality_layers=[100])
    if path := place("float RGB TIFF", "tiff"):
        values = np.repeat((levels / np.float32(65535))[..., None], 3, axis=2)
        tifffile.imwrite(path, values, photometric="rgb", rowsperstrip=64)
    return made


def swapped_profile() -> bytes:
    """A profile that is not sRGB: sRGB's, with red and green changed over."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmp.", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmp.", b"gXYZ", 1)


def memory(folder: Path, word: str = "") -> None:
    """One process per picture, and for the last frame of an animation."""
    print("| 100 megapixels | picture, bytes/pixel | peak above it, bytes/pixel | seconds |\n|---|---|---|---|")
    for name, path in kinds(folder, word).items():
        last = frame_count(path) - 1
        run = subprocess.run(
            [sys.executable, "-c", DECODE, path, str(last)], capture_output=True, text=True, check=True
        )
        values = json.loads(run.stdout)
        print(f"| {name} | {values['picture']:.0f} | {values['over']:.1f} | {values['seconds']:.1f} |", flush=True)


def fsync(folder: Path, count: int = 300) -> None:
    """Thumbnails of 256 x 192 pixels written with and without fsync, turn about."""
    rng = np.random.default_rng(0)
    data = encode_picture(Picture(rng.integers(0, 256, (192, 256, 3), dtype=np.uint8)), "png")
    times: dict[str, list[float]] = {"with fsync": [], "without": []}
    ways: dict[str, Callable[[int], None]] = {"with fsync": os.fsync, "without": lambda _: None}
    for index in range(count):
        for name, function in ways.items():
            with patch.object(os, "fsync", function):
                start = time.perf_counter()
                write_atomic(folder / f"{index}.png", data)
                times[name].append(time.perf_counter() - start)
    print(f"| {len(data)} bytes | median, ms | 99th percentile, ms | files per second |\n|---|---|---|---|")
    for name, seconds in times.items():
        median, high = np.percentile(seconds, (50, 99)) * 1000
        print(f"| {name} | {median:.2f} | {high:.2f} | {count / sum(seconds):.0f} |")


if __name__ == "__main__":
    whats: dict[str, Callable[..., None]] = {"memory": memory, "fsync": fsync}
    what = whats[sys.argv[1]]
    if len(sys.argv) > 2:
        what(Path(sys.argv[2]), *sys.argv[3:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            what(Path(temporary))
