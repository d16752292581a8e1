"""What a photograph loses when its thumbnail is stored small: a model by several ways of storing, and rivals.

    python benchmarks/thumbnails.py --hr DIR --networks DIR --model nano-x16 --store png --store webp:90 --rivals

``--networks`` is the folder of alexnet_features.safetensors and vgg16_features.safetensors. Each photograph's
thumbnail goes through the file as the library writes it, metadata included, and is restored from what that file gives
back. ``--store`` may be a format (png, webp: lossless), FORMAT:QUALITY, or foreign:QUALITY, which is a bicubic
thumbnail as an ordinary JPEG. ``--sr`` enlarges the last ``--store``'s thumbnail by a super-resolution network, too,
applied until the scale is reached (for foreign thumbnails; 16x is off the range that Real-ESRGAN x4plus was trained
for). Rivals are AVIF, WebP and JPEG XL of the whole photograph in at most the bytes of the last ``--store``, reduced
first wherever that has the higher PSNR. Prints means over photographs, and on how many of them the last ``--store`` is
nearer to the original than each rival. ``--json`` keeps every figure; a run that stopped continues from it.
"""

import argparse
import io
import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from faitheir import FaithEIRPipeline, Thumbnail
from faitheir.comparison.codecs import CODECS, encode_within
from faitheir.comparison.peers import SuperResolution
from faitheir.comparison.produce import Setting
from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import psnr
from faitheir.files import find_photographs
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, read_picture, resize_bicubic
from faitheir.storage import write_atomic
from faitheir.thumbnail import ThumbnailFormat

RIVALS = {"AVIF": CODECS["avif"], "WebP": CODECS["webp"], "JPEG XL": CODECS["jpegxl"]}
DISTANCES = ("lpips_alex", "lpips_vgg", "dists")


def stored(pipeline: FaithEIRPipeline, picture: Picture, how: str) -> tuple[bytes, Thumbnail]:
    """The thumbnail's file, and the thumbnail as the file gives it back."""
    form, _, quality = how.partition(":")
    if form == "foreign":
        data = io.BytesIO()
        small = Image.fromarray(bicubic_thumbnail(picture.rgb, pipeline.scale))
        small.save(data, "jpeg", quality=int(quality))
        return data.getvalue(), Thumbnail.decode(data.getvalue())
    file = pipeline.downscale_picture(picture).encode(
        cast(ThumbnailFormat, form), quality=int(quality) if quality else None, lossless=None if quality else True
    )
    return file, Thumbnail.decode(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, help="folder of photographs")
    parser.add_argument("--networks", required=True, type=Path, help="folder of the measures' networks")
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--store", action="append", required=True, metavar="FORMAT[:QUALITY]")
    parser.add_argument("--fidelity", type=float, default=0.0)
    parser.add_argument("--rivals", action="store_true", help="codecs in the bytes of the last --store, too")
    parser.add_argument("--sr", help="checkpoint of a super-resolution network that spandrel knows")
    parser.add_argument("--count", type=int, help="only this many photographs, spread over the folder")
    parser.add_argument("--prefix", default="", help="only photographs whose names begin so")
    parser.add_argument("--quick", action="store_true", help="PSNR and LPIPS (alex) only")
    parser.add_argument("--json", type=Path, required=True, help="file of all figures")
    args = parser.parse_args()

    files = {"alexnet": args.networks / "alexnet_features.safetensors"}
    files["vgg16"] = args.networks / "vgg16_features.safetensors"
    names = DISTANCES[:1] if args.quick else DISTANCES
    metrics = {name: picture_metric(name, weights=files) for name in names}
    pipeline = FaithEIRPipeline.from_pretrained(args.model, fidelity=args.fidelity)
    network = SuperResolution(args.sr, Setting(scale=pipeline.scale)) if args.sr else None
    if network:
        network.prepare({}, Path())
    paths = [path for path in find_photographs(args.hr) if path.name.startswith(args.prefix)]
    if args.count:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(args.count, len(paths))).astype(int)]
    rows: dict[str, dict[str, dict[str, float]]] = json.loads(args.json.read_text()) if args.json.is_file() else {}

    def figures(original: UInt8Array, restored: UInt8Array, size: int) -> dict[str, float]:
        found = {"bytes": float(size), "psnr": psnr(original, restored)}
        return found | {name: metric(original, restored) for name, metric in metrics.items()}

    for path in tqdm([p for p in paths if p.name not in rows], disable=None):
        picture = read_picture(path)
        picture = Picture(picture.rgb)
        original = picture.rgb
        row: dict[str, dict[str, float]] = {}
        for how in args.store:
            file, thumbnail = stored(pipeline, picture, how)
            restored = pipeline.upscale_thumbnail(thumbnail).rgb[: picture.height, : picture.width]
            row[how] = figures(original, restored, len(file))
            if how == args.store[0]:
                small = bicubic_thumbnail(original, pipeline.scale)
                row[how]["thumbnail_psnr"] = psnr(small, thumbnail.picture.rgb)
                large = (small.shape[1] * pipeline.scale, small.shape[0] * pipeline.scale)
                enlarged = resize_bicubic(small, large)[: picture.height, : picture.width]
                row["bicubic"] = figures(original, enlarged, 0)
        if network:
            enlarged = network.large("", thumbnail.picture.rgb, (picture.height, picture.width))
            row["sr"] = figures(original, enlarged[: picture.height, : picture.width], 0)
        if args.rivals:
            for name, codec in RIVALS.items():
                coded = encode_within(codec(), original, len(file), freely=True)
                row[name] = figures(original, coded.restored, len(coded.data))
        rows[path.name] = row
        write_atomic(args.json, json.dumps(rows).encode())

    chosen = [rows[path.name] for path in paths]
    print(f"{pipeline!r}\nmeans of {len(chosen)} photographs\n")
    keys = ["bytes", "psnr", *names]
    print("| stored as | " + " | ".join(keys) + " |\n| --- |" + " --- |" * len(keys))
    for how in chosen[0]:
        means = [float(np.mean([row[how][key] for row in chosen])) for key in keys]
        print(f"| {how} | " + " | ".join(f"{value:,.{0 if value > 100 else 3}f}" for value in means) + " |")
    against_bicubic = np.mean([row[args.store[0]]["thumbnail_psnr"] for row in chosen])
    print(f"\nthumbnail against bicubic: {against_bicubic:.2f} dB")
    last = args.store[-1]
    for rival in {*RIVALS, "sr"} & set(chosen[0]):
        wins = [f"{key} {sum(row[last][key] < row[rival][key] for row in chosen)}" for key in names]
        print(f"{last} is nearer than {rival}: " + ", ".join(wins) + f" of {len(chosen)}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
