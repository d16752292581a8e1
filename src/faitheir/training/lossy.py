"""The codec in the loop: in training, thumbnails are stored as people store them before they are restored.

Real encoders decide what is restored, so nothing about them is approximated; gradients pass straight through, but for
the chroma that a codec halves, whose gradient is that of halving. What a file costs has no gradient, so its bytes are
priced by a stand-in: the sizes of quantised DCT coefficients (``dct_bits``). SAIN (Yang et al. 2023) trains through
JPEG with a differentiable stand-in for the codec instead, and models its loss with a network.
"""

import io
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faitheir.nn.codec import Stored
from faitheir.training.config import LossyConfig, LossyFormat

#: BT.601, full range: luma, blue and red difference, each a row over RGB.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class LossyStorage:
    """Stores each thumbnail of a batch as one of ``LossyConfig``'s formats, drawn anew, and reads it back.

    What is drawn comes from torch's random numbers, which a checkpoint holds.
    """

    def __init__(self, config: LossyConfig) -> None:
        self.config = config

    def __call__(self, y: Tensor, x: Tensor) -> Stored:
        """Thumbnails (B, 3, h, w), multiples of 1/255 in [0, 1], of pictures x (B, 3, H, W) -> as files give them back.

        A share of the thumbnails is replaced by foreign ones, reduced by a common filter and stored by the same
        formats. The bits (B,) are those of ``dct_bits`` per thumbnail pixel; 0 where a thumbnail stays lossless or is
        foreign.
        """
        count = len(y)
        kinds = torch.multinomial(torch.tensor([f.share for f in self.config.formats]), count, replacement=True)
        foreign = torch.rand(count) < self.config.foreign
        stored, bits = [], []
        for i, kind in enumerate(kinds.tolist()):
            form = self.config.formats[kind]
            own = not foreign[i]
            one = y[i : i + 1] if own else _foreign_thumbnail(x[i : i + 1], (y.shape[2], y.shape[3]))
            through, price = self._store(one, form, own=bool(own))
            stored.append(through)
            bits.append(price if own else price.new_zeros(()))
        return Stored(torch.cat(stored), torch.stack(bits), ~foreign.to(y.device))

    def _store(self, y: Tensor, form: LossyFormat, *, own: bool) -> tuple[Tensor, Tensor]:
        if form.format == "lossless":
            return y, y.new_zeros(())
        quality = int(torch.randint(form.quality[0], form.quality[1] + 1, ()))
        # WebP always halves chroma; cameras and messengers mostly do in JPEG, and other programs in AVIF.
        halved = form.format == "webp" or (not (own and form.format == "avif") and bool(torch.rand(()) < 0.5))
        levels = (255 * y.detach()[0].float()).round().byte().permute(1, 2, 0).cpu().numpy()
        left = torch.from_numpy(_through_file(levels, form.format, quality, halved))
        left = (left.to(y.device).float() / 255).to(y.dtype).permute(2, 0, 1)[None]
        carrier = _halve_chroma(y) if halved else y
        return carrier + (left - carrier).detach(), dct_bits(y, quantisation_step(form.format, quality), halved)


def _through_file(rgb: np.ndarray, format: str, quality: int, halved: bool) -> np.ndarray:  # noqa: A002
    options: dict[str, Any] = {"quality": quality}
    if format == "webp":
        options["method"] = 4
    else:
        options["subsampling"] = "4:2:0" if halved else "4:4:4"
    if format == "avif":
        options["speed"] = 6  # leaves the error of the 4 that thumbnails are written with, in a fifth of the time
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, format, **options)
    return np.array(Image.open(data).convert("RGB"))


_FILTERS = (Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def _foreign_thumbnail(x: Tensor, size: tuple[int, int]) -> Tensor:
    """What another program makes of a picture (1, 3, H, W): reduced by area, bicubic or Lanczos, in 8 bits."""
    levels = (255 * x[0].float()).round().byte().permute(1, 2, 0).cpu().numpy()
    small = Image.fromarray(levels).resize(size[::-1], _FILTERS[int(torch.randint(len(_FILTERS), ()))])
    return torch.from_numpy(np.array(small)).to(x.device).permute(2, 0, 1)[None].to(x.dtype) / 255


def quantisation_step(format: str, quality: int) -> float:  # noqa: A002
    """About the step, in levels of 0..255, by which a codec quantises an orthonormal transform's coefficients.

    The root of twelve times the mean squared error that the codec leaves in the luma of nano-x16's thumbnails,
    measured and interpolated.
    """
    qualities, steps = _STEPS[format]
    return float(np.interp(quality, qualities, steps))


#: Qualities, and the steps measured at them.
_STEPS: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "webp": ((50, 60, 70, 80, 85, 90, 95, 98), (22.1, 19.8, 18.1, 13.6, 10.7, 7.9, 5.2, 3.7)),
    "jpeg": ((50, 60, 70, 80, 85, 90, 95, 98), (25.2, 23.1, 20.6, 16.8, 14.0, 10.8, 6.4, 3.1)),
    "avif": ((30, 40, 50, 60, 70, 80, 88, 95, 98), (37.4, 28.0, 19.1, 12.8, 9.5, 6.8, 4.7, 3.3, 2.6)),
}


def dct_bits(y: Tensor, step: float, halved: bool) -> Tensor:
    """A differentiable stand-in for a lossy file's bits per pixel: thumbnail (1, 3, h, w) in [0, 1] -> ().

    The planes of YCbCr, chroma ``halved`` or not, are cut into blocks of 8 x 8 and transformed (orthonormal DCT);
    a coefficient c costs log2(1 + 2 |c / step|) bits. Planes are padded to whole blocks by repeating their edges.
    """
    planes = _to_ycbcr(y.float()) * 255
    luma, chroma = planes[:, :1] - 128, planes[:, 1:]
    if halved:
        chroma = F.avg_pool2d(chroma, 2, ceil_mode=True)
    bits = y.new_zeros(())
    for plane in (luma, chroma):
        rows, columns = (-size % 8 for size in plane.shape[2:])
        blocks = F.pad(plane, (0, columns, 0, rows), mode="replicate").unfold(2, 8, 8).unfold(3, 8, 8)
        matrix = _dct_matrix().to(blocks)
        coefficients = matrix @ blocks @ matrix.T
        bits = bits + torch.log2(1 + 2 * (coefficients / step).abs()).sum()
    return bits / (y.shape[2] * y.shape[3])


@cache
def _dct_matrix() -> Tensor:
    """The orthonormal DCT-II of eight values."""
    n = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(torch.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    matrix[0] /= 2**0.5
    return matrix.float()


def _to_ycbcr(y: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", y.new_tensor(_YCBCR), y)


def _halve_chroma(y: Tensor) -> Tensor:
    """RGB whose chroma is averaged over cells of 2 x 2, which is what a codec with 4:2:0 keeps of it."""
    planes = _to_ycbcr(y)
    luma, chroma = planes[:, :1], planes[:, 1:]
    coarse = F.avg_pool2d(chroma, 2, ceil_mode=True)
    chroma = F.interpolate(coarse, scale_factor=2.0, mode="nearest")[..., : y.shape[2], : y.shape[3]]
    back = torch.linalg.inv(y.new_tensor(_YCBCR))
    return torch.einsum("ij,bjhw->bihw", back, torch.cat([luma, chroma], 1))
