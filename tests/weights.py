"""Weights of the metrics' networks: random, in the shapes and files of the real ones."""

from pathlib import Path

import torch
from torch import Tensor

#: The convolutions of torchvision's networks: place -> (widths in and out, side).
ALEXNET = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}
VGG16 = {
    place: (*widths, 3)
    for place, widths in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512), *[(512, 512)] * 5],
        strict=True,
    )
}

#: SqueezeNet 1.0's fire modules: place in torchvision's sequence -> (inputs, squeeze, expand).
FIRES = {
    3: (96, 16, 64),
    4: (128, 16, 64),
    5: (128, 32, 128),
    7: (256, 32, 128),
    8: (256, 48, 192),
    9: (384, 48, 192),
    10: (384, 64, 256),
    12: (512, 64, 256),
}


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights and biases of convolutions by name, scaled so that signals keep their size."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / torch.Size(shape[1:]).numel()) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


def torchvision_state(layers: dict[int, tuple[int, int, int]]) -> dict[str, Tensor]:
    """The convolutions of ``ALEXNET`` or ``VGG16``, under torchvision's names."""
    return random_state({f"features.{i}": (o, c, k, k) for i, (c, o, k) in layers.items()})


def squeezenet_state() -> dict[str, Tensor]:
    """SqueezeNet 1.0, under torchvision's names."""
    shapes: dict[str, tuple[int, ...]] = {"features.0": (96, 3, 7, 7)}
    for i, (inputs, squeeze, expand) in FIRES.items():
        shapes[f"features.{i}.squeeze"] = (squeeze, inputs, 1, 1)
        shapes[f"features.{i}.expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"features.{i}.expand3x3"] = (expand, squeeze, 3, 3)
    shapes["classifier.1"] = (10, 512, 1, 1)
    return random_state(shapes)


def save_torchvision(path: Path, layers: dict[int, tuple[int, int, int]]) -> Path:
    """Their file, in torch's format."""
    torch.save(torchvision_state(layers), path)
    return path


def save_inception(path: Path) -> Path:
    """The file that torch-fidelity fetches, with weights as torch initialises them."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep what there is: the file that is given is empty."""

    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Untrained("inception-v3-compat", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    return path
