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
from PIL import Image
from safetensors.torch import load_file, save_file

import weights
from faitheir.errors import EvaluationError, MissingDependencyError, ModelError
from faitheir.evaluation.distributions import KID_SUBSET, KID_SUBSETS, WIDTH, caution, fid, kid, load_inception
from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.evaluation.protocols import PROTOCOLS, Protocol, find_protocol
from faitheir.features import FeatureNetwork, average_pooled, wasserstein_distortion


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


def plain_dists(a: np.ndarray, b: np.ndarray, state: dict[str, torch.Tensor]) -> float:
    """DISTS (Ding et al. 2020) from its formula."""
    import torch.nn.functional as F
    from torchmetrics.functional.image.dists import _PATH_WEIGHT_DISTS

    shared = torch.load(_PATH_WEIGHT_DISTS)
    window = torch.hann_window(5, periodic=False)[1:-1]
    window = torch.outer(window, window)
    window /= window.sum()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(rgb: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
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
    assert metric(a, b) == pytest.approx(plain_dists(a, b, weights.torchvision_state(weights.VGG16)), abs=1e-4)
    assert metric(a, b) > 0.01
    assert "torchmetrics" in metric.about


def test_dists_at_256_reduces_the_shorter_side(vgg16: Path) -> None:
    """As torchvision's resize of a PIL picture does, which the authors' script uses."""
    pytest.importorskip("torchmetrics")
    resize = pytest.importorskip("torchvision.transforms.functional").resize
    whole, reduced = (picture_metric(name, weights={"vgg16": vgg16}) for name in ("dists", "dists_256"))
    a, b = noise(270, 300), noise(270, 300, 1)
    small = [np.array(resize(Image.fromarray(p), 256)) for p in (a, b)]
    assert small[0].shape == (256, 284, 3)
    assert reduced(a, b) == pytest.approx(whole(*small), abs=1e-6)
    assert reduced(a[:64], b[:64]) == pytest.approx(whole(a[:64], b[:64]), abs=1e-6)
    assert whole.about != reduced.about


def plain_wasserstein(maps: list[tuple[np.ndarray, np.ndarray, float]]) -> float:
    """ArXiv 2412.00505 for constant sigma, in numpy; ``maps``: features (C, H, W) twice, log2 of their sigma."""
    from scipy.ndimage import convolve

    kernel = np.outer([1, 2, 1], [1, 2, 1])[None] / 16
    total = 0.0
    for a, b, level in maps:
        moments = [[x, x**2] for x in (a, b)]
        for number in range(6):
            if number:
                step = 1 if number == 1 else 2
                moments = [[convolve(m[:, ::step, ::step], kernel, mode="constant") for m in x] for x in moments]
            (ma, sa), (mb, sb) = ((m, np.sqrt(np.maximum(s - m**2, 0) + 1e-6)) for m, s in moments)
            total += max(0, 1 - abs(level - number)) * ((ma - mb) ** 2 + (sa - sb) ** 2).mean()
    return float(total)


@pytest.mark.parametrize("sigma", [1, 6, 16, 32])
def test_wasserstein_distortion_is_its_definition(sigma: float) -> None:
    pytest.importorskip("scipy.ndimage")
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    network = average_pooled(FeatureNetwork(layers, (1, 2), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    assert isinstance(network.layers[2], torch.nn.AvgPool2d)
    a, b = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64)
    found = wasserstein_distortion(network, a, b, sigma=sigma, scales=1)
    assert found.shape == (2,)
    for i in range(2):
        of_a, of_b = ([((x[i : i + 1] - network.mean) / network.std), *network(x[i : i + 1])] for x in (a, b))
        levels = (math.log2(sigma), math.log2(sigma), max(0, math.log2(sigma) - 1))
        maps = [(p[0].double().numpy(), q[0].double().numpy(), s) for p, q, s in zip(of_a, of_b, levels, strict=True)]
        assert float(found[i]) == pytest.approx(plain_wasserstein(maps), rel=1e-4)
    assert float(wasserstein_distortion(network, a, a, sigma=sigma).sum()) == 0


def test_wasserstein_distortion_forgives_another_sample_of_a_texture(vgg16: Path) -> None:
    metric = picture_metric("wasserstein", weights={"vgg16": vgg16})
    texture, other = noise(96, 128), noise(96, 128, 1)
    flat = np.full_like(texture, 127)
    assert psnr(texture, flat) > psnr(texture, other)
    assert metric(texture, other) < metric(texture, flat)
    assert metric(texture, texture) == 0
    assert math.isnan(metric(texture[:63], other[:63]))


def test_ms_ssim_is_its_formula_where_only_the_level_differs() -> None:
    pytest.importorskip("torchmetrics")
    metric = picture_metric("ms_ssim")
    a, b = np.full((180, 200, 3), 100, np.uint8), np.full((180, 200, 3), 120, np.uint8)
    luminance = (2 * 100 * 120 + 2.55**2) / (100**2 + 120**2 + 2.55**2)
    assert metric(a, b) == pytest.approx(luminance**0.1333, abs=1e-4)  # of the fifth scale alone
    assert metric(noise(180, 200), noise(180, 200)) == pytest.approx(1)
    assert 0 <= metric(noise(180, 200), noise(180, 200, 1)) < 0.2
    assert math.isnan(metric(a[:175], b[:175]))


@pytest.mark.parametrize(("shift", "wanted"), [(1, 96.150), (5, 89.732), (10, 80.291), (20, 59.779), (50, -0.391)])
def test_ssimulacra2_is_near_libjxls_program(shift: int, wanted: float) -> None:
    """On grey pictures of 256 x 256, 128 against 128 + shift: its worst case, see `_ssimulacra2`."""
    pytest.importorskip("ssimulacra2")
    metric = picture_metric("ssimulacra2")
    a = np.full((256, 256, 3), 128, np.uint8)
    assert wanted < metric(a, a + np.uint8(shift)) < wanted + 6.2
    assert metric(noise(256, 256), noise(256, 256)) == pytest.approx(100)
    assert math.isnan(metric(a[:255], a[:255]))


def plain_niqe(rgb: np.ndarray, mean: np.ndarray, covariance: np.ndarray, window: np.ndarray) -> float:
    """NIQE (Mittal et al. 2013) block by block, with SciPy's filter and gamma function."""
    from scipy.ndimage import convolve
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(x: np.ndarray) -> tuple[float, float, float]:
        left, right = np.sqrt((x[x < 0] ** 2).mean()), np.sqrt((x[x > 0] ** 2).mean())
        g = left / right
        ratio = np.abs(x).mean() ** 2 / (x**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        shape = shapes[np.argmin((ratios - ratio) ** 2)]
        scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        return shape, left * scale, right * scale

    y = np.rint(16 + rgb.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255)
    rows, columns = len(y) // 96, y.shape[1] // 96
    y = y[: rows * 96, : columns * 96]
    features: list[list[float]] = [[] for _ in range(rows * columns)]
    for side in (96, 48):
        mu = convolve(y, window, mode="nearest")
        sigma = np.sqrt(np.abs(convolve(y**2, window, mode="nearest") - mu**2))
        normal = (y - mu) / (sigma + 1)
        for index, found in enumerate(features):
            top, left = index // columns * side, index % columns * side
            block = normal[top : top + side, left : left + side]
            shape, low, high = fit(block)
            found += [shape, (low + high) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                shape, low, high = fit(block * np.roll(block, shift, axis=(0, 1)))
                found += [shape, (high - low) * gamma(2 / shape) / gamma(1 / shape), low, high]
        image = Image.fromarray(y.astype(np.float32)).resize((columns * 48, rows * 48), Image.Resampling.BICUBIC)
        y = np.asarray(image, dtype=float)
    table = np.array(features)
    gap = mean - table.mean(0)
    return float(np.sqrt(gap @ np.linalg.pinv((covariance + np.cov(table, rowvar=False)) / 2) @ gap))


def test_niqe_agrees_with_its_formula(tmp_path: Path) -> None:
    pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    root = rng.normal(size=(36, 36))
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    mean, covariance, window = rng.normal(size=36), root @ root.T, np.outer(line, line) / line.sum() ** 2
    arrays = {"mu_pris_param": mean[None], "cov_pris_param": covariance, "gaussian_window": window}
    np.savez(tmp_path / "niqe.npz", **arrays)
    metric = picture_metric("niqe", weights={"niqe": tmp_path / "niqe.npz"})
    coarse = Image.fromarray(noise(60, 90)).resize((300, 200), Image.Resampling.BICUBIC)
    rgb = np.asarray(coarse)
    assert metric(rgb, rgb) == pytest.approx(plain_niqe(rgb, mean, covariance, window), rel=1e-4)
    assert metric(rgb, rgb) == metric(noise(200, 300), rgb)  # of the restored picture alone
    assert math.isnan(metric(rgb[:190, :190], rgb[:190, :190]))
    (tmp_path / "bad.npz").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"bad\.npz: this is not NIQE's model"):
        picture_metric("niqe", weights={"niqe": tmp_path / "bad.npz"})
    with pytest.raises(ModelError, match=r"niqe_pris_params\.npz"):
        picture_metric("niqe")


MODELS = Path(__file__).parents[2] / "shared" / "models"


@pytest.mark.skipif(not MODELS.is_dir(), reason="the networks' files are not beside the repository, in shared/models")
def test_the_real_networks_agree_with_their_packages() -> None:
    """On a photograph; the authors' own example pictures come with no package. Half precision files."""
    lpips = pytest.importorskip("lpips")
    pytest.importorskip("torchmetrics")
    files = {"alexnet": MODELS / "alexnet_features.safetensors", "vgg16": MODELS / "vgg16_features.safetensors"}
    image = Image.open(Path(__file__).parents[1] / "examples" / "coffee.jpg").convert("RGB").crop((100, 50, 420, 290))
    a, b = np.asarray(image), np.asarray(image.resize((40, 30), Image.Resampling.BICUBIC).resize(image.size))
    for name, trunk, network in (("lpips_alex", "alexnet", "alex"), ("lpips_vgg", "vgg16", "vgg")):
        reference = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
        state = load_file(files[trunk])
        own = {key: state["features." + key.split(".", 1)[1]].float() for key in reference.net.state_dict()}
        reference.net.load_state_dict(own)
        x, y = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (a, b))
        with torch.no_grad():
            assert picture_metric(name, weights=files)(a, b) == pytest.approx(float(reference(x, y)), rel=1e-3)
    vgg16 = {key: value.float() for key, value in load_file(files["vgg16"]).items()}
    assert picture_metric("dists", weights=files)(a, b) == pytest.approx(plain_dists(a, b, vgg16), abs=1e-4)
    published = load_file(MODELS / "dists_alpha_beta.safetensors")
    shipped = torch.load(__import__("torchmetrics").functional.image.dists._PATH_WEIGHT_DISTS)
    for key in ("alpha", "beta"):
        torch.testing.assert_close(published[key].float().flatten(), shipped[key].flatten(), rtol=1e-3, atol=1e-4)
    with np.load(MODELS / "niqe_pris_params.npz") as file:
        model = [file[key] for key in ("mu_pris_param", "cov_pris_param", "gaussian_window")]
    whole = np.asarray(Image.open(Path(__file__).parents[1] / "examples" / "coffee.jpg").convert("RGB"))
    metric = picture_metric("niqe", weights={"niqe": MODELS / "niqe_pris_params.npz"})
    assert metric(whole, whole) == pytest.approx(plain_niqe(whole, model[0][0], model[1], model[2]), rel=1e-3)
    assert 2 < metric(whole, whole) < 6  # a photograph's


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
