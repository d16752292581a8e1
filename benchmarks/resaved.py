"""What is lost when a thumbnail file was saved again by another program.

    python benchmarks/resaved.py --hr DIR --squeezenet squeezenet1_0.safetensors [--model nano-x16] [--count 40]

Each photograph's thumbnail goes through no more than the loss of its metadata, or through JPEG at quality 95, 90 and 75
(4:2:0, as programs save by default) or twice at 90. What is restored from each is measured against the original: PSNR,
and perceptual distance over that of bicubic. The last rows are a bicubic thumbnail through the same, enlarged
bicubically.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from faitheir.evaluation.measures import to_tensor
from faitheir.evaluation.metrics import psnr
from faitheir.features import feature_distance, load_feature_network
from faitheir.files import find_photographs
from faitheir.images import UInt8Array, bicubic_thumbnail, read_picture, resize_bicubic
from faitheir.pipeline import FaithEIRPipeline


def jpeg(quality: int, times: int = 1) -> Callable[[UInt8Array], UInt8Array]:
    def save(rgb: UInt8Array) -> UInt8Array:
        for _ in range(times):
            data = io.BytesIO()
            Image.fromarray(rgb).save(data, "jpeg", quality=quality)
            rgb = np.asarray(Image.open(data))
        return rgb

    return save


WAYS: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "as it was written": lambda rgb: rgb,
    "JPEG, quality 95": jpeg(95),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 90, twice": jpeg(90, 2),
    "JPEG, quality 75": jpeg(75),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, help="folder of photographs")
    parser.add_argument("--squeezenet", required=True, help="squeezenet1_0.safetensors")
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--count", type=int, help="only this many photographs, spread over the folder")
    parser.add_argument("--pictures", type=Path, help="leave the restored pictures in this folder")
    args = parser.parse_args()

    network = load_feature_network("squeezenet", args.squeezenet)
    pipeline = FaithEIRPipeline.from_pretrained(args.model)
    paths = find_photographs(args.hr)
    if args.count:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths))).astype(int)]
    cpu = torch.device("cpu")
    rows: dict[str, list[tuple[float, float]]] = {}

    def note(way: str, path: Path, restored: UInt8Array, original: UInt8Array) -> None:
        distance = float(feature_distance(network, to_tensor(restored, cpu), to_tensor(original, cpu)))
        rows.setdefault(way, []).append((psnr(original, restored), distance))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            Image.fromarray(restored).save(
                args.pictures / f"{path.stem}.{way.replace(', ', '-').replace(' ', '-')}.png"
            )

    with torch.inference_mode():
        for path in tqdm(paths, disable=None):
            picture = read_picture(path)
            height, width = picture.height, picture.width
            small = pipeline.downscale_picture(picture).picture.rgb
            reference = bicubic_thumbnail(picture.rgb, pipeline.scale)
            full = (reference.shape[1] * pipeline.scale, reference.shape[0] * pipeline.scale)
            for way, save in WAYS.items():
                # An array has no metadata: what comes back is the thumbnail's size times the scale.
                large = np.asarray(pipeline.upscale(save(small), output_type="np"))
                note(way, path, np.ascontiguousarray(large[:height, :width]), picture.rgb)
            for way in ("as it was written", "JPEG, quality 90"):
                large = resize_bicubic(WAYS[way](reference), full)
                note(f"bicubic: {way}", path, np.ascontiguousarray(large[:height, :width]), picture.rgb)

    base = np.mean([distance for _, distance in rows["bicubic: as it was written"]])
    print(
        f"{args.model}, {len(paths)} photographs\n\n| thumbnail | PSNR | distance over bicubic's |\n| --- | --- | --- |"
    )
    for way, values in rows.items():
        mean, distance = np.mean(values, axis=0)
        print(f"| {way} | {mean:.2f} dB | {distance / base:.3f} |")


if __name__ == "__main__":
    main()
