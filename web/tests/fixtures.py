"""What the tests of the browser compare with: a model, its thumbnails, and what Python makes of them.

    python fixtures.py FOLDER [MODEL]

MODEL: a name or a folder; by default a tiny random model.
"""

import json
import sys
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from faitheir import FaithEIRPipeline, Thumbnail  # noqa: E402
from faitheir.export.files import export  # noqa: E402
from faitheir.images import Picture  # noqa: E402
from tiny import model_config, tiny, wake  # noqa: E402

#: Pixels a side: small, so that small pictures have several.
TILE = 256
#: Photographs of scikit-image, their width and height, which are odd; the last is one tile.
PHOTOS = (("coffee", 599, 397), ("astronaut", 333, 511), ("chelsea", 251, 167))
FORMATS = (("png", None), ("webp", None), ("webp", 90), ("avif", 80), ("jpg", 85))


def main(folder: Path, name: str | None = None) -> None:
    """Write model/, its decoder half in models/, thumbnails and what they restore to, and expected.json, their list."""
    folder.mkdir(parents=True, exist_ok=True)
    if name is None:
        nano = {"grain": 2}
        model = wake(tiny(nano, scale=16), std=0.03)
        pipeline = FaithEIRPipeline(model, model_config(nano, scale=16), tile=TILE)
    else:
        pipeline = FaithEIRPipeline.from_pretrained(name, tile=TILE)
    pipeline.save_pretrained(folder / "model")
    export(pipeline, folder / "models", halves=["up"], precisions=["fp32", "fp16"])
    expected = {}

    def add(name: str, thumbnail: Thumbnail, data: bytes) -> None:
        (folder / name).write_bytes(data)
        stored = Thumbnail.decode(data)
        restored = pipeline.upscale_thumbnail(stored)
        assert stored.info == thumbnail.info
        (folder / f"{name}.levels").write_bytes(_rgba(stored.picture))
        (folder / f"{name}.restored").write_bytes(_rgba(restored))
        info = stored.info
        assert info is not None
        expected[name] = {
            "scale": info.scale,
            "width": info.width,
            "height": info.height,
            "weights": info.weights,
            "thumbnail": [stored.picture.width, stored.picture.height],
            "opaque": stored.picture.alpha is None,
        }

    for number, (photo, width, height) in enumerate(PHOTOS):
        pixels = getattr(skimage.data, photo)()
        thumbnail = pipeline.downscale(pixels[:height, :width])
        add(f"photo{number}.thumb.png", thumbnail, thumbnail.encode("png"))
        if number == len(PHOTOS) - 1:
            for format_, quality in FORMATS:
                name = f"photo{number}-{'lossless' if quality is None else quality}.thumb.{format_}"
                add(name, thumbnail, thumbnail.encode(format_, quality=quality, lossless=quality is None))

    # A ramp of alpha from nothing to all: where it is nothing there is colour in the file, which the network sees.
    alpha = np.linspace(-60, 315, 403)[None].clip(0, 255).astype(np.uint8).repeat(301, axis=0)
    coffee = skimage.data.coffee()
    thumbnail = pipeline.downscale_picture(Picture(np.ascontiguousarray(coffee[:301, :403]), alpha))
    add("alpha.thumb.png", thumbnail, thumbnail.encode("png"))
    add("alpha.thumb.webp", thumbnail, thumbnail.encode("webp", lossless=True))

    Image.fromarray(coffee[::14, ::14]).save(folder / "plain.png")
    data = (folder / "photo2.thumb.png").read_bytes()
    Image.open(folder / "photo2.thumb.png").rotate(90, expand=True).save(folder / "turned.png")
    at = data.index(b"faIr") + 4
    (folder / "damaged.thumb.png").write_bytes(data[: at + 5] + b"\x00\x01" + data[at + 7 :])
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


def _rgba(picture: Picture) -> bytes:
    alpha = np.full(picture.rgb.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return np.concatenate([picture.rgb, alpha[..., None]], axis=-1).tobytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
