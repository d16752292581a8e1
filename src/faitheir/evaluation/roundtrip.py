"""One photograph through its thumbnail file and back, measured on the files on disk."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import (
    ExifMode,
    Picture,
    bicubic_thumbnail,
    decode_picture,
    encode_picture,
    resize_bicubic,
)
from faitheir.pipeline import FaithEIRPipeline
from faitheir.storage import temporary_folder, write_atomic
from faitheir.thumbnail import Thumbnail, thumbnail_format

#: Sides of a side-by-side picture are at most this many pixels.
SIDE_BY_SIDE_LIMIT = 4096

#: Gives the bytes of a thumbnail's file, and their format.
Encode: TypeAlias = Callable[[Thumbnail], tuple[bytes, str]]


class RoundTrip(NamedTuple):
    """What was measured on 8-bit pictures read back from their files, these pictures, and the thumbnail's file.

    ``figures``: "psnr", "ssim": restored against original (SSIM is nan below 11 x 11 pixels); "psnr_bicubic": the
    bicubic thumbnail enlarged bicubically against the original; "psnr_thumbnail": thumbnail against the bicubic one;
    "bits_per_pixel", "seconds_down", "seconds_up".
    """

    figures: dict[str, float]
    thumbnail: Thumbnail
    restored: Picture
    path: Path


class Rescaled(NamedTuple):
    """A photograph through the bytes of a thumbnail file: these, the thumbnail as read back, and what it gives."""

    data: bytes
    format: str
    """The suffix of the thumbnail's file, without its dot."""
    thumbnail: Thumbnail
    restored: Picture
    scale: int
    seconds_down: float
    seconds_up: float


def rescale(pipeline: FaithEIRPipeline, photograph: Picture, encode: Encode, *, exif: ExifMode = "safe") -> Rescaled:
    """Through the model and back: all of a round trip that needs the model.

    ``encode`` gives the bytes of a thumbnail's file and their format. ``exif``: what the thumbnail keeps, see
    ``FaithEIRPipeline.downscale``. Raises ImageError or ThumbnailError.
    """
    started = time.perf_counter()
    small = pipeline.downscale_picture(photograph, exif=exif)
    down = time.perf_counter() - started
    data, format_ = encode(small)
    small = Thumbnail.decode(data)
    started = time.perf_counter()
    large = pipeline.upscale_thumbnail(small)
    return Rescaled(data, format_, small, large, pipeline.scale, down, time.perf_counter() - started)


def compare(
    photograph: Picture,
    rescaled: Rescaled,
    format: str,  # noqa: A002
    *,
    quality: int | None = None,
) -> tuple[dict[str, float], bytes, Picture, bytes]:
    """What a round trip measured, the restored picture's file and that as read back, and the file of all side by side.

    ``format``, ``quality``: of the restored picture, as for ``encode_picture``. Raises ImageError.
    """
    data = encode_picture(rescaled.restored, format, quality=quality)
    restored = decode_picture(io.BytesIO(data), "the restored picture")
    thumbnail, scale = rescaled.thumbnail.picture, rescaled.scale
    sheet = encode_picture(side_by_side(photograph, thumbnail, restored, scale), "png")
    reference = bicubic_thumbnail(photograph.rgb, scale)
    padded = (reference.shape[1] * scale, reference.shape[0] * scale)
    bicubic = resize_bicubic(reference, padded)[: photograph.height, : photograph.width]
    figures = {
        "bits_per_pixel": 8 * len(rescaled.data) / (photograph.width * photograph.height),
        "psnr": psnr(photograph.rgb, restored.rgb),
        "ssim": ssim(photograph.rgb, restored.rgb),
        "psnr_bicubic": psnr(photograph.rgb, bicubic),
        "psnr_thumbnail": psnr(reference, thumbnail.rgb),
        "seconds_down": rescaled.seconds_down,
        "seconds_up": rescaled.seconds_up,
    }
    return figures, data, restored, sheet


def round_trip(
    pipeline: FaithEIRPipeline,
    photograph: Picture,
    outputs: tuple[Path, Path, Path],
    *,
    quality: int | None = None,
    encode: Encode | None = None,
    exif: ExifMode = "safe",
) -> RoundTrip:
    """Write the thumbnail, the restored picture, and both beside the original to ``outputs``: all three, or none.

    They must be in one folder. ``quality``: of the restored picture. ``encode``, ``exif``: see ``rescale``; what
    ``encode`` gives is written under the suffix of its format. Raises ImageError or ThumbnailError.
    """

    def by_suffix(thumbnail: Thumbnail) -> tuple[bytes, str]:
        return thumbnail.encode(thumbnail_format(outputs[0])), outputs[0].suffix[1:]

    rescaled = rescale(pipeline, photograph, encode or by_suffix, exif=exif)
    figures, data, restored, sheet = compare(photograph, rescaled, outputs[1].suffix[1:], quality=quality)
    paths = (outputs[0].with_suffix(f".{rescaled.format}"), *outputs[1:])
    # They are made in a hidden folder and moved into place once they are whole.
    with temporary_folder(outputs[0].parent) as temporary:
        for path, content in zip(paths, (rescaled.data, data, sheet), strict=True):
            write_atomic(temporary / path.name, content)
        for path in paths:
            (temporary / path.name).replace(path)
    return RoundTrip(figures, rescaled.thumbnail, restored, paths[0])


def side_by_side(original: Picture, thumbnail: Picture, restored: Picture, scale: int) -> Picture:
    """Original, thumbnail enlarged without smoothing, and restored picture in a row, reduced where that is huge."""
    gap = 8
    factor = min(1.0, (SIDE_BY_SIDE_LIMIT - 2 * gap) / (3 * original.width), SIDE_BY_SIDE_LIMIT / original.height)
    width, height = max(1, int(original.width * factor)), max(1, int(original.height * factor))
    row = Image.new("RGB", (3 * width + 2 * gap, height), "white")
    # The last thumbnail pixels of a row or column may reach beyond the original: that part is cut off.
    covered = (0.0, 0.0, original.width / scale, original.height / scale)
    panels = (
        (original, Image.Resampling.BICUBIC, None),
        (thumbnail, Image.Resampling.NEAREST, covered),
        (restored, Image.Resampling.BICUBIC, None),
    )
    for index, (picture, resampling, box) in enumerate(panels):
        panel = picture.to_pil().resize((width, height), resampling, box=box)
        row.paste(panel, (index * (width + gap), 0), panel if panel.mode == "RGBA" else None)
    return Picture(np.array(row))
