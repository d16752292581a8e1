"""The fidelity setting (ours, not the paper's): one model, two ways to restore the same thumbnail."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FidelityOffsets(nn.Module):
    """What is added to the weights that restore, to go from the most natural picture to the truest.

    At 0 the model is as it was trained; at 1 the offsets are added whole, at which they are trained, with nothing
    else, to the least error; between, a part of them (interpolation of weights, Wang et al. 2019). Each matrix and
    each convolution's kernel has an offset of at most ``rank`` (LoRA, Hu et al. 2022), each vector one of its own;
    they start at zero. The thumbnail does not depend on them.
    """

    def __init__(self, weights: Mapping[str, Tensor], rank: int) -> None:
        super().__init__()
        # A module's name holds no dots.
        self._names = {name.replace(".", "-"): name for name in weights}
        self.up, self.down = nn.ParameterDict(), nn.ParameterDict()
        for key, name in self._names.items():
            weight = weights[name]
            if weight.ndim < 2:
                self.up[key] = nn.Parameter(torch.zeros_like(weight))
                continue
            rows, columns = weight.shape[0], math.prod(weight.shape[1:])
            inner = min(rank, rows, columns)
            self.up[key] = nn.Parameter(weight.new_zeros(rows, inner))
            self.down[key] = nn.Parameter(torch.randn_like(weight.flatten(1)[:1].expand(inner, -1)) / columns**0.5)

    def forward(self, weights: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """``weights`` by the names given at first, with ``strength`` (0 to 1) of their offsets added."""
        moved = {}
        for key, name in self._names.items():
            weight, offset = weights[name], self.up[key]
            if key in self.down:
                offset = (offset @ self.down[key]).view(weight.shape)
            moved[name] = weight + (strength * offset).to(weight.dtype)
        return moved
