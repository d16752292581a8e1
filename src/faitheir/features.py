"""Pretrained feature networks: for perceptual losses and distances, and as semantic teachers.

None is part of this package. Each is loaded from a local file, or by the library that publishes it.
"""

import math
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from faitheir.errors import ModelError, needs

FeatureName = Literal["alexnet", "efficientnet_lite0", "squeezenet", "taesana", "vgg16"]
LPIPSName = Literal["alex", "vgg"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNetwork(nn.Module):
    """A frozen network that lists its features, shallow to deep: (B, 3, H, W) in [0, 1] -> [(B, C_i, H_i,
    W_i)].

    ``tap`` says which layers of the sequence ``layers`` are listed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, layers: nn.Sequential, tap: Iterable[int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.layers = layers
        self.tap = frozenset(tap)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every tapped layer."""
        h = (x - self.mean) / self.std
        features = []
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i in self.tap:
                features.append(h)
        return features


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


def squeezenet(state: dict[str, Tensor]) -> FeatureNetwork:
    """SqueezeNet 1.0 under torchvision's names: features after conv1 (ReLU), pool1 and each fire.

    Strides 2 to 16.
    """

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = nn.Sequential(
        nn.Conv2d(3, 96, 7, 2),
        nn.ReLU(),
        pool(),
        _Fire(96, 16, 64),
        _Fire(128, 16, 64),
        _Fire(128, 32, 128),
        pool(),
        _Fire(256, 32, 128),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        pool(),
        _Fire(512, 64, 256),
    )
    prefix = "features."
    layers.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    mean = (123 / 255, 117 / 255, 104 / 255)
    return FeatureNetwork(layers, (1, 2, 3, 4, 5, 7, 8, 9, 10, 12), mean, (1.0, 1.0, 1.0))


class _TaesanaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        convs = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))
        first, second, third = convs
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


def taesana(state: dict[str, Tensor]) -> FeatureNetwork:
    """The TAESANA encoder: features after each group of blocks, strides 4 to 32."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 32, 3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, padding=1),
        nn.ReLU(),
        _TaesanaBlock(),
    ]
    tap = [4]
    for _ in range(3):
        layers += [
            nn.Conv2d(64, 64, 3, 2, padding=1, bias=False),
            _TaesanaBlock(),
            _TaesanaBlock(),
            _TaesanaBlock(),
        ]
        tap.append(len(layers) - 1)
    layers.append(nn.Conv2d(64, 32, 3, padding=1))
    network = nn.Sequential(*layers)
    network.load_state_dict(state)
    return FeatureNetwork(network, tap, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def alexnet(state: dict[str, Tensor]) -> FeatureNetwork:
    """AlexNet under torchvision's names: features after each of its five ReLUs, strides 4 to 16."""
    layers = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    prefix = "features."
    layers.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return FeatureNetwork(layers, (1, 4, 7, 9, 11), IMAGENET_MEAN, IMAGENET_STD)


