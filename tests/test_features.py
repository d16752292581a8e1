"""Feature networks with random weights of the right shapes, and the distance and teachers made of them."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import weights as files_of
from faitheir.errors import MissingDependencyError, ModelError
from faitheir.features import (
    FeatureNetwork,
    feature_distance,
    load_feature_network,
    load_lpips,
    pointwise_distance,
    torchvision_state,
    wasserstein_distance,
)
from faitheir.training.teachers import FeatureTeacher, load_teacher
from tiny import picture
from weights import ALEXNET, random_state, save_torchvision, squeezenet_state

STRIDES = [2, 4, 4, 4, 4, 8, 8, 8, 8, 16]
WIDTHS = [96, 96, 128, 128, 256, 256, 384, 384, 512, 512]


def taesana_state() -> dict[str, Tensor]:
    shapes = {"0": torch.Size((32, 3, 3, 3)), "2": torch.Size((64, 32, 3, 3))}
    blocks = [4, *(i + k for i in (5, 9, 13) for k in (1, 2, 3))]
    for i in blocks:
        shapes |= {f"{i}.conv.{k}": torch.Size((64, 64, 3, 3)) for k in (0, 2, 4)}
    shapes |= {str(i): torch.Size((64, 64, 3, 3)) for i in (5, 9, 13)}
    shapes["17"] = torch.Size((32, 64, 3, 3))
    state = random_state(shapes)
    for i in (5, 9, 13):  # the convolutions that halve have no bias
        del state[f"{i}.bias"]
    return state


STATES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "squeezenet": squeezenet_state,
    "taesana": taesana_state,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name, state in STATES.items():
        paths[name] = folder / f"{name}.safetensors"
        save_file(state(), paths[name])
    return paths


@pytest.fixture(params=["squeezenet", "taesana"])
def network(request: pytest.FixtureRequest, files: dict[str, Path]) -> FeatureNetwork:
    return load_feature_network(request.param, files[request.param])


# ----- the networks


def plain_squeezenet(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Features after conv1, pool1 and each fire, from the weights alone."""

    def conv(name: str, h: Tensor, **options: Any) -> Tensor:
        name = f"features.{name}"
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **options).relu()

    h = conv("0", (x * 255 - torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1)) / 255, stride=2)
    features = [h]
    for i in range(2, 13):
        if i in (2, 6, 11):
            h = F.max_pool2d(h, 3, 2, ceil_mode=True)
        else:
            s = conv(f"{i}.squeeze", h)
            h = torch.cat([conv(f"{i}.expand1x1", s), conv(f"{i}.expand3x3", s, padding=1)], 1)
        if i not in (6, 11):
            features.append(h)
    return features


