"""What a model card reports: a model against bicubic at the same scale, over a folder of photographs.

    python benchmarks/quality.py --hr DIR --squeezenet squeezenet1_0.safetensors [--model nano-x16] [--fidelity 0..1]

Every photograph goes through the thumbnail file on disk (PNG, and lossless WebP for the bytes). Figures are means
over photographs; the ratio of perceptual distances is that of the means. "Lattice" is that of
`faitheir.evaluation.lattice`: 1 is no pattern. "Regularity" is that of `faitheir.training.losses`: the nearer to the
original's, the less weave. `faitheir compare` puts more systems side by side, under a protocol.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faitheir.evaluation.lattice import error_spectra, lattice
from faitheir.evaluation.measures import to_tensor
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.features import feature_distance, load_feature_network
from faitheir.files import find_photographs
from faitheir.images import Picture, bicubic_thumbnail, read_picture, resize_bicubic
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail
from faitheir.training.losses import regularity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, help="folder of photographs")
    parser.add_argument("--squeezenet", required=True, help="squeezenet1_0.safetensors")
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fidelity", type=float, default=0.0)
    parser.add_argument("--count", type=int, help="only this many photographs, spread over the folder")
    args = parser.parse_args()

    network = load_feature_network("squeezenet", args.squeezenet)
    pipeline = FaithEIRPipeline.from_pretrained(args.model, dtype=args.dtype, fidelity=args.fidelity)
    paths = find_photographs(args.hr)
    if args.count:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, args.count).astype(int)]
    scale, cpu = pipeline.scale, torch.device("cpu")
    rows: list[dict[str, float]] = []
    spectra: dict[str, list[np.ndarray]] = {"ours": [], "bicubic": []}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for path in tqdm(paths, disable=None):
            picture = read_picture(path)
            original = picture.rgb
            file = Path(folder) / "thumbnail.png"
            pipeline.downscale_picture(picture).save(file)
            thumbnail = Thumbnail.open(file)
            reference = bicubic_thumbnail(original, scale)
            padded = (reference.shape[1] * scale, reference.shape[0] * scale)
            restored = {
                "ours": pipeline.upscale_thumbnail(thumbnail).rgb,
                "bicubic": resize_bicubic(reference, padded)[: picture.height, : picture.width],
            }
            row = {
                "thumbnail_psnr": psnr(reference, thumbnail.picture.rgb),
                "thumbnail_bytes": float(len(Thumbnail(thumbnail.picture, None).encode("webp"))),
                "bicubic_thumbnail_bytes": float(
                    len(Thumbnail(Picture(reference, icc_profile=picture.icc_profile), None).encode("webp"))
                ),
                "bits_per_pixel": 8 * file.stat().st_size / (picture.width * picture.height),
            }
            for name, rgb in {"original": original, **restored}.items():
                row[f"regularity_{name}"] = float(regularity(to_tensor(rgb, cpu)).mean())
            for name, rgb in restored.items():
                row[f"psnr_{name}"] = psnr(original, rgb)
                row[f"ssim_{name}"] = ssim(original, rgb)
                row[f"distance_{name}"] = float(
                    feature_distance(network, to_tensor(rgb, cpu), to_tensor(original, cpu))
                )
                spectra[name].append(error_spectra(original, rgb, scale))
            rows.append(row)
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    mean["psnr_gain"] = mean["psnr_ours"] - mean["psnr_bicubic"]
    mean["distance_ratio"] = mean["distance_ours"] / mean["distance_bicubic"]
    mean["thumbnail_bytes_ratio"] = mean["thumbnail_bytes"] / mean["bicubic_thumbnail_bytes"]
    for name, values in spectra.items():
        mean[f"lattice_{name}"] = lattice(values, scale)
    report = {"model": pipeline.name, "weights": pipeline.weights, "photographs": len(paths), **mean}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
