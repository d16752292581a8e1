"""Small but real measurements: pictures on disk that were thumbnails or JPEG in between, and their PSNR and SSIM."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from faitheir.evaluation.metrics import psnr, ssim
from faitheir.evaluation.results import PictureResult, SystemResult, means
from faitheir.images import Picture, bicubic_thumbnail, encode_picture, read_picture, resize_bicubic, write_picture


def photograph(width: int, height: int, seed: int = 0) -> Picture:
    """Waves, a hard edge and noise."""
    x, y = np.linspace(0, 3, width)[None, :], np.linspace(0, 2, height)[:, None]
    waves = np.stack([np.sin(x + y + seed), np.cos(x - y), np.sin(2 * x * y + seed)], axis=2)
    waves[height // 3 : height // 2, width // 4 : width // 2] *= -1
    noise = np.random.default_rng(seed).normal(0, 4 + 4 * seed, (height, width, 3))
    return Picture(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


def measure(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> list[SystemResult]:
    """Results of "bicubic" (16x, with thumbnails) and "jpeg" (lowest quality) over photographs made for it."""
    rows: dict[str, list[PictureResult]] = {"bicubic": [], "jpeg": []}
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        paths = {kind: folder / kind / f"{name}.png" for kind in ("hr", "thumbnails", "bicubic", "jpeg")}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        original = photograph(width, height, seed)
        write_picture(paths["hr"], original)
        thumbnail = bicubic_thumbnail(original.rgb, 16)
        write_picture(paths["thumbnails"], Picture(thumbnail))
        large = resize_bicubic(thumbnail, (thumbnail.shape[1] * 16, thumbnail.shape[0] * 16))[:height, :width]
        write_picture(paths["bicubic"], Picture(large))
        data = encode_picture(original, "jpg", quality=1)
        write_picture(paths["jpeg"], Picture(np.array(Image.open(io.BytesIO(data)))))
        stored = {"bicubic": paths["thumbnails"].stat().st_size, "jpeg": len(data)}
        for system, size in stored.items():
            rgb = read_picture(paths[system]).rgb
            values = {"psnr": psnr(original.rgb, rgb), "ssim": ssim(original.rgb, rgb)}
            values |= {"bytes": float(size), "bits_per_pixel": 8 * size / (width * height)}
            small = str(paths["thumbnails"]) if system == "bicubic" else None
            files = (str(paths["hr"]), small, str(paths[system]))
            rows[system].append(PictureResult(name, width, height, values, None, *files))
    kinds = {"bicubic": ("resampling", 16), "jpeg": ("codec", None)}
    return [
        SystemResult(name, kind, "paper", scale, tuple(rows[name]), means(row.values for row in rows[name]))  # type: ignore[arg-type]
        for name, (kind, scale) in kinds.items()
    ]
