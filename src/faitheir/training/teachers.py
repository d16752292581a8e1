"""Semantic teachers: frozen networks whose features the condition tokens learn to match (paper 3.4, L_sem)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.errors import ModelError, needs
from faitheir.features import IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork, load_feature_network

TeacherName = Literal["squeezenet", "dinov2"]


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
    """DINOv2 (through transformers): patch features of hidden layer ``layer``, 0 to the number of its blocks.

    The paper aligns with "layer 23" of ViT-L/14 and, in its ablation, with 4 and 16; it says neither from where it
    counts nor whether the model's last normalisation is applied. Here layer n is transformers' ``hidden_states[n]``:
    0 are the embeddings, n what the n-th of the 24 blocks gives, always before that normalisation. So 23 is the last
    block but one. Counted from 0, as DINOv2's own ``get_intermediate_layers`` does, it would be the last one, which is
    24 here; that function also normalises, which this does not.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: str, layer: int) -> None:
        with needs("The semantic teacher 'dinov2' needs transformers: pip install 'faitheir[turbo]'."):
            from transformers import Dinov2Model
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
