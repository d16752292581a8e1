"""Upscaling where freed memory is kept (`faitheir.memory`), as the command line does it, over upscaling where not.

    python benchmarks/memory.py [--model nano-x16] [--dtype float32] [--size 2040x1356] [--rounds 3]

Processes take turns, one that keeps and one that does not, for each round; in each the first upscaling, which a user of
the command line waits for, and the best of four more. Ratios below 1 speak for keeping.
"""

import argparse
import json
import subprocess
import sys
from statistics import median

PROGRAM = """
import json, sys, time
from faitheir import FaithEIRPipeline
from faitheir.evaluation.complexity import peak_mib, sample_picture
from faitheir.memory import keep_freed_memory

keep, model, dtype, width, height = json.loads(sys.argv[1])
if keep:
    keep_freed_memory()
pipeline = FaithEIRPipeline.from_pretrained(model, dtype=dtype)
thumbnail = pipeline.downscale_picture(sample_picture(width, height))
times = []
for _ in range(5):
    started = time.perf_counter()
    pipeline.upscale_thumbnail(thumbnail)
    times.append(time.perf_counter() - started)
print(json.dumps((times[0], min(times[1:]), peak_mib(pipeline.device))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", default="2040x1356")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    size = [int(side) for side in args.size.split("x")]
    found: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for _ in range(args.rounds):
        for keep, runs in found.items():
            request = json.dumps((keep, args.model, args.dtype, *size))
            done = subprocess.run([sys.executable, "-c", PROGRAM, request], capture_output=True, text=True, check=True)
            runs.append(tuple(json.loads(done.stdout)))
    print("| | kept | given back | ratio |\n| --- | --- | --- | --- |")
    for i, (name, digits) in enumerate((("first, s", 2), ("later, s", 2), ("peak, MiB", 0))):
        kept, left = (median(run[i] for run in found[keep]) for keep in (True, False))
        print(f"| {name} | {kept:.{digits}f} | {left:.{digits}f} | {kept / left:.2f} |")


if __name__ == "__main__":
    main()
