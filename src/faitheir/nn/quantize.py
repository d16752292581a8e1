"""The thumbnail's raw channels to 8-bit values and back: one fixed affine map, rounding with a gradient."""

from typing import Any

import torch
from torch import Tensor


class _Quantize8Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward((y > 1).to(torch.int8) - (y < 0).to(torch.int8))
        return torch.round(y.clamp(0, 1) * 255) / 255

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (outside,) = ctx.saved_tensors
        return grads[0].masked_fill(outside * grads[0] < 0, 0)


def quantize_8bit(y: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, with a gradient that passes straight through both.

    The gradient is zero where it would push a clamped value further out, from where nothing could pull it back.
    """
    return _Quantize8Bit.apply(y)  # type: ignore[no-any-return]


def raw_to_unit(raw: Tensor, gain: int) -> Tensor:
    """Raw channels to the thumbnail's range: y = (raw / gain + 1) / 2.

    An orthonormal low-pass over r x r cells multiplies a constant by r, so with that gain latents in [-1, 1] map to
    [0, 1].
    """
    return (raw / gain + 1) / 2


def unit_to_raw(y: Tensor, gain: int) -> Tensor:
    """The inverse of ``raw_to_unit``."""
    return (2 * y - 1) * gain
