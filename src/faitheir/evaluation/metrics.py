"""The metrics by name, and PSNR and SSIM of 8-bit pictures of any size.

These two need only the core's dependencies and agree with scikit-image, as a test checks: PSNR over all values; SSIM
with Wang et al.'s Gaussian window, per channel, averaged.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from faitheir.images import UInt8Array


@dataclass(frozen=True)
class Metric:
    """How a metric is labelled, ranked and printed. ``of``: one picture, or the whole set of them."""

    label: str
    direction: Literal["higher", "lower"] | None
    """Which values are better; None where neither is."""
    digits: int
    """After the point, in tables."""
    unit: str = ""
    of: Literal["picture", "set"] = "picture"


#: What can be measured, in the order of tables. Keys of ``PictureResult.values`` and ``SystemResult.summary``.
METRICS: dict[str, Metric] = {
    "lpips_alex": Metric("LPIPS (alex)", "lower", 4),
    "lpips_vgg": Metric("LPIPS (vgg)", "lower", 4),
    "lpips": Metric("LPIPS (network not named)", "lower", 4),  # of published tables only; nothing here computes it
    "dists": Metric("DISTS", "lower", 4),
    "dists_256": Metric("DISTS (256)", "lower", 4),
    "wasserstein": Metric("Wasserstein distortion", "lower", 3),
    "fid": Metric("FID", "lower", 2, of="set"),
    "kid": Metric("KID", "lower", 4, of="set"),
    "psnr": Metric("PSNR", "higher", 2, "dB"),
    "ssim": Metric("SSIM", "higher", 4),
    "ms_ssim": Metric("MS-SSIM", "higher", 4),
    "ssimulacra2": Metric("SSIMULACRA2", "higher", 2),
    "niqe": Metric("NIQE", "lower", 2),
    "musiq": Metric("MUSIQ", "higher", 2),
    "squeezenet_distance": Metric("SqueezeNet distance", "lower", 4),
    "lattice": Metric("Lattice", "lower", 2, of="set"),
    "thumbnail_psnr": Metric("Thumbnail PSNR", "higher", 2, "dB"),
    "thumbnail_ssim": Metric("Thumbnail SSIM", "higher", 4),
    "thumbnail_bytes": Metric("Thumbnail bytes", "lower", 0, "bytes"),
    "bytes": Metric("Bytes", "lower", 0, "bytes"),
    "bits_per_pixel": Metric("Bits per pixel", "lower", 4, "bpp"),
    "seconds_down": Metric("Down", "lower", 3, "s"),
    "seconds_up": Metric("Up", "lower", 3, "s"),
}

_WINDOW, _SIGMA = 11, 1.5
_ROWS = 512  # rows of SSIM computed at a time, so that memory does not grow with the picture


def _check(a: UInt8Array, b: UInt8Array) -> None:
    if a.shape != b.shape or a.ndim != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"both must be uint8 pictures (H, W, C) of one size, not {a.shape} and {b.shape}.")


def to_luma(rgb: UInt8Array) -> NDArray[np.float64]:
    """Y of BT.601 in studio range, 16 to 235, not rounded: (H, W, 3) -> (H, W, 1)."""
    y: NDArray[np.float64] = 16 + rgb @ np.array([[65.481], [128.553], [24.966]]) / 255
    return y


def psnr(a: UInt8Array, b: UInt8Array, *, luma: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, over all values; infinite where equal. The peak is 255, of luma too.

    ValueError where sizes differ.
    """
    _check(a, b)
    total, count = 0.0, 0
    for top in range(0, len(a), _ROWS):
        rows = [p[top : top + _ROWS] for p in (a, b)]
        x, y = (to_luma(p) if luma else p.astype(np.float64) for p in rows)
        # Squares of differences of 8-bit levels are whole numbers: their sum is exact.
        total += float(np.square(x - y).sum())
        count += x.size
    return math.inf if total == 0 else 10 * math.log10(255**2 * count / total)


def ssim(a: UInt8Array, b: UInt8Array, *, luma: bool = False) -> float:
    """Structural similarity (Wang et al. 2004), 1 where equal: 11 x 11 Gaussian of sigma 1.5, biased covariance.

    Per channel, or of luma. Averaged over the positions whose window lies in the picture. Pictures smaller than the
    window give nan: the measure is not defined there. ValueError where sizes differ.
    """
    _check(a, b)
    height, width = a.shape[:2]
    channels = 1 if luma else a.shape[2]
    if min(height, width) < _WINDOW:
        return math.nan
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    line /= line.sum()

    def blur(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    total = 0.0
    for top in range(0, height - _WINDOW + 1, _ROWS):
        bottom = min(height, top + _ROWS + _WINDOW - 1)
        rows = [to_luma(p[top:bottom]) if luma else p[top:bottom] for p in (a, b)]
        for channel in range(channels):
            x, y = (torch.from_numpy(np.ascontiguousarray(p[:, :, channel])).double()[None, None] for p in rows)
            mx, my = blur(x), blur(y)
            vx, vy, vxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
            value = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
            total += float(value.sum())
    return total / float((height - _WINDOW + 1) * (width - _WINDOW + 1) * channels)
