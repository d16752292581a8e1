"""Validation pictures and figures, through the thumbnail file on disk as everything that is measured."""

from pathlib import Path

import numpy as np
import torch

from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, read_picture, resize_bicubic, write_picture
from faitheir.nn.codec import FaithEIR
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail
from faitheir.training.config import TrainConfig
from faitheir.training.data import find_photographs


def side_by_side(original: UInt8Array, thumbnail: UInt8Array, restored: UInt8Array) -> UInt8Array:
    """Original | thumbnail enlarged without smoothing | restored, (H, 3 W, 3)."""
    height, width = original.shape[:2]
    scale = -(-height // thumbnail.shape[0])
    enlarged = np.repeat(np.repeat(thumbnail, scale, 0), scale, 1)[:height, :width]
    return np.concatenate([original, enlarged, restored], 1)


def validate(model: FaithEIR, config: TrainConfig, folder: Path) -> dict[str, float]:
    """Write a side-by-side picture of each validation photograph to ``folder``; return the means of the figures.

    PSNR and SSIM of the restored picture, PSNR of the thumbnail against the bicubic one, PSNR of the bicubic thumbnail
    enlarged bicubically, and bits per pixel of the thumbnail file. The model is left in evaluation mode.
    """
    assert config.data.val is not None
    paths = find_photographs(config.data.val)
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(config.val_count, len(paths))).astype(int)]
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = FaithEIRPipeline(model, config.model)
    rows = []
    device_type = pipeline.device.type
    for path in paths:
        picture = read_picture(path)
        with torch.autocast(device_type, enabled=False):
            file = folder / f"{path.stem}.thumb.png"
            pipeline.downscale_picture(picture).save(file)
            thumbnail = Thumbnail.open(file)
            restored = pipeline.upscale_thumbnail(thumbnail).rgb
        reference = bicubic_thumbnail(picture.rgb, pipeline.scale)
        size = (reference.shape[1] * pipeline.scale, reference.shape[0] * pipeline.scale)
        bicubic = resize_bicubic(reference, size)[: picture.height, : picture.width]
        rows.append(
            {
                "val_psnr": psnr(picture.rgb, restored),
                "val_ssim": ssim(picture.rgb, restored),
                "val_psnr_bicubic": psnr(picture.rgb, bicubic),
                "val_psnr_thumbnail": psnr(reference, thumbnail.picture.rgb),
                "val_bits_per_pixel": 8 * file.stat().st_size / (picture.width * picture.height),
            }
        )
        sheet = side_by_side(picture.rgb, thumbnail.picture.rgb, restored)
        write_picture(folder / f"{path.stem}.png", Picture(sheet))
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
