"""What the perceptual distance and its gradient take, beside the same composed of torch's operations.

    python benchmarks/distance.py --squeezenet squeezenet1_0.safetensors [--crop 224] [--batch 8] [--repeat 5]

As in training: bfloat16 where the processor has it, a gradient for one of the two pictures, channels last. The
network's own time is in both. Ratios are of the best of ``--repeat`` runs, taken in turn.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from faitheir.devices import native_bfloat16
from faitheir.features import FeatureNetwork, feature_distance, load_feature_network


def composed(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """``feature_distance`` as one would write it."""
    total = torch.zeros(len(a))
    for fa, fb in zip(network(a), network(b), strict=True):
        units = [f / (f.square().sum(1, keepdim=True) + 1e-20).sqrt() for f in (fa.float(), fb.float())]
        total = total + (units[0] - units[1]).square().sum(1).mean((1, 2))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squeezenet", required=True, help="squeezenet1_0.safetensors")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    network = load_feature_network("squeezenet", args.squeezenet).to(memory_format=torch.channels_last)
    size = (args.batch, 3, args.crop, args.crop)
    a, b = (torch.rand(size).to(memory_format=torch.channels_last) for _ in range(2))
    a.requires_grad_()
    half = native_bfloat16(torch.device("cpu"))
    ways: dict[str, Callable[[], Tensor]] = {
        "composed": lambda: composed(network, a, b),
        "ours": lambda: feature_distance(network, a, b),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(args.repeat + 1):  # the first warms up, and is never the best
        for name, way in ways.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = way().mean()
            torch.autograd.backward(loss)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{args.batch} crops of {args.crop}, {'bfloat16' if half else 'float32'}, {torch.get_num_threads()} threads")
    for name, seconds in best.items():
        print(f"{name:<14} {seconds:.3f} s   {seconds / best['composed']:.2f} of composed")


if __name__ == "__main__":
    main()
