"""PSNR and SSIM agree with scikit-image; the lattice sees a weave and nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faitheir.evaluation.lattice import error_spectra, lattice
from faitheir.evaluation.metrics import METRICS, psnr, ssim, to_luma

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


@settings(max_examples=10, deadline=None)
@given(height=st.integers(11, 60), width=st.integers(11, 60), spread=st.integers(1, 200), seed=st.integers(0, 99))
def test_luma_agrees_with_scikit_image(height: int, width: int, spread: int, seed: int) -> None:
    rgb2ycbcr = pytest.importorskip("skimage.color").rgb2ycbcr
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    b = np.clip(a + rng.integers(-spread, spread + 1, a.shape), 0, 255).astype(np.uint8)
    b[0, 0, 0] = a[0, 0, 0] ^ 1
    y, z = (rgb2ycbcr(p)[..., 0] for p in (a, b))
    assert psnr(a, b, luma=True) == pytest.approx(skimage_metrics.peak_signal_noise_ratio(y, z, data_range=255))
    expected = skimage_metrics.structural_similarity(
        y, z, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b, luma=True) == pytest.approx(expected, abs=1e-9)


def test_luma_is_in_studio_range() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [128, 128, 128]]], np.uint8)
    np.testing.assert_allclose(to_luma(colours)[0, :, 0], [16, 235, 16 + 219 * 128 / 255])


def test_every_metric_is_described() -> None:
    for name, metric in METRICS.items():
        assert name.isidentifier()
        assert metric.label
        assert metric.digits >= 0
    assert METRICS["psnr"].direction == "higher"
    assert METRICS["lpips_vgg"].direction == METRICS["fid"].direction == "lower"


# The lattice: a pattern with the thumbnail's spacing.


def restored_with(error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grey = np.full((*error.shape, 3), 128, np.uint8)
    return grey, np.clip(128 + error[..., None], 0, 255).astype(np.uint8).repeat(3, 2)


@pytest.mark.parametrize("size", [(160, 480), (70, 900), (40, 4500)])
def test_a_weave_is_seen_and_noise_is_not(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 8, size)
    weave = 4 * np.cos(2 * np.pi * np.arange(size[1]) / 16 * 3)[None, :]
    plain = lattice([error_spectra(*restored_with(noise), 16)], 16)
    woven = lattice([error_spectra(*restored_with(noise + weave), 16)], 16)
    assert plain < 3
    assert woven > 10
    upright = lattice([error_spectra(*(p.swapaxes(0, 1) for p in restored_with(noise + weave)), 16)], 16)
    assert upright == pytest.approx(woven)
    # Of several pictures it is that of the mean spectrum.
    both = [error_spectra(*restored_with(error), 16) for error in (noise, noise + weave)]
    assert plain < lattice(both, 16) < woven


def test_a_wave_of_another_spacing_is_no_lattice() -> None:
    wave = 30 * np.cos(2 * np.pi * np.arange(600) * 3.5 / 16)[None, :]
    wave = wave + np.random.default_rng(0).normal(0, 2, (64, 600))
    assert lattice([error_spectra(*restored_with(wave), 16)], 16) < 3


def test_no_error_has_no_lattice() -> None:
    grey, _ = restored_with(np.zeros((64, 64)))
    assert lattice([error_spectra(grey, grey, 16)], 16) == 0
