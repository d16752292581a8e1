"""How many crops per second one core loads: from files, from shards, from packed crops, and with reduced decoding.

    python benchmarks/loader.py --train DIR [--crop 224] [--count 300]

All kinds are measured side by side in this process, on one thread, over the same photographs; each line gives crops per
second and the ratio to plain files. What it must be held against is the crops per second in a run's log.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from faitheir.training.config import DataConfig
from faitheir.training.data import CropDataset
from faitheir.training.pack import pack


def rate(config: DataConfig, count: int) -> float:
    """Crops per second, the first few aside."""
    dataset = CropDataset(config, seed=0)
    for n in range(5):
        dataset[n]
    started = time.perf_counter()
    for n in range(5, 5 + count):
        dataset[n]
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="folder of photographs")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--count", type=int, default=300, help="crops of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards, crops = Path(folder) / "shards", Path(folder) / "crops"
        pack(args.train, shards)
        packed = pack(args.train, crops, crop=args.crop, crops=2)
        plain = {"crop": args.crop, "shrink_min": 0.4}
        kinds = {
            "files": DataConfig(train=args.train, **plain, draft=False),
            "files, shrunk to 0.2..1": DataConfig(
                train=args.train, crop=args.crop, shrink=1.0, shrink_min=0.2, draft=False
            ),
            "the same, reduced decoding": DataConfig(train=args.train, crop=args.crop, shrink=1.0, shrink_min=0.2),
            "shards": DataConfig(train=str(shards), **plain, draft=False),
            "packed crops, as they are": DataConfig(train=str(crops), crop=args.crop, shrink=0.0),
            "files, second pass of a cache": DataConfig(train=args.train, **plain, cache=True),
        }
        first = 0.0
        print(f"{packed.members} crops of {args.crop} packed in {packed.bytes:,} bytes")
        print("| | crops per second and core | over files |\n| --- | --- | --- |")
        for name, config in kinds.items():
            speed = rate(config, args.count) if not config.cache else cached_rate(config, args.count)
            first = first or speed
            print(f"| {name} | {speed:.0f} | {speed / first:.2f} |", flush=True)


def cached_rate(config: DataConfig, count: int) -> float:
    """Crops per second once every photograph is in memory."""
    dataset = CropDataset(config, seed=0)
    for n in range(len(dataset)):
        dataset[n]
    started = time.perf_counter()
    for n in range(len(dataset), len(dataset) + count):
        dataset[n]
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
