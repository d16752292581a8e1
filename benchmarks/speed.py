"""Speed and peak memory on this machine, down and up, beside bicubic resizing in the same run.

    python benchmarks/speed.py [--model nano-x16] [--device cpu] [--dtype float32] [--tile PIXELS]

Each size runs in a process of its own, so that its peak memory (the process's largest resident set, Python and torch
included) is its own. Times are the best of ``--repeat`` runs after one that warms up; reading and writing files is not
in them. "x bicubic" is the time over that of Pillow's bicubic resizing of the same picture.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = ((768, 512), (2048, 1365), (7680, 4320))


def best(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Seconds of the fastest of ``repeat`` runs, and the result."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def measure(args: argparse.Namespace) -> None:
    """One size, in this process: prints a row."""
    import numpy as np

    from faitheir.images import Picture, bicubic_thumbnail, resize_bicubic
    from faitheir.pipeline import FaithEIRPipeline

    pipeline = FaithEIRPipeline.from_pretrained(args.model, device=args.device, dtype=args.dtype, tile=args.tile)
    width, height = args.one
    coarse = np.random.default_rng(0).integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
    picture = Picture(resize_bicubic(coarse, (width, height)))
    pipeline.upscale_thumbnail(pipeline.downscale_picture(Picture(picture.rgb[:512, :512].copy())))
    down, thumbnail = best(lambda: pipeline.downscale_picture(picture), args.repeat)
    up, _ = best(lambda: pipeline.upscale_thumbnail(thumbnail), args.repeat)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    bicubic_down, small = best(lambda: bicubic_thumbnail(picture.rgb, pipeline.scale), args.repeat)
    bicubic_up, _ = best(lambda: resize_bicubic(small, (width, height)), args.repeat)
    pixels = width * height / 1e6
    print(
        f"| {pixels:.1f} ({width} x {height}) | {down:.2f} | {pixels / down:.2f} | {down / bicubic_down:.0f} "
        f"| {up:.2f} | "
        f"{pixels / up:.2f} | {up / bicubic_up:.0f} | {peak:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--one", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args)
        return
    print(
        "| megapixels | down, s | MP/s | x bicubic | up, s | MP/s | x bicubic | peak MiB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for width, height in SIZES:
        subprocess.run([sys.executable, *sys.argv, "--one", str(width), str(height)], check=True)


if __name__ == "__main__":
    main()
