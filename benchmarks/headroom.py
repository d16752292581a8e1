"""How much nearer a thumbnail could bring back its photograph, with the model that restores it as it is.

    python benchmarks/headroom.py --hr DIR --networks DIR --store lossless --store avif:60 --steps 20

From each photograph's own thumbnail on, the thumbnail's pixels alone are optimised by the losses that nano-x16 was
trained with (``configs/nano-x16-codec.toml``, its stage "avif"), through the file that is stored. What that gains, an
encoder half could gain in part. LPIPS (vgg) and DISTS rest on a network that the losses do not know. Prints means over
the middles of photographs, before and after. ``--networks`` is the folder of the losses' and the measures' networks.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from faitheir import FaithEIRPipeline, Thumbnail, ThumbnailInfo
from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import psnr
from faitheir.files import find_photographs
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, read_picture
from faitheir.nn.codec import Reconstruction
from faitheir.nn.quantize import quantize_8bit
from faitheir.training.config import FeatureLossConfig, LossConfig, LossyConfig, LossyFormat
from faitheir.training.losses import Objective
from faitheir.training.lossy import LossyStorage

#: Network -> its file, and its share in the losses.
NETWORKS = {
    "squeezenet": ("squeezenet1_0.safetensors", 1.0),
    "taesana": ("taesana_encoder.safetensors", 1.0),
    "alexnet": ("alexnet_features.safetensors", 0.85),
    "efficientnet_lite0": ("efficientnet_lite0.safetensors", 1.0),
}


def objective(folder: Path, *, rate: float, perceptual: bool) -> Objective:
    """The stage's losses; with ``rate`` for what lossy files cost. Not ``perceptual``: the squared error alone."""
    features = tuple(
        FeatureLossConfig(network=name, weights=str(folder / file), share=share)  # type: ignore[arg-type]
        for name, (file, share) in NETWORKS.items()
    )
    config = LossConfig(
        guidance=850.0 if perceptual else 300.0,
        guidance_norm="l2",
        pixel=90.0 if perceptual else 200.0,
        pixel_norm="l2",
        feature=1.5 if perceptual else 0.0,
        texture=3.2 if perceptual else 0.0,
        rate=rate,
        semantic=0.0,
        features=features,
    )
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

    pipeline = FaithEIRPipeline.from_pretrained(args.model, dtype="auto", fidelity=args.fidelity)
    model = pipeline.model.requires_grad_(False)
    files = {"alexnet": args.networks / NETWORKS["alexnet"][0], "vgg16": args.networks / "vgg16_features.safetensors"}
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
        loss = objective(args.networks, rate=0.9 if quality else 0.0, perceptual=not args.fidelity)
        before, after = [], []
        for path in tqdm(paths, disable=None):
            rgb = middle(read_picture(path).rgb, args.side, model.size_multiple)
            x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
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
