"""PSNR and SSIM agree with scikit-image."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faitheir.evaluation.metrics import psnr, ssim

skimage_metrics = pytest.importorskip("skimage.metrics")


@settings(max_examples=25, deadline=None)
@given(height=st.integers(11, 80), width=st.integers(11, 80), spread=st.integers(1, 200), seed=st.integers(0, 999))
def test_both_agree_with_scikit_image(height: int, width: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    b = np.clip(a + rng.integers(-spread, spread + 1, a.shape), 0, 255).astype(np.uint8)
    b[0, 0, 0] = a[0, 0, 0] ^ 1  # never equal: PSNR stays finite
    assert psnr(a, b) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(a, b), abs=1e-9)
    expected = skimage_metrics.structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_tall_pictures_are_measured_in_pieces_that_add_up() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (1100, 16, 3), dtype=np.uint8)
    b = rng.integers(0, 256, a.shape, dtype=np.uint8)
    expected = skimage_metrics.structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert psnr(a, b) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(a, b), abs=1e-9)


def test_equal_small_and_unequal_pictures() -> None:
    a = np.zeros((20, 20, 3), np.uint8)
    assert psnr(a, a) == math.inf
    assert ssim(a, a) == pytest.approx(1)
    assert math.isnan(ssim(a[:5], a[:5]))
    with pytest.raises(ValueError, match="one size"):
        psnr(a, a[:10])
    with pytest.raises(ValueError, match="uint8"):
        ssim(a.astype(float), a.astype(float))