class _SameConv(nn.Conv2d):
    """A convolution whose output is ceil(input / stride) a side, padded as TensorFlow does: more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pad = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
        x = F.pad(x, (pad[1] // 2, pad[1] - pad[1] // 2, pad[0] // 2, pad[0] - pad[0] // 2))
        return super().forward(x)


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        expand = (nn.Conv2d(inputs, wide, 1), nn.ReLU6()) if expansion > 1 else ()
        depthwise = _SameConv(wide, wide, kernel, stride, groups=wide)
        self.layers = nn.Sequential(*expand, depthwise, nn.ReLU6(), nn.Conv2d(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layers(x)
        return x + h if self.residual else h


#: Of EfficientNet-Lite0, as far as it is used: repeats, kernel, stride, expansion and outputs of each stage.
_LITE0_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))


def efficientnet_lite0(state: dict[str, Tensor]) -> FeatureNetwork:
    """EfficientNet-Lite0 under the names of efficientnet-lite-pytorch: features after the stem (ReLU6) and each of
    the first five stages, strides 2 to 16.

    Batch normalisation is folded into the convolutions.
    """
    layers: list[nn.Module] = [_SameConv(3, 32, 3, 2), nn.ReLU6()]
    tap, folded = [1], _fold(state, "_conv_stem.weight", "_bn0", "0")
    width, block = 32, 0
    for repeats, kernel, stride, expansion, outputs in _LITE0_STAGES:
        for repeat in range(repeats):
            name, at = f"_blocks.{block}", f"{len(layers)}.layers"
            layers.append(_InvertedResidual(width, outputs, kernel, stride if repeat == 0 else 1, expansion))
            convs = [("_expand_conv", "_bn0")] * (expansion > 1) + [
                ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            ]
            for i, (conv, norm) in enumerate(convs):
                folded |= _fold(state, f"{name}.{conv}.weight", f"{name}.{norm}", f"{at}.{2 * i}")
            width, block = outputs, block + 1
        tap.append(len(layers) - 1)
    network = nn.Sequential(*layers)
    network.load_state_dict(folded)
    return FeatureNetwork(network, tap, (127 / 255,) * 3, (128 / 255,) * 3)


def _fold(state: dict[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    """A convolution's weight and bias with the batch normalisation (epsilon 0.001) that follows it. RuntimeError where
    ``state`` lacks them.
    """
    try:
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        factor = state[f"{norm}.weight"] * (variance + 1e-3).rsqrt()
        weight, bias = state[conv] * factor.view(-1, 1, 1, 1), state[f"{norm}.bias"] - mean * factor
    except KeyError as error:
        raise RuntimeError(f"there is no {error}") from None
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def vgg16(state: dict[str, Tensor]) -> FeatureNetwork:
    """VGG16 through torchvision: the last ReLU of each of its five stages (relu1_2 .. relu5_3), strides 1 to
    16.
    """
    models = _torchvision("vgg16").models
    with torch.device("meta"):  # its classifier, half a gigabyte, is not needed
        layers = models.vgg16(weights=None).features
    layers.to_empty(device="cpu")
    prefix = "features."
    layers.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return FeatureNetwork(layers, (3, 8, 15, 22, 29), IMAGENET_MEAN, IMAGENET_STD)


_BUILDERS: dict[str, Callable[[dict[str, Tensor]], FeatureNetwork]] = {
    "alexnet": alexnet,
    "efficientnet_lite0": efficientnet_lite0,
    "squeezenet": squeezenet,
    "taesana": taesana,
    "vgg16": vgg16,
}


#: Where weights come from that no library fetches.
_SOURCES = {
    "efficientnet_lite0": "efficientnet_lite0.safetensors: EfficientNet-Lite0 under the names of the package "
    "efficientnet-lite-pytorch",
    "squeezenet": "squeezenet1_0.safetensors: SqueezeNet v1.0 as its authors released it, under torchvision's names",
    "taesana": "taesana_encoder.safetensors: the encoder of TAESANA by Ollin Boer Bohan, numbered as a plain sequence",
}


def read_state(name: str, path: str | Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in one of torch's (.pth, .pt), of which nothing else is unpickled.

    In float32 where they are floating-point. ``name``: the network's, for messages. Raises ModelError.
    """
    try:
        if Path(path).suffix.lower() in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            state = load_file(path)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: cannot be read as weights of '{name}' ({lines[0]}).") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: these are not the weights of '{name}'.")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def torchvision_state(name: Literal["alexnet", "vgg16"], weights: str | Path | None) -> dict[str, Tensor]:
    """ImageNet weights of one of torchvision's networks, from a local file or, for None, as torchvision fetches them.

    Raises ModelError where they are not available, MissingDependencyError without torchvision.
    """
    if weights is not None:
        return read_state(name, weights)
    published = _torchvision(name).models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights of '{name}' could not be fetched by torchvision ({error}); get {published.url} "
            "elsewhere and give the file."
        ) from None
    return state


def _torchvision(name: str) -> Any:
    with needs(f"The feature network '{name}' needs torchvision: pip install torchvision."):
        import torchvision
    return torchvision


def load_feature_network(name: FeatureName, weights: str | Path | None) -> FeatureNetwork:
    """The network ``name`` with ``weights`` from a local file, see ``read_state`` (for alexnet and vgg16, None lets
    torchvision fetch).

    Raises ModelError where the file is missing, cannot be read, or does not fit.
    """
    if name == "alexnet" or name == "vgg16":
        state = torchvision_state(name, weights)
    elif weights is None:
        raise ModelError(
            f"The feature network '{name}' needs its weights, {_SOURCES[name]}; "
            "give the file with the option 'weights'."
        )
    else:
        state = read_state(name, weights)
    try:
        return _BUILDERS[name](state)
    except RuntimeError:
        raise ModelError(f"{weights}: these are not the weights of '{name}'.") from None


