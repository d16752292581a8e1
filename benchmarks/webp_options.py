"""What options of libwebp change in the bytes of a thumbnail, at equal PSNR.

    python benchmarks/webp_options.py FOLDER [--count 25] [--qualities 30 60 85 95]

Bicubic thumbnails, 16x smaller, of photographs spread over FOLDER, in two groups: up to 50 pixels a side, and above.
Each is stored by cwebp with one segment at method 6 and at each quality; then with each option at the quality that
gives the same PSNR, between the two nearest by a straight line over log bytes. Means over the thumbnails.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from faitheir.evaluation.metrics import psnr
from faitheir.files import find_photographs
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, read_picture, write_picture

OPTIONS = {"sharp YUV": ("-sharp_yuv",), "no loop filter": ("-f", "0"), "no noise shaping": ("-sns", "0")}


def stored(rgb: UInt8Array, quality: float, options: tuple[str, ...], folder: Path) -> tuple[float, int]:
    """PSNR and bytes."""
    source, file = folder / "small.png", folder / "small.webp"
    write_picture(source, Picture(rgb))
    words = ["cwebp", "-quiet", "-segments", "1", "-m", "6", "-q", str(quality), *options, str(source), "-o", str(file)]
    subprocess.run(words, check=True)
    return psnr(rgb, read_picture(file).rgb), file.stat().st_size


def change(rgb: UInt8Array, quality: float, options: tuple[str, ...], folder: Path) -> float:
    """By which share the bytes grow."""
    wanted, plain = stored(rgb, quality, (), folder)
    low, high = 0.0, 100.0
    below, above = stored(rgb, low, options, folder), stored(rgb, high, options, folder)
    for _ in range(8):
        middle = (low + high) / 2
        point = stored(rgb, middle, options, folder)
        if point[0] < wanted:
            low, below = middle, point
        else:
            high, above = middle, point
    size = np.exp(np.interp(wanted, (below[0], above[0]), np.log((below[1], above[1]))))
    return float(size) / plain - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=25)
    parser.add_argument("--qualities", type=float, nargs="+", default=[30, 60, 85, 95])
    args = parser.parse_args()
    paths = find_photographs(args.folder)
    chosen = (paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths))).astype(int))
    groups: dict[str, list[UInt8Array]] = {}
    for path in chosen:
        small = bicubic_thumbnail(read_picture(path).rgb, 16)
        groups.setdefault("above 50 pixels" if max(small.shape) > 50 else "up to 50 pixels", []).append(small)
    print("| thumbnails | quality | " + " | ".join(OPTIONS) + " |\n| --- | --- |" + " --- |" * len(OPTIONS))
    with tempfile.TemporaryDirectory() as folder:
        for name, group in groups.items():
            for quality in args.qualities:
                changes = (np.mean([change(x, quality, o, Path(folder)) for x in group]) for o in OPTIONS.values())
                cells = " | ".join(f"{100 * value:+.1f} %" for value in changes)
                print(f"| {len(group)} {name} | {quality:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