def test_squeezenet(files: dict[str, Path]) -> None:
    x = picture(2, 96, 128)
    features = load_feature_network("squeezenet", files["squeezenet"])(x)
    assert [f.shape[1] for f in features] == WIDTHS
    for feature, stride in zip(features, STRIDES, strict=True):
        for side, whole in zip(feature.shape[2:], x.shape[2:], strict=True):
            assert whole / stride - 4 < side <= whole / stride
        assert feature.min() >= 0
    for ours, plain in zip(features, plain_squeezenet(squeezenet_state(), x), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_taesana(files: dict[str, Path]) -> None:
    x = picture(1, 64, 96)
    features = load_feature_network("taesana", files["taesana"])(x)
    assert [tuple(f.shape) for f in features] == [(1, 64, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    state = taesana_state()
    h = F.conv2d(x, state["0.weight"], state["0.bias"], stride=2, padding=1).relu()
    h = F.conv2d(h, state["2.weight"], state["2.bias"], stride=2, padding=1).relu()
    skip = h
    for k in (0, 2, 4):
        h = F.conv2d(h if k == 0 else h.relu(), state[f"4.conv.{k}.weight"], state[f"4.conv.{k}.bias"], padding=1)
    torch.testing.assert_close(features[0], (h + skip).relu(), atol=1e-5, rtol=1e-4)


def test_networks_are_frozen_and_pictures_still_get_gradients(network: FeatureNetwork) -> None:
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    x = picture(48, 48).requires_grad_()
    feature_distance(network, x, picture(48, 48, seed=1)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any()


# ----- the distance


def plain_distance(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """As it is written: unit-normalised over channels, squared difference summed over channels, averaged
    over space, summed over the layers.
    """
    total = torch.zeros(len(a), dtype=torch.float64)
    for fa, fb in zip(network(a), network(b), strict=True):
        units = [f.double() / f.double().square().sum(1, keepdim=True).sqrt().clamp_min(1e-10) for f in (fa, fb)]
        total += (units[0] - units[1]).square().sum(1).mean((1, 2))
    return total


def test_distance_agrees_with_its_definition(network: FeatureNetwork) -> None:
    a, b = picture(3, 48, 64), picture(3, 48, 64, seed=1)
    b[1] = 0.9 * a[1] + 0.1 * b[1]
    got = feature_distance(network, a, b)
    assert got.shape == (3,)
    torch.testing.assert_close(got.double(), plain_distance(network, a, b), atol=1e-5, rtol=1e-4)
    assert 0 < got[1] < got[0]
    torch.testing.assert_close(got, feature_distance(network, b, a))


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_gradient_of_the_distance_agrees_with_its_definition(
    network: FeatureNetwork, wanted: tuple[bool, bool]
) -> None:
    ours, plain = ([picture(2, 40, 48, seed=s).requires_grad_(w) for s, w in enumerate(wanted)] for _ in range(2))
    weights = torch.tensor([1.0, -3.0])
    (weights * feature_distance(network, *ours)).sum().backward()
    (weights * plain_distance(network, *plain)).sum().backward()
    for x, y in zip(ours, plain, strict=True):
        assert (x.grad is None) is (y.grad is None)
        if x.grad is not None:
            torch.testing.assert_close(x.grad, y.grad, atol=1e-5 * float(y.grad.abs().max()), rtol=1e-3)


def test_equal_pictures_have_no_distance(network: FeatureNetwork) -> None:
    a = picture(2, 40, 40)
    assert feature_distance(network, a, a.clone()).tolist() == [0, 0]
    nearly = feature_distance(network, a, (a + 0.02 * picture(2, 40, 40, seed=1)).clamp(0, 1))
    assert (nearly > 0).all()


@pytest.mark.parametrize("zero", ["both", "one"])
def test_features_that_are_all_zero(tmp_path: Path, zero: str) -> None:
    """ReLU leaves features with no direction. The distance is 0 or 1 a layer there, the gradient finite."""
    state = {k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in squeezenet_state().items()}
    if zero == "both":
        state = {k: torch.zeros_like(v) for k, v in state.items()}
    save_file(state, tmp_path / "weights.safetensors")
    network = load_feature_network("squeezenet", tmp_path / "weights.safetensors")
    black = network.mean.expand(1, 3, 48, 48).clone().requires_grad_()  # it gives 0 in every layer
    other = picture(48, 48).requires_grad_()
    distance = feature_distance(network, black, other)
    assert not any(f.any() for f in network(black))
    assert float(distance.detach()) == pytest.approx(0 if zero == "both" else len(STRIDES), abs=1e-4)
    distance.sum().backward()
    for each in (black, other):
        assert each.grad is not None
        assert each.grad.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99))
def test_wasserstein_distance_is_one_of_local_statistics(first: int, second: int) -> None:
    a, b = ([torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(s))] for s in (first, second))
    got = wasserstein_distance(a, b)
    assert torch.equal(got, wasserstein_distance(b, a))
    assert (got >= 0).all()
    assert wasserstein_distance(a, a).abs().max() == 0
    # One window over all 16 x 16 positions sees no order: the same features elsewhere are no distance away.
    order = torch.randperm(256, generator=torch.Generator().manual_seed(first))
    moved = [a[0].flatten(2)[..., order].unflatten(2, (16, 16))]
    assert wasserstein_distance(a, moved, windows=(16,)).max() < 1e-6
    assert pointwise_distance(a, moved).min() > 0.01


def test_wasserstein_distance_agrees_with_the_formula_for_normal_distributions() -> None:
    a, b = (torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    unit = [(f / f.norm(dim=1, keepdim=True)).flatten(2) for f in (a, b)]
    means = [u.mean(2) for u in unit]
    deviations = [u.var(2, correction=0).sqrt() for u in unit]
    expected = sum((p[0] - p[1]).square().sum() for p in (means, deviations))
    torch.testing.assert_close(wasserstein_distance([a], [b], windows=(4,))[0], expected, atol=1e-4, rtol=1e-3)


def test_wasserstein_distance_has_gradients_where_features_are_constant() -> None:
    a = torch.zeros(1, 3, 8, 8, requires_grad=True)
    wasserstein_distance([a], [torch.ones(1, 3, 8, 8)]).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_alexnet(tmp_path: Path) -> None:
    """Our plain sequence gives what torchvision's layers give at each ReLU."""
    torchvision = pytest.importorskip("torchvision")
    file = save_torchvision(tmp_path / "alexnet.pth", ALEXNET)
    network = load_feature_network("alexnet", file)
    reference = torchvision.models.alexnet(weights=None).features.eval()
    reference.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(file).items()})
    x = picture(96, 80)
    h, found = (x - network.mean) / network.std, []
    for layer in reference:
        h = layer(h.clone())
        if isinstance(layer, torch.nn.ReLU):
            found.append(h)
    with torch.no_grad():
        for got, expected in zip(network(x), found, strict=True):
            torch.testing.assert_close(got, expected)


LITE0_BLOCKS = {  # inputs, outputs, kernel, stride of each block that is used, as Tan and Le's table has them
    **{0: (32, 16, 3, 1), 1: (16, 24, 3, 2), 2: (24, 24, 3, 1), 3: (24, 40, 5, 2), 4: (40, 40, 5, 1)},
    **{5: (40, 80, 3, 2), 6: (80, 80, 3, 1), 7: (80, 80, 3, 1)},
    **{8: (80, 112, 5, 1), 9: (112, 112, 5, 1), 10: (112, 112, 5, 1)},
}


def lite0_state() -> dict[str, Tensor]:
    shapes = {"_conv_stem": (32, 3, 3, 3)}
    norms = {"_bn0": 32}
    for i, (inputs, outputs, kernel, _) in LITE0_BLOCKS.items():
        wide = inputs * 6 if i else inputs
        if i:
            shapes[f"_blocks.{i}._expand_conv"], norms[f"_blocks.{i}._bn0"] = (wide, inputs, 1, 1), wide
        shapes[f"_blocks.{i}._depthwise_conv"], norms[f"_blocks.{i}._bn1"] = (wide, 1, kernel, kernel), wide
        shapes[f"_blocks.{i}._project_conv"], norms[f"_blocks.{i}._bn2"] = (outputs, wide, 1, 1), outputs
    g = torch.Generator().manual_seed(0)
    state = {f"{n}.weight": torch.randn(s, generator=g) / math.prod(s[1:]) ** 0.5 for n, s in shapes.items()}
    for name, width in norms.items():
        state |= {f"{name}.{key}": torch.rand(width, generator=g) for key in ("weight", "bias", "running_var")}
        state[f"{name}.running_mean"] = torch.randn(width, generator=g)
    return state


@pytest.mark.parametrize("size", [(64, 96), (63, 77)])
def test_efficientnet_lite0(tmp_path: Path, size: tuple[int, int]) -> None:
    """Folded convolutions give what convolutions, padding as TensorFlow's and batch normalisation give one by one."""
    state = lite0_state()
    save_file(state, tmp_path / "lite0.safetensors")
    network = load_feature_network("efficientnet_lite0", tmp_path / "lite0.safetensors")

    def conv(name: str, norm: str, h: Tensor, stride: int = 1, *, act: bool = True) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel = weight.shape[-1]
        needed = [(-(-n // stride) - 1) * stride + kernel - n for n in h.shape[2:]]
        before = [max(n, 0) // 2 for n in needed]
        after = [max(n, 0) - b for n, b in zip(needed, before, strict=True)]
        h = F.pad(h, (before[1], after[1], before[0], after[0]))
        h = F.conv2d(h, weight, stride=stride, groups=len(weight) if weight.shape[1] == 1 else 1)
        keys = ("running_mean", "running_var", "weight", "bias")
        h = F.batch_norm(h, *(state[f"{norm}.{key}"] for key in keys), eps=1e-3)
        return h.clamp(0, 6) if act else h

    x = picture(1, *size)
    h = conv("_conv_stem", "_bn0", (x * 255 - 127) / 128, 2)
    found = [h]
    for i, (inputs, outputs, _, stride) in LITE0_BLOCKS.items():
        name, before = f"_blocks.{i}", h
        if i:
            h = conv(f"{name}._expand_conv", f"{name}._bn0", h)
        h = conv(f"{name}._depthwise_conv", f"{name}._bn1", h, stride)
        h = conv(f"{name}._project_conv", f"{name}._bn2", h, act=False)
        h = h + before if stride == 1 and inputs == outputs else h
        if i in (0, 2, 4, 7, 10):
            found.append(h)
    for got, expected in zip(network(x), found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    save_file(squeezenet_state(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not the weights of 'efficientnet_lite0'"):
        load_feature_network("efficientnet_lite0", tmp_path / "other.safetensors")


def test_distance_is_float32_in_half_precision(files: dict[str, Path]) -> None:
    network = load_feature_network("squeezenet", files["squeezenet"])
    a, b = picture(1, 48, 48), picture(1, 48, 48, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = feature_distance(network, a, b)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, feature_distance(network, a, b), atol=0, rtol=0.05)


# ----- loading


def test_missing_and_damaged_files(tmp_path: Path, files: dict[str, Path]) -> None:
    def refused(name: Any, path: Path | None) -> str:
        with pytest.raises(ModelError) as caught:
            load_feature_network(name, path)
        assert str(path) in str(caught.value) or path is None
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cannot be read" in refused("squeezenet", tmp_path / "nowhere.safetensors")
    assert "cannot be read" in refused("taesana", tmp_path)
    (tmp_path / "bad").write_bytes(b"\x80\x02cos\nsystem\n")
    assert "cannot be read" in refused("squeezenet", tmp_path / "bad")
    whole = files["squeezenet"].read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refused("squeezenet", tmp_path / "half")
    assert "not the weights of 'squeezenet'" in refused("squeezenet", files["taesana"])
    assert "not the weights of 'taesana'" in refused("taesana", files["squeezenet"])
    state = load_file(files["squeezenet"])
    state["features.0.weight"] = state["features.0.weight"][:, :, :3, :3].contiguous()
    save_file(state, tmp_path / "shape")
    assert "not the weights of 'squeezenet'" in refused("squeezenet", tmp_path / "shape")
    for name in ("squeezenet", "taesana"):
        assert "give the file with the option 'weights'" in refused(name, None)


def test_half_precision_weights_are_used_in_float32(tmp_path: Path) -> None:
    save_file({k: v.half() for k, v in squeezenet_state().items()}, tmp_path / "half.safetensors")
    network = load_feature_network("squeezenet", tmp_path / "half.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_vgg_without_torchvision_says_what_to_install(files: dict[str, Path]) -> None:
    for weights in (None, files["squeezenet"]):
        with pytest.raises(MissingDependencyError, match="pip install torchvision"):
            load_feature_network("vgg16", weights)


def test_vgg(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.vgg16(weights=None)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
    save_file(state, tmp_path / "vgg.safetensors")
    features = load_feature_network("vgg16", tmp_path / "vgg.safetensors")(picture(32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [
        (width, 32 // stride, 48 // stride)
        for width, stride in zip((64, 128, 256, 512, 512), (1, 2, 4, 8, 16), strict=True)
    ]
    assert all(f.min() >= 0 for f in features)


# ----- LPIPS


def alexnet_state() -> dict[str, Tensor]:
    return files_of.torchvision_state(files_of.ALEXNET)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lpips")
    return files_of.save_torchvision(tmp_path_factory.mktemp("weights") / "alexnet.pth", files_of.ALEXNET)


def test_lpips_is_that_of_the_package(alexnet: Path) -> None:
    ours = load_lpips("alex", alexnet)
    a, b = picture(2, 64, 80), picture(2, 64, 80, seed=1)
    b[1] = 0.9 * a[1] + 0.1 * b[1]
    got = ours(a, b)
    assert got.shape == (2,)
    torch.testing.assert_close(got, ours.model(a, b, normalize=True).flatten(), rtol=1e-5, atol=1e-7)
    assert 0 < got[1] < got[0]
    assert ours(a, a.clone()).tolist() == [0, 0]
    loaded = ours.model.net.slice2.state_dict()["3.weight"]
    torch.testing.assert_close(loaded, alexnet_state()["features.3.weight"])
    assert any(p.any() for p in ours.model.lins.parameters())  # the learned weights come with the package


def test_lpips_has_gradients_where_features_are_zero(tmp_path: Path, alexnet: Path) -> None:
    state = {k: v if k.endswith("weight") else torch.full_like(v, -1e3) for k, v in alexnet_state().items()}
    save_file(state, tmp_path / "dead.safetensors")
    for path in (alexnet, tmp_path / "dead.safetensors"):
        a = picture(64, 64).requires_grad_()
        load_lpips("alex", path)(a, picture(64, 64, seed=1)).sum().backward()
        assert a.grad is not None
        assert a.grad.isfinite().all()
        assert bool((a.grad != 0).any()) == (path == alexnet)


def test_lpips_weights_that_are_none(tmp_path: Path, alexnet: Path) -> None:
    with pytest.raises(ModelError, match="not the weights of 'vgg16'"):
        load_lpips("vgg", alexnet)
    with pytest.raises(ModelError, match="cannot be read"):
        load_lpips("alex", tmp_path / "nowhere.pth")
    torch.save({"state_dict": alexnet_state()}, tmp_path / "nested.pth")
    with pytest.raises(ModelError, match="not the weights of 'alexnet'"):
        load_lpips("alex", tmp_path / "nested.pth")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"features.0.weight": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        torchvision_state("alexnet", tmp_path / "bad.pth")
    assert not (tmp_path / "harmed").exists()


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"'alexnet' could not be fetched by torchvision .*no network.*alexnet-.*pth"):
        torchvision_state("alexnet", None)


# ----- teachers


def test_squeezenet_as_a_teacher(files: dict[str, Path]) -> None:
    teacher = load_teacher("squeezenet", str(files["squeezenet"]), 23)
    assert isinstance(teacher, FeatureTeacher)
    x = picture(2, 64, 96)
    features = teacher.features(x, (4, 6))
    assert features.shape == (2, teacher.width, 4, 6)
    assert features.dtype == torch.float32
    same = teacher.network(x)[-1]
    torch.testing.assert_close(teacher.features(x, tuple(same.shape[2:])), same)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return str(folder), model


@pytest.mark.parametrize("scale", [16, 32])
def test_dinov2_features_fall_on_thumbnail_pixels(dinov2: tuple[str, Any], scale: int) -> None:
    teacher = load_teacher("dinov2", dinov2[0], 0)  # layer 0, the patches by themselves, has no attention
    assert teacher.width == 16
    assert not any(p.requires_grad for p in teacher.parameters())
    x = torch.full((1, 3, 3 * scale, 5 * scale), 0.5)
    before = teacher.features(x, (3, 5))
    assert before.shape == (1, 16, 3, 5)
    for i, j in [(0, 0), (1, 3), (2, 4)]:
        other = x.clone()
        middle = slice(scale // 4, -(scale // 4))
        other[:, :, i * scale : (i + 1) * scale, j * scale : (j + 1) * scale][:, :, middle, middle] = 1
        change = (teacher.features(other, (3, 5)) - before).abs().sum((0, 1))
        assert change.argmax() == i * 5 + j
        assert change[i, j] > 20 * (change.sum() - change[i, j])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_dinov2_layers(dinov2: tuple[str, Any], layer: int) -> None:
    """Where one patch is one thumbnail pixel already, they are the model's own hidden states."""
    folder, model = dinov2
    x = picture(2, 28, 42)
    teacher = load_teacher("dinov2", folder, layer)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = ((x.movedim(1, -1) - mean) / std).movedim(-1, 1)
    with torch.no_grad():
        hidden = model(pixel_values=normal, output_hidden_states=True).hidden_states[layer]
        got = teacher.features(x, (2, 3))
    torch.testing.assert_close(got, hidden[:, 1:].transpose(1, 2).reshape(2, 16, 2, 3), atol=1e-4, rtol=1e-4)


def test_dinov2_that_cannot_be_had(dinov2: tuple[str, Any], tmp_path: Path) -> None:
    for layer in (-1, 3, 23):
        with pytest.raises(ModelError, match=f"hidden layers 0 to 2; there is no layer {layer}"):
            load_teacher("dinov2", dinov2[0], layer)
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match="could not be loaded") as caught:
            load_teacher("dinov2", str(missing), 1)
        assert str(missing) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
def test_dinov2_without_transformers_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'faitheir\[turbo\]'"):
        load_teacher("dinov2", None, 23)
