"""How much nearer a thumbnail could bring back its photograph, with the model that restores it as it is.

    python benchmarks/headroom.py --hr DIR --networks DIR --store lossless --store avif:60 --steps 20

From each photograph's own thumbnail on, the thumbnail's pixels alone are optimised by the losses that nano-x16 was
trained with (``configs/nano-x16-codec.toml``, its stage "avif"), through the file that is stored. What that gains, an
encoder half could gain in part. LPIPS (vgg) and DISTS rest on a network that the losses do not know. Prints means over
the middles of photographs, before and after. ``--networks`` is the folder of the losses' and the measures' networks.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from faitheir import FaithEIRPipeline, Thumbnail, ThumbnailInfo
from faitheir.evaluation.measures import picture_metric, to_tensor
from faitheir.evaluation.metrics import psnr
from faitheir.files import find_photographs
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, read_picture
from faitheir.nn.codec import Reconstruction
from faitheir.nn.quantize import quantize_8bit
from faitheir.training.config import LossyConfig, LossyFormat, load_train_config
from faitheir.training.losses import Objective
from faitheir.training.lossy import LossyStorage

RECIPE = Path(__file__).parents[1] / "configs" / "nano-x16-codec.toml"

#: Files of the losses' networks, below --networks.
NETWORKS = {
    "squeezenet": "squeezenet1_0.safetensors",
    "taesana": "taesana_encoder.safetensors",
    "alexnet": "alexnet_features.safetensors",
    "efficientnet_lite0": "efficientnet_lite0.safetensors",
}


def objective(folder: Path, *, priced: bool, perceptual: bool) -> Objective:
    """The stage's losses, bits only where ``priced``; not ``perceptual``: squared error and the thumbnail's looks."""
    config = load_train_config(RECIPE, only="avif").losses
    features = tuple(replace(f, weights=str(folder / NETWORKS[f.network])) for f in config.features)
    config = replace(config, semantic=0.0, features=features, rate=config.rate if priced else 0.0)
    if not perceptual:
        config = replace(config, feature=0.0, texture=0.0, guidance=300.0, pixel=200.0)
    return Objective(config, 0, tokens=False)


def middle(rgb: UInt8Array, side: int, multiple: int) -> UInt8Array:
    """The middle of a photograph, of sides that the thumbnail needs no padding for."""
    height, width = (min(side, n) // multiple * multiple for n in rgb.shape[:2])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, help="folder of photographs")
    parser.add_argument("--networks", required=True, type=Path)
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--store", action="append", required=True, metavar="lossless|avif:QUALITY")
    parser.add_argument("--fidelity", type=float, default=0.0, help="above 0, squared error is all that counts")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.25, help="levels of 255 by which the first step moves a pixel")
    parser.add_argument("--count", type=int, default=6, help="photographs, spread over the folder")
    parser.add_argument("--side", type=int, default=384, help="side of their middles")
    args = parser.parse_args()
    torch.manual_seed(0)  # where the losses look is drawn

    pipeline = FaithEIRPipeline.from_pretrained(args.model, dtype="auto", fidelity=args.fidelity)
    model = pipeline.model.requires_grad_(False)
    files = {"alexnet": args.networks / NETWORKS["alexnet"], "vgg16": args.networks / "vgg16_features.safetensors"}
    metrics = {name: picture_metric(name, weights=files) for name in ("lpips_alex", "lpips_vgg", "dists")}
    paths = list(find_photographs(args.hr))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths))).astype(int)]

    def figures(rgb: UInt8Array, y: Tensor, quality: int | None) -> list[float]:
        levels = (255 * quantize_8bit(y)[0].permute(1, 2, 0)).round().byte().numpy()
        info = ThumbnailInfo(pipeline.scale, rgb.shape[1], rgb.shape[0], pipeline.weights)
        data = Thumbnail(Picture(levels), info).encode(
            "webp" if quality is None else "avif", quality=quality, lossless=quality is None
        )
        back = Thumbnail.decode(data)
        restored = pipeline.upscale_thumbnail(back).rgb
        looks = psnr(bicubic_thumbnail(rgb, pipeline.scale), back.picture.rgb)
        return [len(data), psnr(rgb, restored), looks, *(metric(rgb, restored) for metric in metrics.values())]

    print("| stored as | steps | bytes | PSNR | thumbnail PSNR | LPIPS alex | LPIPS vgg | DISTS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for how in args.store:
        form, _, number = how.partition(":")
        quality = int(number) if number else None
        drawn = LossyFormat(format=form, share=1.0, **({"quality": (quality, quality)} if quality else {}))
        store = LossyStorage(LossyConfig(formats=(drawn,)))
        loss = objective(args.networks, priced=quality is not None, perceptual=not args.fidelity)
        before, after = [], []
        for path in tqdm(paths, disable=None):
            rgb = middle(read_picture(path).rgb, args.side, model.size_multiple)
            x = to_tensor(rgb, pipeline.device)
            with torch.no_grad():
                y = model.project(x).clamp(0, 1)
            before.append(figures(rgb, y, quality))
            y.requires_grad_(True)
            adam = torch.optim.Adam([y], betas=(0.9, 0.95))
            for step in range(args.steps):
                adam.param_groups[0]["lr"] = args.rate / 255 * (1 + math.cos(math.pi * step / args.steps)) / 2
                thumbnail = quantize_8bit(y)
                stored = store(thumbnail, x)
                picture = model.upscale(stored.thumbnails, fidelity=args.fidelity)
                total, _ = loss(x, Reconstruction(thumbnail, picture, None, None, stored.bits))
                adam.zero_grad()
                total.backward()
                adam.step()
                with torch.no_grad():
                    y.clamp_(0, 1)
            after.append(figures(rgb, y.detach(), quality))
        for steps, rows in ((0, before), (args.steps, after)):
            size, error, looks, *distances = np.mean(rows, 0)
            shown = " | ".join(f"{value:.3f}" for value in distances)
            print(f"| {how} | {steps} | {size:,.0f} | {error:.2f} dB | {looks:.1f} dB | {shown} |")


if __name__ == "__main__":
    main()
