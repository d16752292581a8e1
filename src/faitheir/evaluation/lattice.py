"""How much of a restored picture's error repeats with the thumbnail's spacing, which shows as a repeated texture.

Pictures should have some hundred pixels: on shorter rows the window blurs a spectral line over its neighbours.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from faitheir.images import UInt8Array

Spectra = NDArray[np.float64]

_PER_SPACING = 64  # frequencies kept per 1/scale cycles per pixel


def error_spectra(original: UInt8Array, restored: UInt8Array, scale: int) -> Spectra:
    """Mean power of the luma error's rows and of its columns: (2, 32 * scale), up to half a cycle per pixel.

    Rows longer than 256 * scale pixels are cut into pieces of that length, each under a Hann window.
    """
    error = (restored.astype(np.float64) - original) @ np.array([0.299, 0.587, 0.114])
    return np.stack([_rows(error, scale), _rows(error.T, scale)])


def _rows(error: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    length = _PER_SPACING * scale * 4
    piece = min(error.shape[1], length)
    power = np.zeros(length // 2 + 1)
    starts = range(0, error.shape[1] - piece + 1, piece)
    for start in starts:
        cut = error[:, start : start + piece] * np.hanning(piece)
        power += np.square(np.abs(np.fft.rfft(cut, n=length, axis=1))).mean(0)
    spectrum: NDArray[np.float64] = power[:-1].reshape(-1, 4).mean(1) / len(starts)
    return spectrum


def lattice(spectra: Sequence[Spectra], scale: int) -> float:
    """The power at multiples of 1/scale cycles per pixel over the median a quarter of the spacing around them.

    In the mean of several pictures' spectra, for the worst multiple and axis. 1 is no pattern, 0 no error at all.
    """
    worst = 0.0
    for spectrum in np.mean(spectra, axis=0):
        for k in range(1, scale // 2):
            at = _PER_SPACING * k
            near = np.r_[spectrum[at - 16 : at - 4], spectrum[at + 5 : at + 17]]
            if (around := float(np.median(near))) > 0:
                worst = max(worst, float(spectrum[at - 1 : at + 2].mean()) / around)
    return worst
