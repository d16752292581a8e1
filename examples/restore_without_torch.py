"""Restore a folder of thumbnails with ONNX files, without PyTorch.

    python examples/restore_without_torch.py ONNX THUMBNAILS OUT

ONNX: the folder that `faitheir export --half up` wrote, for one model or several; each thumbnail is restored by the
file whose weights made it. Needs numpy, Pillow and onnxruntime, and this package without what it depends on
(`pip install --no-deps faitheir`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from faitheir.errors import FaithEIRError
from faitheir.files import base_name, is_thumbnail, picture_files
from faitheir.images import Picture, UInt8Array, encode_picture, resize_alpha
from faitheir.storage import write_atomic
from faitheir.thumbnail import Thumbnail
from faitheir.tiling import Float32Array, process_tiles


class Model:
    """One ONNX file of a decoder half, and its description."""

    def __init__(self, description: Path) -> None:
        self.about = json.loads(description.read_text("utf-8"))
        path = description.with_name(self.about["file"])
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, cut: UInt8Array, origin: tuple[int, int]) -> Float32Array:
        """(h, w, 3) levels -> (h scale, w scale, 3) in [0, 1], not clamped."""
        thumbnail = cut.transpose(2, 0, 1)[None].astype(np.float32) / 255
        (picture,) = self.session.run(None, {"thumbnail": thumbnail, "origin": np.array(origin, np.int32)})
        return np.ascontiguousarray(picture[0].transpose(1, 2, 0))

    def restore(self, thumbnail: Thumbnail) -> Picture:
        """The picture, of the photograph's size."""
        about, small = self.about, thumbnail.picture
        scale, multiple = about["scale"], about["multiple"]
        strips = process_tiles(
            small.rgb,
            (-(-small.height // multiple) * multiple, -(-small.width // multiple) * multiple),
            cell_in=1,
            cell_out=scale,
            **{name: about[name] for name in ("tile", "overlap", "align")},
            run=self.run,
        )
        levels = [np.rint(strip.clip(0, 1) * 255).astype(np.uint8) for _, strip in strips]
        width, height = thumbnail.size or (small.width * scale, small.height * scale)
        alpha = small.alpha
        if alpha is not None:
            alpha = resize_alpha(alpha, (small.width * scale, small.height * scale))[:height, :width]
        return Picture(np.concatenate(levels)[:height, :width], alpha, small.exif, small.icc_profile)


def main(onnx: Path, thumbnails: Path, out: Path) -> int:
    """Restore what can be restored; how many failed."""
    descriptions = {json.loads(path.read_text("utf-8"))["weights"]: path for path in sorted(onnx.glob("*-up*.json"))}
    opened: dict[str, Model] = {}
    failed = 0
    out.mkdir(parents=True, exist_ok=True)
    for path in filter(is_thumbnail, picture_files(thumbnails)):
        try:
            thumbnail = Thumbnail.open(path)
            weights = thumbnail.info.weights if thumbnail.info else None
            if weights not in descriptions:
                raise FaithEIRError(f"{path}: none of the files in {onnx} has the weights that made it ({weights}).")
            if weights not in opened:
                opened[weights] = Model(descriptions[weights])
            restored = opened[weights].restore(thumbnail)
            write_atomic(out / f"{base_name(path)}.restored.png", encode_picture(restored, "png"))
        except FaithEIRError as error:
            print(error, file=sys.stderr)
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*map(Path, sys.argv[1:4])) else 0)
