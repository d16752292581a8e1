"""Thumbnails that other programs saved again as JPEG, which a model may learn to restore too."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faitheir.training.config import ResaveConfig


class Resave:
    """Sends some thumbnails of a batch through a JPEG file, each with a quality of its own.

    Chroma is halved in half of them, as most programs do by default. What is drawn comes from torch's random numbers,
    which a checkpoint holds.
    """

    def __init__(self, config: ResaveConfig) -> None:
        self.config = config

    def __call__(self, y: Tensor) -> Tensor:
        """(B, 3, h, w), multiples of 1/255 in [0, 1] -> the same, some of it as JPEG left it.

        The gradient passes straight through.
        """
        low, high = self.config.quality
        count = y.shape[0]
        chosen = (torch.rand(count) < self.config.share).tolist()
        qualities = torch.randint(low, high + 1, (count,)).tolist()
        halved = (torch.rand(count) < 0.5).tolist()
        if not any(chosen):
            return y
        levels = (255 * y.detach().float()).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for i in range(count):
            if chosen[i]:
                levels[i] = _through_jpeg(levels[i], qualities[i], "4:2:0" if halved[i] else "4:4:4")
        left = (torch.from_numpy(levels).to(y.device).float() / 255).to(y.dtype).permute(0, 3, 1, 2)
        return y + (left - y).detach()


def _through_jpeg(rgb: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "jpeg", quality=quality, subsampling=subsampling)
    return np.array(Image.open(data))
