"""The fidelity setting (ours, not the paper's): one model restores a thumbnail naturally or with little error."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: Strengths whose weights are kept merged: each costs the memory of what restores once more (nano: 34 MB).
KEPT = 3


class FidelityOffsets(nn.Module):
    """Offsets to the weights that restore, from the most natural picture to the one with the lowest error.

    At 0 the model is as it was trained. At 1 the offsets are added whole; so they are trained, they alone, for the
    lowest error. Between, a part of them is added (interpolation of weights, Wang et al. 2019). Each matrix and
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


def with_weights(module: M, weights: Mapping[str, Tensor]) -> M:
    """A copy of ``module`` that shares its tensors but for ``weights``, by name; gradients reach what they came from.

    The module itself is not touched, so other threads may use it meanwhile.
    """
    shared = (*module.named_parameters(), *module.named_buffers())
    # deepcopy takes what its memo holds in place of a copy.
    return copy.deepcopy(module, {id(tensor): weights.get(name, tensor) for name, tensor in shared})


class MergedModules(Generic[M]):
    """The last ``KEPT`` modules that were merged, by strength; safe to share between threads.

    A copy, and what is read back from a pickle, starts empty.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._merged: OrderedDict[float, M] = OrderedDict()
        self._sources: list[tuple[Tensor, int, int]] = []

    def get(self, strength: float, sources: Iterable[Tensor], merge: Callable[[], M]) -> M:
        """What ``merge`` gave for ``strength``, merged anew where one of the ``sources`` was changed or replaced."""
        # An alias keeps the memory of a source, so that a new one cannot have its address.
        now = [(t.detach(), t.data_ptr(), 0 if t.is_inference() else t._version) for t in sources]
        with self._lock:
            if [s[1:] for s in now] != [s[1:] for s in self._sources]:
                self._merged.clear()
                self._sources = now
            if strength not in self._merged:
                self._merged[strength] = merge()
            self._merged.move_to_end(strength)
            if len(self._merged) > KEPT:
                self._merged.popitem(last=False)
            return self._merged[strength]

    def clear(self) -> None:
        """Forget them all, and free their memory."""
        with self._lock:
            self._merged.clear()
            self._sources = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
