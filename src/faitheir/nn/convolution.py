"""3x3 convolutions, by Winograd's algorithm where that is faster: float32 on a CPU, without gradient.

And strided ones, in float32 where oneDNN's own are wrong.

oneDNN runs a 3x3 convolution at the processor's peak, so only fewer multiplications make it faster. It has Winograd
kernels, but torch does not use them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Outputs of one tile along a side; a tile reads two more inputs.
TILE = 4

#: Rows of tiles worked on at once, so that intermediate results stay in the cache.
STRIP = 32

#: Channels on both sides, and positions, below which the transforms cost more than they save
#: (benchmarks/convolution.py).
LEAST_CHANNELS = 64
LEAST_POSITIONS = 32 * 32


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and a border of zeros: (B, in, h, w) -> (B, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, *, silu: bool = False, plus: Tensor | None = None) -> Tensor:
        """The convolution of x, or of silu(x), and ``plus`` (B, out, h, w) added: shape (B, out, h, w).

        Winograd's sums differ from the plain ones by float32's rounding, some 1e-5.
        """
        if _winograd_is_faster(x, self.weight):
            return winograd_conv3x3(x, self.weight, self.bias, silu=silu, plus=plus)
        y = super().forward(F.silu(x) if silu else x)
        if plus is None:
            return y
        return y + plus if torch.is_grad_enabled() else y.add_(plus)


class StridedConv2d(nn.Conv2d):
    """A convolution with a stride, in float32 where a half-precision one on the CPU would be narrow.

    With AMX oneDNN 3 reads beyond its input where bfloat16 results are one column wide, and gives whatever lies there,
    NaN among it, and another each time (pytorch/pytorch#169688 is alike).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h', w')."""
        half = x.dtype in (torch.bfloat16, torch.float16)
        if half and x.device.type == "cpu" and x.shape[3] < 2 * self.stride[1] + self.kernel_size[1]:
            bias = None if self.bias is None else self.bias.float()
            exact: Tensor = self._conv_forward(x.float(), self.weight.float(), bias)
            return exact.to(x.dtype)
        return super().forward(x)


def use_strided_convolutions(module: nn.Module) -> None:
    """Make each convolution with a stride in ``module`` a ``StridedConv2d``, whoever built it."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.stride[1] > 1:
            part.__class__ = StridedConv2d


def _winograd_is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32 == weight.dtype
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and x.shape[2] * x.shape[3] >= LEAST_POSITIONS
    )


def winograd_conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False, plus: Tensor | None = None
) -> Tensor:
    """The convolution of x (B, in, h, w) with ``weight`` (out, in, 3, 3) over a border of zeros -> (B, out, h, w).

    ``silu``: of silu(x). ``plus`` (B, out, h, w) is added. Both are done strip by strip, while it is in the cache.

    F(4x4, 3x3) of Lavin and Gray (2016): 36 products of matrices where the plain sum has 144. It is worked in the dtype
    of its inputs, fastest on channels_last, which the result is in, and has no gradient.
    """
    batch, _, height, width = x.shape
    outputs = weight.shape[0]
    rows, columns = -(-height // TILE), -(-width // TILE)
    kernels = [_kernel_transform(k.unbind(1)) for k in _kernel_transform(weight.permute(0, 2, 3, 1).unbind(1))]
    x = x.permute(0, 2, 3, 1)
    y = x.new_empty(batch, rows, TILE, columns, TILE, outputs)
    whole = y.view(batch, TILE * rows, TILE * columns, outputs)[:, :height, :width]
    for top in range(0, rows, STRIP):
        strip = y[:, top : top + STRIP]
        count = strip.shape[1]
        inputs = _bordered(x, TILE * top, TILE * count, TILE * columns)
        if silu:
            F.silu(inputs, inplace=True)
        lines = _input_transform([inputs[:, i : i + TILE * count - 3 : TILE] for i in range(TILE + 2)])
        sums = []
        for line, kernel in zip(lines, kernels, strict=True):
            cells = _input_transform([line[:, :, i : i + TILE * columns - 3 : TILE] for i in range(TILE + 2)])
            products = [F.linear(cell, k) for cell, k in zip(cells, kernel, strict=True)]
            sums.append(_output_transform(products, x.new_empty(TILE, batch, count, columns, outputs)))
        if bias is not None:
            # The second line has a coefficient of 1 in each row of the output transform, and no other is touched.
            sums[1].add_(bias)
        _output_transform([s.permute(1, 2, 3, 0, 4) for s in sums], strip.permute(2, 0, 1, 3, 4, 5))
        if plus is not None:
            inside = slice(TILE * top, min(height, TILE * (top + count)))
            whole[:, inside].add_(plus[:, :, inside].permute(0, 2, 3, 1))
    return whole.permute(0, 3, 1, 2)


def _bordered(x: Tensor, top: int, height: int, width: int) -> Tensor:
    """Rows ``top`` to ``top + height`` and columns to ``width`` of x (B, h, w, C), and one more on each side.

    What lies outside of x is zero.
    """
    bordered = x.new_empty(x.shape[0], height + 2, width + 2, x.shape[3])
    begin, end, right = max(0, top - 1), min(x.shape[1], top + height + 1), x.shape[2] + 1
    above, below = begin - top + 1, end - top + 1
    bordered[:, above:below, 1:right] = x[:, begin:end]
    for border in (bordered[:, :above], bordered[:, below:], bordered[:, :, :1], bordered[:, :, right:]):
        border.zero_()
    return bordered


def _kernel_transform(k: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """G k: three taps -> six."""
    even, odd = (k[0] + k[2]) / -6, k[1] / 6
    outer, inner = (k[0] / 24).add_(k[2], alpha=1 / 6), k[1] / 12
    return k[0] / 4, even - odd, even + odd, outer + inner, outer - inner, k[2]


def _input_transform(d: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """B^T d: six inputs -> six."""
    even, odd = torch.add(d[4], d[2], alpha=-4), torch.add(d[3], d[1], alpha=-4)
    outer, inner = d[4] - d[2], d[3] - d[1]
    first = torch.add(d[4], d[2], alpha=-5).add_(d[0], alpha=4)
    last = torch.add(d[5], d[3], alpha=-5).add_(d[1], alpha=4)
    return first, even + odd, even.sub_(odd), torch.add(outer, inner, alpha=2), outer.sub_(inner, alpha=2), last


def _output_transform(m: Sequence[Tensor], out: Tensor) -> Tensor:
    """A^T m: six products, which are overwritten -> four outputs, along the first dimension of ``out``."""
    even, odd = m[1] + m[2], m[1].sub_(m[2])
    outer, inner = m[3] + m[4], m[3].sub_(m[4])
    torch.add(m[0].add_(even), outer, out=out[0])
    torch.add(odd, inner, alpha=2, out=out[1])
    torch.add(even, outer, alpha=4, out=out[2])
    torch.add(m[5].add_(odd), inner, alpha=8, out=out[3])
    return out
