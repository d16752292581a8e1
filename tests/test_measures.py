"""Metrics through networks, with random weights in real files; FID and KID against their formulas written out."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import weights
from faitheir.errors import EvaluationError, MissingDependencyError, ModelError
from faitheir.evaluation.distributions import KID_SUBSET, KID_SUBSETS, WIDTH, caution, fid, kid, load_inception
from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.evaluation.protocols import PROTOCOLS, Protocol, find_protocol


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lpips")
    return weights.save_torchvision(tmp_path_factory.mktemp("weights") / "alexnet.pth", weights.ALEXNET)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torchvision")
    return weights.save_torchvision(tmp_path_factory.mktemp("weights") / "vgg16.pth", weights.VGG16)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch_fidelity")
    return weights.save_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


# ----- protocols


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 1200), width=st.integers(1, 1200))
def test_patches_of_the_protocols(height: int, width: int) -> None:
    paper, hific = (set(PROTOCOLS[name].patches(height, width)) for name in ("paper", "hific-256"))
    assert len(paper) == (height // 256) * (width // 256)
    second = {(top, left) for top in range(128, height - 255, 256) for left in range(128, width - 255, 256)}
    assert hific == paper | second
    assert len(hific) == len(paper) + len(second)
    for top, left in hific:
        assert 0 <= top <= height - 256
        assert 0 <= left <= width - 256
    assert all(top % 256 == left % 256 == 0 for top, left in paper)


def test_protocols_by_name() -> None:
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol
        assert protocol.name == name
    assert find_protocol("luma-4") == Protocol(
        "luma-4", find_protocol("luma-4").description, PROTOCOLS["luma"].metrics, luma=True, border=4
    )
    for unknown in ("", "luma-", "luma-x", "Paper", "hific"):
        with pytest.raises(EvaluationError, match="choose one of paper, hific-256, luma"):
            find_protocol(unknown)


# ----- one picture


def test_fidelity_under_the_protocols() -> None:
    a, b = noise(64, 80), noise(64, 80, 1)
    assert picture_metric("psnr")(a, b) == psnr(a, b)
    assert picture_metric("ssim", scale=16)(a, b) == ssim(a, b)
    inner = (slice(16, -16), slice(16, -16))
    assert picture_metric("psnr", protocol="luma", scale=16)(a, b) == psnr(a[inner], b[inner], luma=True)
    assert picture_metric("ssim", protocol="luma", scale=16)(a, b) == ssim(a[inner], b[inner], luma=True)
    inner = (slice(3, -3), slice(3, -3))
    assert picture_metric("psnr", protocol="luma-3")(a, b) == psnr(a[inner], b[inner], luma=True)
    assert picture_metric("psnr", protocol="luma-0")(a, b) == psnr(a, b, luma=True)
    assert math.isnan(picture_metric("psnr", protocol="luma", scale=32)(a, b))  # nothing is left without the border
    with pytest.raises(EvaluationError, match="--scale"):
        picture_metric("psnr", protocol="luma")
    with pytest.raises(ValueError, match="one size"):
        picture_metric("psnr")(a, b[:32])
    bindings = {picture_metric("psnr", protocol=p, scale=16).about for p in ("paper", "luma", "luma-4")}
    assert len(bindings) == 3


def test_lpips_from_a_file(alexnet: Path, tmp_path: Path) -> None:
    import lpips

    a, b = noise(64, 80), noise(64, 80, 1)
    metric = picture_metric("lpips_alex", weights={"alexnet": alexnet})
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = weights.torchvision_state(weights.ALEXNET)
    own = reference.net.state_dict()
    reference.net.load_state_dict({key: state["features." + key.split(".", 1)[1]] for key in own})
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (a, b))
    with torch.no_grad():
        assert metric(a, b) == pytest.approx(float(reference(x, y)), rel=1e-4)
    assert metric(a, a) == 0
    assert math.isnan(metric(a[:31], b[:31]))
    # The same weights in another file are the same metric, others are another.
    save_file(state, tmp_path / "same.safetensors")
    assert picture_metric("lpips_alex", weights={"alexnet": tmp_path / "same.safetensors"}).about == metric.about
    state["features.0.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    assert picture_metric("lpips_alex", weights={"alexnet": tmp_path / "other.safetensors"}).about != metric.about
    assert metric.about.startswith(f"lpips {lpips.__version__ if hasattr(lpips, '__version__') else ''}")


def plain_dists(a: np.ndarray, b: np.ndarray) -> float:
    """DISTS (Ding et al. 2020) on the random VGG16, from its formula."""
    import torch.nn.functional as F
    from torchmetrics.functional.image.dists import _PATH_WEIGHT_DISTS

    state, shared = weights.torchvision_state(weights.VGG16), torch.load(_PATH_WEIGHT_DISTS)
    window = torch.hann_window(5, periodic=False)[1:-1]
    window = torch.outer(window, window)
    window /= window.sum()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(rgb: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
        found, h = [x], (x - mean) / std
        for i in range(30):
            if i in weights.VGG16:
                h = F.conv2d(h, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).relu()
            elif i in (4, 9, 16, 23):  # L2 pooling in place of maxima
                kernel = window.expand(h.shape[1], 1, 3, 3)
                h = (F.conv2d(h.square(), kernel, stride=2, padding=1, groups=h.shape[1]) + 1e-12).sqrt()
            if i in (3, 8, 15, 22, 29):
                found.append(h)
        return found

    alpha, beta = shared["alpha"].flatten(), shared["beta"].flatten()
    total = alpha.sum() + beta.sum()
    score, start = 0.0, 0
    for p, q in zip(features(a), features(b), strict=True):
        p, q = p[0].flatten(1).double(), q[0].flatten(1).double()
        (mp, mq), (vp, vq) = (p.mean(1), q.mean(1)), (p.var(1, correction=0), q.var(1, correction=0))
        cov = ((p - mp[:, None]) * (q - mq[:, None])).mean(1)
        span = slice(start, start := start + len(p))
        score += float((alpha[span] / total * (2 * mp * mq + 1e-6) / (mp**2 + mq**2 + 1e-6)).sum())
        score += float((beta[span] / total * (2 * cov + 1e-6) / (vp + vq + 1e-6)).sum())
    return 1 - score


def test_dists_from_a_file_agrees_with_its_formula(vgg16: Path) -> None:
    pytest.importorskip("torchmetrics")
    metric = picture_metric("dists", weights={"vgg16": vgg16})
    a, b = noise(48, 64), noise(48, 64, 1)
    assert metric(a, a) == pytest.approx(0, abs=1e-5)
    assert metric(a, b) == pytest.approx(plain_dists(a, b), abs=1e-4)
    assert metric(a, b) > 0.01
    assert "torchmetrics" in metric.about


def test_lpips_on_vgg(vgg16: Path) -> None:
    pytest.importorskip("lpips")
    metric = picture_metric("lpips_vgg", weights={"vgg16": vgg16})
    a, b = noise(48, 64), noise(48, 64, 1)
    assert metric(a, a) == 0
    assert metric(a, b) > metric(a, (0.9 * a + 0.1 * b).astype(np.uint8)) > 0


def test_musiq(tmp_path: Path) -> None:
    pyiqa = pytest.importorskip("pyiqa")  # not in any of the extras that tests install: its licence
    torch.manual_seed(0)
    network = pyiqa.create_metric("musiq", device="cpu", pretrained=False, num_class=1).net
    torch.save(network.state_dict(), tmp_path / "musiq.pth")
    metric = picture_metric("musiq", weights={"musiq": tmp_path / "musiq.pth"})
    a = noise(224, 256)
    with torch.inference_mode():
        expected = float(network.eval()(torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255))
    assert metric(noise(224, 256, 1), a) == pytest.approx(expected, rel=1e-4)  # it looks at the restored picture only


def test_metrics_that_cannot_be_had(alexnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, error: type[Exception], **files: Path) -> str:
        with pytest.raises(error) as caught:
            picture_metric(name, weights=files)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cannot be read" in refused("lpips_alex", ModelError, alexnet=tmp_path / "nowhere.pth")
    assert "not the weights of 'vgg16'" in refused("dists", ModelError, vgg16=alexnet)
    assert "not the weights of 'vgg16'" in refused("lpips_vgg", ModelError, vgg16=alexnet)
    assert "squeezenet" in refused("squeezenet_distance", ModelError)
    assert "no metric of one picture" in refused("fid", EvaluationError)
    assert "no metric of one picture" in refused("lpips", EvaluationError)
    monkeypatch.setitem(__import__("sys").modules, "pyiqa", None)
    assert "faitheir[musiq]" in refused("musiq", MissingDependencyError)


def test_networks_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alexnet: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    calls: list[Callable[[], object]] = [
        lambda: picture_metric("lpips_alex"),
        lambda: picture_metric("dists"),
        lambda: load_inception(None),
    ]
    for call in calls:
        with pytest.raises(ModelError, match=r"no network.*get http.*\.pth elsewhere and give the file"):
            call()
    with pytest.raises(ModelError, match="not the weights of 'inception'"):
        load_inception(alexnet)


# ----- sets of patches


def test_features_of_patches(inception: Path) -> None:
    extract = load_inception(inception)
    a = noise(300, 600)
    places = [(0, 0), (44, 256), (10, 344)]
    features = extract(a, places, 256, batch=2)
    assert features.shape == (3, WIDTH)
    assert features.dtype == np.float32
    for row, (top, left) in zip(features, places, strict=True):
        patch = torch.from_numpy(a[top : top + 256, left : left + 256].copy()).permute(2, 0, 1)[None]
        np.testing.assert_allclose(row, extract.extract(patch)[0].numpy(), rtol=1e-3, atol=1e-5)
    assert extract(a, [], 256, batch=2).shape == (0, WIDTH)
    assert "torch-fidelity" in extract.about


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), width=st.integers(2, 12))
def test_fid_agrees_with_its_formula(seed: int, width: int) -> None:
    """|m - n|^2 + trace(C + D - 2 (C D)^1/2), with SciPy's square root of a matrix."""
    sqrtm = pytest.importorskip("scipy.linalg").sqrtm
    pytest.importorskip("torch_fidelity")
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(60, width)) @ rng.normal(size=(width, width))
    b = rng.normal(size=(80, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)
    a, b = a.astype(np.float32), b.astype(np.float32)
    c, d = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    shift = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    expected = shift @ shift + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert fid(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert fid(a, a) == pytest.approx(0, abs=1e-4)


def plain_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased squared MMD under the kernel (x.y / D + 1)^3 (Binkowski et al. 2018)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within_a, within_b, between = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n = len(a)
    same = sum((matrix.sum() - np.trace(matrix)) / (n * (n - 1)) for matrix in (within_a, within_b))
    return float(same - 2 * between.mean())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(2, 60))
def test_kid_of_few_agrees_with_its_formula(seed: int, count: int) -> None:
    pytest.importorskip("torch_fidelity")
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(count, 6)).astype(np.float32) for _ in range(2))
    assert kid(a, b) == pytest.approx(plain_mmd(a, b), rel=1e-6, abs=1e-9)


def test_kid_of_many_is_the_mean_over_its_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    assert KID_SUBSETS == 100
    monkeypatch.setattr("faitheir.evaluation.distributions.KID_SUBSETS", 5)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(KID_SUBSET + 50, 3)).astype(np.float32) + shift for shift in (0, 0.2))
    draw = np.random.RandomState(2020)
    subsets = [plain_mmd(*(x[draw.choice(len(x), KID_SUBSET, replace=False)] for x in (a, b))) for _ in range(5)]
    assert kid(a, b) == pytest.approx(np.mean(subsets), rel=1e-6)
    assert kid(a, b) == kid(a, b)  # always the same subsets


def test_few_patches_carry_a_warning() -> None:
    assert "2,048 dimensions" in str(caution("fid", WIDTH))
    assert caution("fid", WIDTH + 1) is None
    assert "1,000" in str(caution("kid", KID_SUBSET - 1))
    assert caution("kid", KID_SUBSET) is None
    assert caution("lattice", 0) is None
