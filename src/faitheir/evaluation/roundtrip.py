"""One photograph through its thumbnail file and back, measured on the files on disk."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import ExifMode, Picture, bicubic_thumbnail, read_picture, resize_bicubic, write_picture
from faitheir.pipeline import FaithEIRPipeline
from faitheir.storage import temporary_folder
from faitheir.thumbnail import Thumbnail

#: Sides of a side-by-side picture are at most this many pixels.
SIDE_BY_SIDE_LIMIT = 4096


def _save(thumbnail: Thumbnail, path: Path) -> Path:
    thumbnail.save(path)
    return path


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


def round_trip(
    pipeline: FaithEIRPipeline,
    photograph: Picture,
    outputs: tuple[Path, Path, Path],
    *,
    quality: int | None = None,
    save: Callable[[Thumbnail, Path], Path] = _save,
    exif: ExifMode = "safe",
) -> RoundTrip:
    """Write the thumbnail, the restored picture, and both beside the original to ``outputs``: all three, or none.

    They must be in one folder. ``quality``: of the restored picture. ``save``, ``exif``: see ``through_file``.
    Raises ImageError or ThumbnailError.
    """
    folder = outputs[0].parent
    # They are made in a hidden folder and moved into place once they are whole.
    with temporary_folder(folder) as temporary:
        written = [temporary / path.name for path in outputs]
        written[0], thumbnail, restored, down, up = through_file(
            pipeline, photograph, written[0], written[1], quality=quality, save=save, exif=exif
        )
        write_picture(written[2], side_by_side(photograph, thumbnail.picture, restored, pipeline.scale))
        reference = bicubic_thumbnail(photograph.rgb, pipeline.scale)
        padded = (reference.shape[1] * pipeline.scale, reference.shape[0] * pipeline.scale)
        bicubic = resize_bicubic(reference, padded)[: photograph.height, : photograph.width]
        figures = {
            "bits_per_pixel": 8 * written[0].stat().st_size / (photograph.width * photograph.height),
            "psnr": psnr(photograph.rgb, restored.rgb),
            "ssim": ssim(photograph.rgb, restored.rgb),
            "psnr_bicubic": psnr(photograph.rgb, bicubic),
            "psnr_thumbnail": psnr(reference, thumbnail.picture.rgb),
            "seconds_down": down,
            "seconds_up": up,
        }
        for path in written:
            path.replace(folder / path.name)
    return RoundTrip(figures, thumbnail, restored, folder / written[0].name)


def through_file(
    pipeline: FaithEIRPipeline,
    photograph: Picture,
    thumbnail: Path,
    restored: Path,
    *,
    quality: int | None = None,
    save: Callable[[Thumbnail, Path], Path] = _save,
    exif: ExifMode = "safe",
) -> tuple[Path, Thumbnail, Picture, float, float]:
    """Write a thumbnail and what is restored from that file; return its path, both as read back, and seconds for each.

    ``save`` writes the thumbnail to ``thumbnail``, or to that path with another suffix, and returns where it is.
    ``exif``: what the thumbnail keeps, see ``FaithEIRPipeline.downscale``.
    Raises ImageError or ThumbnailError.
    """
    started = time.perf_counter()
    small = pipeline.downscale_picture(photograph, exif=exif)
    down = time.perf_counter() - started
    path = save(small, thumbnail)
    small = Thumbnail.open(path)
    started = time.perf_counter()
    large = pipeline.upscale_thumbnail(small)
    up = time.perf_counter() - started
    write_picture(restored, large, quality=quality)
    return path, small, read_picture(restored), down, up


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
        panel = Image.fromarray(picture.rgb).resize((width, height), resampling, box=box)
        mask = None
        if picture.alpha is not None:
            mask = Image.fromarray(picture.alpha).resize((width, height), resampling, box=box)
        row.paste(panel, (index * (width + gap), 0), mask)
    return Picture(np.array(row))
