"""Restored pictures under measures that nothing here is trained on, and that need no weights.

    pip install piq
    faitheir compare --hr DIR --methods nano-x16,nano-x16@1,bicubic,avif@bytes ... -o OUT
    python benchmarks/measures.py --hr DIR OUT/*/restored

FSIMc, VSI, HaarPSI and MS-SSIM (1 is the same picture), GMSD and MDSI (0 is), as piq (Apache-2.0) has them, on RGB in
[0, 1]; sides are to have 161 pixels or more. Means over the photographs, paired by name as `faitheir evaluate` does.
"""

import argparse
from pathlib import Path

import piq
import torch

from faitheir.evaluation.measures import to_tensor
from faitheir.evaluation.pairs import list_originals, pair
from faitheir.images import read_picture

MEASURES = {
    "FSIMc ↑": piq.fsim,
    "VSI ↑": piq.vsi,
    "HaarPSI ↑": piq.haarpsi,
    "MS-SSIM ↑": piq.multi_scale_ssim,
    "GMSD ↓": piq.gmsd,
    "MDSI ↓": piq.mdsi,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", type=Path, required=True, help="folder of the originals")
    parser.add_argument("restored", type=Path, nargs="+", help="folders of restored pictures")
    args = parser.parse_args()
    cpu = torch.device("cpu")
    originals = list_originals(args.hr)
    print(f"| {len(originals)} photographs | {' | '.join(MEASURES)} |\n| --- |{' --- |' * len(MEASURES)}")
    for folder in args.restored:
        rows = []
        for name, output in pair(originals, folder).items():
            restored, original = (to_tensor(read_picture(p).rgb, cpu) for p in (output.restored, originals[name]))
            with torch.inference_mode():
                rows.append([float(measure(restored, original)) for measure in MEASURES.values()])
        means = torch.tensor(rows).mean(0).tolist()
        print(f"| {folder} | {' | '.join(f'{value:.4f}' for value in means)} |", flush=True)


if __name__ == "__main__":
    main()
