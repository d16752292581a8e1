"""Speed and peak memory on this machine, down and up, beside bicubic resizing in the same run.

    python benchmarks/speed.py [--model nano-x16] [--device cpu] [--dtype float32] [--tile PIXELS]

Each size is measured in a process of its own (`faitheir.evaluation.complexity`), so that its peak memory, Python and
torch included, is its own. Times are the best of ``--repeat`` runs after one that warms up; reading and writing files
is not in them. "x bicubic" is the time over that of Pillow's bicubic resizing of the same picture.
"""

import argparse
from functools import partial

from faitheir.evaluation.complexity import best_time, complexity, sample_picture
from faitheir.images import bicubic_thumbnail, resize_bicubic
from faitheir.models import find_model, read_config

SIZES = ((768, 512), (2048, 1365), (7680, 4320))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    scale = read_config(find_model(args.model)).codec.scale
    print(
        "| megapixels | down, s | MP/s | x bicubic | up, s | MP/s | x bicubic | peak MiB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for size in SIZES:
        found = complexity(args.model, size, device=args.device, dtype=args.dtype, tile=args.tile, repeat=args.repeat)
        rgb, (width, height) = sample_picture(*size).rgb, size
        bicubic_down, small = best_time(partial(bicubic_thumbnail, rgb, scale), args.repeat)
        bicubic_up, _ = best_time(partial(resize_bicubic, small, size), args.repeat)
        down, up, pixels = found.seconds_down, found.seconds_up, width * height / 1e6
        print(
            f"| {pixels:.1f} ({width} x {height}) | {down:.2f} | {pixels / down:.2f} | {down / bicubic_down:.0f} "
            f"| {up:.2f} | {pixels / up:.2f} | {up / bicubic_up:.0f} | {found.peak_mib:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
