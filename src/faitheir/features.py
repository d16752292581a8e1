"""Pretrained feature networks: for perceptual losses and distances, and as semantic teachers.

None is part of this package. Each is loaded from a local file, or by the library that publishes it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from faitheir.errors import MissingDependencyError, ModelError

FeatureName = Literal["squeezenet", "taesana", "vgg16"]
TeacherName = Literal["squeezenet", "dinov2"]

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


def vgg16(state: dict[str, Tensor] | None) -> FeatureNetwork:
    """VGG16 through torchvision: the last ReLU of each of its five stages (relu1_2 .. relu5_3), strides 1 to
    16.

    Without ``state``, torchvision fetches its ImageNet weights.
    """
    try:
        import torchvision
    except ImportError:
        raise MissingDependencyError(
            "The feature network 'vgg16' needs torchvision: pip install torchvision."
        ) from None
    try:
        weights = None if state is not None else torchvision.models.VGG16_Weights.IMAGENET1K_V1
        model = torchvision.models.vgg16(weights=weights)
    except OSError as error:
        raise ModelError(
            f"VGG16's weights could not be fetched by torchvision ({error}); "
            "give a local file with the option 'weights'."
        ) from None
    if state is not None:
        features = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
        model.features.load_state_dict(features)
    return FeatureNetwork(model.features, (3, 8, 15, 22, 29), IMAGENET_MEAN, IMAGENET_STD)


_BUILDERS: dict[str, Callable[[dict[str, Tensor]], FeatureNetwork]] = {
    "squeezenet": squeezenet,
    "taesana": taesana,
    "vgg16": vgg16,
}


def load_feature_network(name: FeatureName, weights: str | Path | None) -> FeatureNetwork:
    """The network ``name`` with ``weights`` from a local safetensors file (for vgg16, None lets torchvision
    fetch).

    Raises ModelError where the file is missing, is no safetensors file, or does not fit.
    """
    if weights is None:
        if name == "vgg16":
            return vgg16(None)
        raise ModelError(f"The feature network '{name}' needs the option 'weights', a local safetensors file.")
    try:
        state = {k: v.float() for k, v in load_file(weights).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: cannot be read as safetensors weights of '{name}' ({error}).") from None
    try:
        return _BUILDERS[name](state)
    except RuntimeError:
        raise ModelError(f"{weights}: these are not the weights of '{name}'.") from None


def feature_distance(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """Perceptual distance of pictures (B, 3, H, W) in [0, 1]: shape (B,), 0 where equal.

    Each tapped layer's features are unit-normalised over channels; the squared difference is summed over
    channels, averaged over space and summed over the layers (LPIPS, Zhang et al. 2018, without its learned
    weights).
    """
    total = torch.zeros(a.shape[0], device=a.device)
    for fa, fb in zip(network(a), network(b), strict=True):
        total = total + _unit_difference(fa.float(), fb.float()).mean((1, 2))
    return total


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    """|a/|a| - b/|b||^2 over channels, (B, C, h, w) -> (B, h, w), multiplied out: no copies are made."""
    aa, bb, ab = (torch.linalg.vecdot(p, q, dim=1) for p, q in ((a, a), (b, b), (a, b)))
    # The square root's gradient is infinite at zero, where ReLU features may well be.
    na, nb = ((square + 1e-20).sqrt() for square in (aa, bb))
    difference: Tensor = aa / na**2 + bb / nb**2 - 2 * ab / (na * nb)
    return difference


class Teacher(nn.Module):
    """A semantic teacher: pictures -> one feature vector per thumbnail pixel.

    ``features(x, (h, w))`` returns (B, D, h, w); ``width`` is D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def features(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features on ``grid`` for pictures (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError


class FeatureTeacher(Teacher):
    """The deepest features of a feature network, brought to the thumbnail's grid."""

    def __init__(self, network: FeatureNetwork, width: int) -> None:
        super().__init__(width)
        self.network = network

    def features(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, D, h, w)."""
        return F.interpolate(self.network(x)[-1].float(), grid, mode="bilinear", align_corners=False)


class Dinov2Teacher(Teacher):
    """DINOv2 (through transformers): patch features of hidden layer ``layer`` (paper: ViT-L/14, 23)."""

    mean: Tensor
    std: Tensor

    def __init__(self, source: str, layer: int) -> None:
        try:
            from transformers import Dinov2Model
        except ImportError:
            raise MissingDependencyError(
                "The semantic teacher 'dinov2' needs transformers: pip install 'faitheir[turbo]'."
            ) from None
        try:
            model: Any = Dinov2Model.from_pretrained(source, use_safetensors=True)
        except OSError as error:
            raise ModelError(
                f"The DINOv2 weights '{source}' could not be loaded ({str(error).splitlines()[0]}); "
                "give a local folder with the option 'teacher_weights'."
            ) from None
        super().__init__(int(model.config.hidden_size))
        layers = int(model.config.num_hidden_layers)
        if not 0 <= layer <= layers:
            raise ModelError(f"DINOv2 '{source}' has hidden layers 0 to {layers}; there is no layer {layer}.")
        self.model = model.requires_grad_(False).eval()
        self.layer = layer
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def features(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, D, h, w); the picture is resized so that one 14-pixel patch falls on each thumbnail pixel."""
        patch = int(self.model.config.patch_size)
        size = (grid[0] * patch, grid[1] * patch)
        x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        hidden: Tensor = self.model((x - self.mean) / self.std, output_hidden_states=True).hidden_states[self.layer]
        features: Tensor = hidden[:, 1:].movedim(1, 2)
        return features.reshape(*features.shape[:2], *grid).float()


def load_teacher(name: TeacherName, weights: str | None, layer: int) -> Teacher:
    """The semantic teacher ``name``; ``weights``: a file (squeezenet), or a folder or Hub id (dinov2)."""
    if name == "dinov2":
        return Dinov2Teacher(weights or "facebook/dinov2-large", layer)
    return FeatureTeacher(load_feature_network(name, weights), 512)
