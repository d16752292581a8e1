"""3x3 convolutions by Winograd's algorithm beside torch's own, at the sizes of the embedded models, in one run.

    python benchmarks/convolution.py [--threads N]

Each line: the time of torch's, that of `winograd_conv3x3`, their ratio, and the largest difference of the results,
whose standard deviation is 1. Times are the best of ``--repeat``.
"""

import argparse
import math
from functools import partial

import torch
import torch.nn.functional as F

from faitheir.evaluation.complexity import best_time
from faitheir.nn.convolution import winograd_conv3x3

#: Channels in and out, and the side of the map.
CASES = (
    (256, 256, 64),
    (256, 256, 32),
    (96, 96, 128),
    (96, 256, 128),
    (64, 64, 256),
    (64, 128, 256),
    (131, 61, 64),
    (157, 32, 64),
    (32, 64, 256),
    (32, 32, 512),
)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print("| channels | side | torch, ms | Winograd, ms | ratio | difference |\n| --- | --- | --- | --- | --- | --- |")
    for inputs, outputs, side in CASES:
        x = torch.randn(1, inputs, side, side).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(outputs, inputs, 3, 3) / math.sqrt(9 * inputs)
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.randn(outputs)
        plain, expected = best_time(partial(F.conv2d, x, weight, bias, padding=1), args.repeat)
        fast, found = best_time(partial(winograd_conv3x3, x, weight, bias), args.repeat)
        print(
            f"| {inputs} -> {outputs} | {side} | {1e3 * plain:.1f} | {1e3 * fast:.1f} | {fast / plain:.2f} "
            f"| {(found - expected).abs().max():.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
