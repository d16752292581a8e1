"""NIQE (Mittal et al. 2013): how far a picture's local statistics are from those of pristine photographs; 0 is best.

Written after BasicSR's, whose model file it reads, since pyiqa's licence forbids commercial use, and the code of the
package niqe is under the GPL. One deviation: the picture is halved by torch's antialiased bicubic filter, which weighs
the pixels at the picture's edges otherwise than MATLAB's.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from faitheir.errors import ModelError
from faitheir.evaluation.metrics import to_luma
from faitheir.images import UInt8Array

Array = NDArray[np.float64]

_BLOCK = 96  # pixels, at full size

_gamma = np.vectorize(math.gamma, otypes=[np.float64])


def load_niqe(path: str | Path) -> tuple[Array, Array, Array]:
    """Mean (36,) and covariance (36, 36) of pristine features, and the window (7, 7) of local statistics.

    From BasicSR's niqe_pris_params.npz. Raises ModelError for another file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance, window = (file[f"{k}"] for k in ("mu_pris_param", "cov_pris_param", "gaussian_window"))
        return mean.reshape(36), covariance.reshape(36, 36), window.reshape(7, 7)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: this is not NIQE's model, BasicSR's niqe_pris_params.npz ({error}).") from None


def niqe(rgb: UInt8Array, model: tuple[Array, Array, Array]) -> float:
    """NIQE of the luma (BT.601, rounded) of a picture (H, W, 3): nan where it has not two blocks of 96 x 96 pixels."""
    mean, covariance, window = model
    rows, columns = (side // _BLOCK for side in rgb.shape[:2])
    if rows * columns < 2:
        return math.nan
    y = torch.from_numpy(np.rint(to_luma(rgb[: rows * _BLOCK, : columns * _BLOCK])))[None, :, :, 0][None]
    found = []
    for side in (_BLOCK, _BLOCK // 2):
        blocks = _normalised(y, window).reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        found.append(_features(blocks))
        y = F.interpolate(y, scale_factor=0.5, mode="bicubic", antialias=True)
    features = np.concatenate(found, axis=1)
    difference = mean - np.nanmean(features, axis=0)
    own = np.cov(features[~np.isnan(features).any(axis=1)], rowvar=False)
    return float(np.sqrt(difference @ np.linalg.pinv((covariance + own) / 2) @ difference))


def _normalised(y: torch.Tensor, window: Array) -> Array:
    """(y - mean) / (deviation + 1) with local mean and deviation: (1, 1, H, W) -> (H, W)."""
    kernel = torch.from_numpy(window)[None, None]
    mean, square = (F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel) for x in (y, y * y))
    normalised: Array = ((y - mean) / ((square - mean * mean).abs().sqrt() + 1))[0, 0].numpy()
    return normalised


def _features(blocks: Array) -> Array:
    """18 of each block (N, side, side): parameters of its distribution, and of products with four neighbours."""
    shape, left, right = _asymmetric_gaussian(blocks)
    found = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        found += [shape, (right - left) * _gamma(2 / shape) / _gamma(1 / shape), left, right]
    return np.stack(found, axis=1)


def _asymmetric_gaussian(x: Array) -> tuple[Array, Array, Array]:
    """Shape, and left and right scale, of an asymmetric generalised Gaussian fitted to each block by its moments."""
    shapes, ratios = _shapes()
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat block has no parameters: nan
        squares = x * x
        left, right = (np.sqrt((squares * m).sum((1, 2)) / m.sum((1, 2))) for m in (x < 0, x > 0))
        skew = left / right
        ratio = np.abs(x).mean((1, 2)) ** 2 / squares.mean((1, 2))
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = shapes[np.abs(ratios - ratio[:, None]).argmin(1)]
    scale = np.sqrt(_gamma(1 / shape) / _gamma(3 / shape))
    return shape, left * scale, right * scale


@cache
def _shapes() -> tuple[Array, Array]:
    """Shapes from 0.2 to 10, and the ratio of moments that each has."""
    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, _gamma(2 / shapes) ** 2 / (_gamma(1 / shapes) * _gamma(3 / shapes))