class LPIPS(nn.Module):
    """Zhang et al. 2018, version 0.1, with the networks and linear weights of the ``lpips`` package; frozen.

    The package's own formula has no finite gradient where a layer's features are all zero; this one has, and agrees
    with it otherwise.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of pictures (B, 3, H, W) in [0, 1]: shape (B,), 0 where equal."""
        fa, fb = (self.model.net(self.model.scaling_layer(2 * x - 1)) for x in (a, b))
        total = torch.zeros(len(a), device=a.device)
        for p, q, linear in zip(fa, fb, self.model.lins, strict=True):
            p, q = (f / (f.square().sum(1, keepdim=True) + 1e-20).sqrt() for f in (p.float(), q.float()))
            total = total + linear((p - q).square()).mean((1, 2, 3))
        return total


def load_lpips(net: LPIPSName, weights: str | Path | None) -> LPIPS:
    """LPIPS on AlexNet or VGG16.

    ``weights``: a local file of torchvision's alexnet or vgg16 under torchvision's names (see ``read_state``; of it the
    convolutions are used); None lets torchvision fetch it. Raises ModelError or MissingDependencyError.
    """
    name: Literal["alexnet", "vgg16"] = "alexnet" if net == "alex" else "vgg16"
    with needs("LPIPS needs the package lpips: pip install 'faitheir[eval]'."):
        import lpips
    state = torchvision_state(name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips asks torchvision for a network without weights in an old way
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # Its trunk is torchvision's sequence cut into slices, in which the layers keep their numbers.
    trunk = {key: "features." + key.split(".", 1)[1] for key in model.net.state_dict()}
    try:
        model.net.load_state_dict({key: state[source] for key, source in trunk.items()})
    except (KeyError, RuntimeError):
        raise ModelError(f"{weights}: these are not the weights of '{name}'.") from None
    return LPIPS(model)


def feature_distance(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """Perceptual distance of pictures (B, 3, H, W) in [0, 1]: shape (B,), 0 where equal.

    Each tapped layer's features are unit-normalised over channels; the squared difference is summed over
    channels, averaged over space and summed over the layers (LPIPS, Zhang et al. 2018, without its learned
    weights).
    """
    return pointwise_distance(network(a), network(b))


def pointwise_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """``feature_distance`` of features that are there already: lists of (B, C_i, H_i, W_i) -> (B,)."""
    total = torch.zeros(a[0].shape[0], device=a[0].device)
    for fa, fb in zip(a, b, strict=True):
        difference: Tensor = _UnitDifference.apply(fa, fb)
        total = total + difference.mean((1, 2))
    return total


#: Sides of the windows in which ``wasserstein_distance`` compares statistics, in positions of a layer.
WASSERSTEIN_WINDOWS = (4, 16)


def wasserstein_distance(
    a: Sequence[Tensor], b: Sequence[Tensor], windows: Sequence[int] = WASSERSTEIN_WINDOWS
) -> Tensor:
    """Distance of the local statistics of features: lists of (B, C_i, H_i, W_i) -> (B,), 0 where they are equal.

    In square windows that overlap by half, the squared differences of the features' means and of their standard
    deviations are summed over channels: the squared 2-Wasserstein distance of two normal distributions, channel by
    channel. It is averaged over positions and windows and summed over the layers. After Wasserstein distortion (Qiu
    et al. 2024, arXiv 2412.00505), which pools with Gaussians whose size varies over the picture and takes VGG's
    features as they are; here windows are boxes of fixed sizes, since every place is looked at alike, and features are
    unit-normalised over channels, so that layers weigh alike.
    """
    total = torch.zeros(a[0].shape[0], device=a[0].device)
    for fa, fb in zip(a, b, strict=True):
        ua, ub = (f.float() * (f.float().square().sum(1, keepdim=True) + 1e-10).rsqrt() for f in (fa, fb))
        for window in windows:
            side = min(window, *fa.shape[2:])
            difference = statistics_difference(*(_window_moments(u, side) for u in (ua, ub)))
            total = total + difference.sum(1).mean((1, 2)) / len(windows)
    return total


def _window_moments(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Means, and means of squares, in windows of ``side`` that overlap by half."""
    step = max(1, side // 2)
    return F.avg_pool2d(x, side, step), F.avg_pool2d(x.square(), side, step)


def average_pooled(network: FeatureNetwork) -> FeatureNetwork:
    """The same network and weights with average for max pooling, up to its last feature."""
    used = list(network.layers)[: max(network.tap) + 1]
    layers = (nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in used)
    mean, std = (tuple(values.flatten().tolist()) for values in (network.mean, network.std))
    return FeatureNetwork(nn.Sequential(*layers), network.tap, mean, std)


def wasserstein_distortion(
    network: FeatureNetwork, a: Tensor, b: Tensor, *, sigma: float = 16, scales: int = 3, levels: int = 5
) -> Tensor:
    """Wasserstein distortion of pictures (B, 3, H, W) in [0, 1]: shape (B,), 0 where equal (arXiv 2412.00505).

    Of the normalised picture, and of the ``network``'s features at ``scales`` scales (each half the one before), the
    means and standard deviations around each position are compared: the squared differences of both, averaged over
    channels and positions, are summed over the maps. What is around a position reaches about ``sigma`` pixels of the
    picture, less in the pixels of a coarser map, down to the position itself; between powers of two it is
    interpolated. ``levels``: of pooling, so ``sigma`` is at most 2 ** levels.

    With VGG16 under average pooling this is the paper's distortion, but for these deviations: ``sigma`` is constant
    where the paper draws it from a saliency map (larger where people look less), and pictures of even size are halved
    at even positions, half a pixel beside those of the authors' code.
    """

    def maps(x: Tensor) -> Iterator[Tensor]:
        yield (x - network.mean) / network.std
        for _ in range(scales):
            yield from network(x)
            # What lies outside is the mean colour, as zeros are in the normalised picture.
            x = _binomial(x - network.mean, 2) + network.mean

    total = torch.zeros(len(a), device=a.device)
    for p, q in zip(maps(a), maps(b), strict=True):
        shrunk = sum(math.log2(whole / part) for whole, part in zip(a.shape[2:], p.shape[2:], strict=True)) / 2
        level = min(max(math.log2(sigma) - shrunk, 0.0), float(levels))
        for parts in zip(*(torch.split(x.float(), 16, 1) for x in (p, q)), strict=True):  # few, to bound memory
            moments = [(x, x.square()) for x in parts]
            for number in range(math.ceil(level) + 1):
                if number:
                    step = 1 if number == 1 else 2
                    moments = [
                        (_binomial(mean[:, :, ::step, ::step], 1), _binomial(square[:, :, ::step, ::step], 1))
                        for mean, square in moments
                    ]
                if (weight := 1 - abs(level - number)) > 0:
                    found = statistics_difference(*moments).mean((2, 3)).sum(1)
                    total = total + weight * found / p.shape[1]
    return total


def statistics_difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Squared 2-Wasserstein distance of normal distributions with the given means and means of squares."""
    # The floor keeps the root's gradient finite where a feature is constant.
    deviations = [((square - mean.square()).clamp_min(0) + 1e-6).sqrt() for mean, square in (a, b)]
    return (a[0] - b[0]).square() + (deviations[0] - deviations[1]).square()


def _binomial(x: Tensor, stride: int) -> Tensor:
    """Weights 1, 2, 1 across and down, zeros outside: (B, C, H, W) -> (B, C, H / stride, W / stride)."""
    return F.avg_pool2d(F.avg_pool2d(x, 2, 1, padding=1), 2, stride)


class _UnitDifference(torch.autograd.Function):
    """|a/|a| - b/|b||^2 over channels, (B, C, h, w) -> (B, h, w) in float32, with its gradients written out.

    Picture by picture, so that what is between stays in the processor's cache: composed of torch's operations, this
    took longer in training than the network whose features are compared.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        size = (a.shape[0], *a.shape[2:])
        out, of_a, of_b, of_both = (torch.empty(size, device=a.device) for _ in range(4))
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            p, q = p.float(), q.float()
            aa, bb, ab = ((u * v).sum(0) for u, v in ((p, p), (q, q), (p, q)))
            # Where ReLU features are all zero their direction is zero, and so is the gradient.
            ra, rb = ((square + 1e-20).rsqrt() for square in (aa, bb))
            torch.mul(ra, rb, out=of_both[i])
            cosine = ab * of_both[i]
            out[i] = aa * ra**2 + bb * rb**2 - 2 * cosine
            of_a[i], of_b[i] = cosine * ra**2, cosine * rb**2
        ctx.save_for_backward(a, b, of_a, of_b, of_both)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, of_a, of_b, of_both = ctx.saved_tensors
        found: list[Tensor | None] = []
        for wanted, own, other, along in ((ctx.needs_input_grad[0], a, b, of_a), (ctx.needs_input_grad[1], b, a, of_b)):
            if not wanted:
                found.append(None)
                continue
            gradient = torch.empty_like(own)
            for i, g in enumerate(2 * grads[0]):
                torch.mul(own[i], (g * along[i]).to(own.dtype), out=gradient[i])
                gradient[i].addcmul_(other[i], (g * of_both[i]).to(own.dtype), value=-1)
            found.append(gradient)
        return found[0], found[1]
