"""The reversible part (paper 3.1, 3.2): a latent becomes thumbnail channels and lost channels, and back.

    z  (B, C, h, w)
      -> pixel unshuffle r        (B, C r r, h/r, w/r)
      -> orthogonal matrix W      LRT (learned) or Haar (fixed)
      -> E-InvBlock x n
      -> split 3 | C r r - 3      the thumbnail's raw channels | the lost channels

Every step has its exact inverse; nothing is lost until the caller drops the second part. ``PyramidRescaler``
is the form of the invertible rescaling networks (IRN): factor 2 again and again, blocks after each.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.nn.precision import without_autocast

#: Channels of the thumbnail.
LR_CHANNELS = 3


def project_orthogonal(a: Tensor) -> Tensor:
    """The orthogonal matrix nearest to the square matrix ``a``: A = U S V^T -> U V^T (paper eq. 4)."""
    u, _, vt = torch.linalg.svd(a.double())
    w: Tensor = (u @ vt).to(a.dtype)
    return w


def haar_matrix(channels: int, factor: int) -> Tensor:
    """The orthonormal 2-D Haar transform of ``factor`` x ``factor`` cells as a matrix on unshuffled channels.

    Shape (C r r, C r r) for input ordered as ``pixel_unshuffle`` does (channel, row, column). Rows are
    ordered coarse to fine and, within a band, by channel, so that the first C outputs are the low-pass of
    each channel.
    """
    if factor & (factor - 1):
        raise ValueError(f"Haar needs a power of two, not {factor}.")
    one = torch.ones(1, 1, dtype=torch.float64)
    while one.shape[0] < factor:
        n = one.shape[0]
        low = torch.kron(one, torch.tensor([[1.0, 1.0]], dtype=torch.float64))
        high = torch.kron(torch.eye(n, dtype=torch.float64), torch.tensor([[1.0, -1.0]], dtype=torch.float64))
        one = torch.cat([low, high]) / math.sqrt(2)
    order = sorted(range(factor * factor), key=lambda k: (max(k // factor, k % factor), k))
    two = torch.kron(one, one)[order]  # bands x positions
    eye = torch.eye(channels, dtype=torch.float64)
    # (band, channel) x (channel, position)
    matrix = torch.einsum("bp,cd->bcdp", two, eye).reshape(channels * factor**2, channels * factor**2)
    return matrix.float()


class OrthogonalTransform(nn.Module):
    """Pixel unshuffle by ``factor`` and an orthogonal matrix over the channels, with the exact inverse.

    ``kind``: ``"lrt"``, the paper's learnable reversible transformation (eq. 3 and 5), or ``"haar"``, fixed.
    ``orthogonality`` of LRT: ``"always"`` keeps W on the orthogonal group at every training step, as
    W = W0 exp(A - A^T) with W0 fixed and A learned from zero; ``"init"`` is the paper's form, projected once
    and then a free matrix whose transpose stands in for its inverse.
    ``init`` of LRT: ``"random"``, the SVD projection of a Gaussian matrix (eq. 4), or ``"haar"``.

    The matrix is applied in float32 whatever the autocast around it: rounding W would break the inverse.
    """

    def __init__(
        self,
        channels: int,
        factor: int,
        kind: Literal["lrt", "haar"] = "lrt",
        orthogonality: Literal["always", "init"] = "always",
        init: Literal["random", "haar"] = "random",
    ) -> None:
        super().__init__()
        self.factor = factor
        self.kind = kind
        self.orthogonality = orthogonality
        size = channels * factor**2
        start = (
            haar_matrix(channels, factor)
            if kind == "haar" or init == "haar"
            else project_orthogonal(torch.randn(size, size))
        )
        if kind == "lrt" and orthogonality == "init":
            self.free = nn.Parameter(start)
        else:
            self.register_buffer("base", start, persistent=kind == "lrt")
            if kind == "lrt":
                self.skew = nn.Parameter(torch.zeros(size, size))

    def matrix(self) -> Tensor:
        """W, of shape (C r r, C r r), float32."""
        if self.kind == "haar":
            return self._float32(self.base)
        if self.orthogonality == "init":
            return self._float32(self.free)
        skew = self._float32(self.skew)
        w: Tensor = self._float32(self.base) @ torch.linalg.matrix_exp(skew - skew.T)
        return w

    def settle(self) -> None:
        """Hold W itself in place of what it is computed from: for inference alone, which then computes nothing."""
        free = nn.Parameter(self.matrix(), requires_grad=False)
        for name in ("base", "skew", "free"):
            if hasattr(self, name):
                delattr(self, name)
        self.kind, self.orthogonality, self.free = "lrt", "init", free

    @staticmethod
    def _float32(t: Tensor | nn.Module) -> Tensor:
        assert isinstance(t, Tensor)
        return t.float()

    def forward(self, z: Tensor) -> Tensor:
        """Latent (B, C, h, w) -> (B, C r r, h/r, w/r)."""
        with without_autocast(z):
            return self._mix(self.matrix(), F.pixel_unshuffle(z.float(), self.factor))

    def inverse(self, h: Tensor) -> Tensor:
        """(B, C r r, h/r, w/r) -> latent (B, C, h, w)."""
        with without_autocast(h):
            return F.pixel_shuffle(self._mix(self.matrix().T, h.float()), self.factor)

    @staticmethod
    def _mix(matrix: Tensor, h: Tensor) -> Tensor:
        return F.conv2d(h, matrix[:, :, None, None])


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each fed by all before it, LeakyReLU 0.2; the last starts at zero (IRN, SAIN).

    The first four start from He's normal initialisation for LeakyReLU 0.2. IRN's and SAIN's code has Xavier's there,
    times 0.1: a tenth of these values or less. The last one is zero in all three, so that the block starts at zero.
    """

    def __init__(self, in_channels: int, out_channels: int, growth: int = 32) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels + i * growth, growth if i < 4 else out_channels, 3, padding=1) for i in range(5)
        )
        for conv in list(self.convs)[:4]:
            nn.init.kaiming_normal_(conv.weight, a=0.2)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.convs[4].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.convs[4].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        features = [x]
        for conv in list(self.convs)[:4]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return self.convs[4](torch.cat(features, 1))  # type: ignore[no-any-return]


class EInvBlock(nn.Module):
    """Enhanced invertible block (SAIN, Yang et al. 2023) over a split 3 | rest."""

    def __init__(self, channels: int, growth: int = 32) -> None:
        super().__init__()
        rest = channels - LR_CHANNELS
        self.E = DenseBlock(rest, LR_CHANNELS, growth)
        self.F = DenseBlock(rest, LR_CHANNELS, growth)
        self.G = DenseBlock(LR_CHANNELS, rest, growth)
        self.H = DenseBlock(LR_CHANNELS, rest, growth)

    def forward(self, u: Tensor) -> Tensor:
        """Compute a' = a + E(b) - F(b); b' = b exp(s(a')) + G(a'). Shape kept."""
        a, b = u[:, :LR_CHANNELS], u[:, LR_CHANNELS:]
        a = a + self.E(b) - self.F(b)
        b = b * torch.exp(_log_scale(self.H(a))) + self.G(a)
        return torch.cat([a, b], 1)

    def inverse(self, u: Tensor) -> Tensor:
        """Compute b = (b' - G(a')) exp(-s(a')); a = a' + F(b) - E(b). Shape kept."""
        a, b = u[:, :LR_CHANNELS], u[:, LR_CHANNELS:]
        b = (b - self.G(a)) * torch.exp(-_log_scale(self.H(a)))
        a = a + self.F(b) - self.E(b)
        return torch.cat([a, b], 1)


class InvBlock(nn.Module):
    """The invertible block of IRN (Xiao et al. 2020 and 2023) over a split 3 | rest: an E-InvBlock without E."""

    def __init__(self, channels: int, growth: int = 32) -> None:
        super().__init__()
        rest = channels - LR_CHANNELS
        self.F = DenseBlock(rest, LR_CHANNELS, growth)
        self.G = DenseBlock(LR_CHANNELS, rest, growth)
        self.H = DenseBlock(LR_CHANNELS, rest, growth)

    def forward(self, u: Tensor) -> Tensor:
        """Compute a' = a + F(b); b' = b exp(s(a')) + G(a'). Shape kept."""
        a, b = u[:, :LR_CHANNELS], u[:, LR_CHANNELS:]
        a = a + self.F(b)
        b = b * torch.exp(_log_scale(self.H(a))) + self.G(a)
        return torch.cat([a, b], 1)

    def inverse(self, u: Tensor) -> Tensor:
        """Compute b = (b' - G(a')) exp(-s(a')); a = a' - F(b). Shape kept."""
        a, b = u[:, :LR_CHANNELS], u[:, LR_CHANNELS:]
        b = (b - self.G(a)) * torch.exp(-_log_scale(self.H(a)))
        return torch.cat([a - self.F(b), b], 1)


class TInvBlock(nn.Module):
    """A tri-branch invertible block after T-IRN (Bao et al. 2025): luminance 1 | chrominance 2 | rest.

    The first three channels are red, green and blue outside of the block, luminance and chrominance (BT.601) inside.
    The branches and the order in which they are updated are the paper's; its networks inside the branches are not
    given in its abstract, so these are dense blocks as in ``InvBlock``.
    """

    def __init__(self, channels: int, growth: int = 32) -> None:
        super().__init__()
        rest = channels - LR_CHANNELS
        self.C = DenseBlock(1 + rest, 2, growth)
        self.Y = DenseBlock(2 + rest, 1, growth)
        self.G = DenseBlock(LR_CHANNELS, rest, growth)
        self.H = DenseBlock(LR_CHANNELS, rest, growth)
        self.register_buffer("to_ycc", torch.tensor(_YCBCR), persistent=False)
        self.register_buffer("to_rgb", torch.linalg.inv(torch.tensor(_YCBCR, device="cpu")), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Compute c' = c + C(y, b); y' = y + Y(c', b); b' = b exp(s(y', c')) + G(y', c'). Shape kept."""
        a, b = _mix(self.to_ycc, u[:, :LR_CHANNELS]), u[:, LR_CHANNELS:]
        y, c = a[:, :1], a[:, 1:]
        c = c + self.C(torch.cat([y, b], 1))
        y = y + self.Y(torch.cat([c, b], 1))
        a = torch.cat([y, c], 1)
        b = b * torch.exp(_log_scale(self.H(a))) + self.G(a)
        return torch.cat([_mix(self.to_rgb, a), b], 1)

    def inverse(self, u: Tensor) -> Tensor:
        """Undo ``forward``: b, then y, then c. Shape kept."""
        a, b = _mix(self.to_ycc, u[:, :LR_CHANNELS]), u[:, LR_CHANNELS:]
        b = (b - self.G(a)) * torch.exp(-_log_scale(self.H(a)))
        y, c = a[:, :1], a[:, 1:]
        y = y - self.Y(torch.cat([c, b], 1))
        c = c - self.C(torch.cat([y, b], 1))
        return torch.cat([_mix(self.to_rgb, torch.cat([y, c], 1)), b], 1)


#: BT.601's luminance and chrominance of zero-centred red, green and blue.
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def _mix(matrix: Tensor | nn.Module, h: Tensor) -> Tensor:
    """A matrix over the channels, in float32 whatever the autocast around it."""
    assert isinstance(matrix, Tensor)
    with without_autocast(h):
        return F.conv2d(h.float(), matrix.float()[:, :, None, None])


def _log_scale(h: Tensor) -> Tensor:
    return 2 * torch.sigmoid(h.float()) - 1


def _memory_format(x: Tensor) -> torch.memory_format:
    """That of ``x``. The transform loses it, and convolutions would restore it by a copy each."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


BlockKind = Literal["e-inv", "inv", "t-inv"]
_BLOCKS: dict[BlockKind, Callable[[int, int], nn.Module]] = {"e-inv": EInvBlock, "inv": InvBlock, "t-inv": TInvBlock}


def invertible_blocks(kind: BlockKind, channels: int, count: int, growth: int) -> nn.ModuleList:
    """``count`` blocks of a kind, each over (B, channels, h, w), at first doing next to nothing to the thumbnail's."""
    return nn.ModuleList(_BLOCKS[kind](channels, growth) for _ in range(count))


class LatentRescaler(nn.Module):
    """LRT (or Haar) and ``blocks`` E-InvBlocks: latent -> (thumbnail channels, lost channels), and back.

    ``gain``: what a constant latent is multiplied by on its way into the thumbnail channels of Haar.
    """

    def __init__(
        self,
        latent_channels: int,
        factor: int,
        *,
        transform: Literal["lrt", "haar"] = "lrt",
        orthogonality: Literal["always", "init"] = "always",
        lrt_init: Literal["random", "haar"] = "random",
        block: BlockKind = "e-inv",
        blocks: int = 3,
        growth: int = 32,
    ) -> None:
        super().__init__()
        self.channels = latent_channels * factor**2
        self.gain = factor
        self.transform = OrthogonalTransform(latent_channels, factor, transform, orthogonality, lrt_init)
        self.blocks = invertible_blocks(block, self.channels, blocks, growth)

    @property
    def lost_channels(self) -> int:
        """How many channels the thumbnail does not keep: C r r - 3."""
        return self.channels - LR_CHANNELS

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (B, C, h, w) -> raw thumbnail (B, 3, h/r, w/r) and lost (B, C r r - 3, h/r, w/r)."""
        h = self.transform(z).contiguous(memory_format=_memory_format(z))
        for block in self.blocks:
            h = block(h)
        return h[:, :LR_CHANNELS], h[:, LR_CHANNELS:]

    def inverse(self, raw: Tensor, lost: Tensor) -> Tensor:
        """The exact inverse of ``forward``: what came out, back to the latent (B, C, h, w)."""
        h = torch.cat([raw, lost], 1).contiguous(memory_format=_memory_format(raw))
        for block in reversed(self.blocks):
            h = block.inverse(h)  # type: ignore[operator]
        return self.transform.inverse(h)


class PyramidRescaler(nn.Module):
    """Factor 2 again and again, with ``blocks`` invertible blocks after each: the form of IRN (Xiao et al. 2020).

    The interface is that of ``LatentRescaler``. Each step halves what the orthonormal transform gives, as IRN does:
    the low-pass stays an average, so ``gain`` is 1 and blocks see one range at every level.
    """

    gain = 1

    def __init__(
        self,
        latent_channels: int,
        factor: int,
        *,
        transform: Literal["lrt", "haar"] = "haar",
        orthogonality: Literal["always", "init"] = "always",
        lrt_init: Literal["random", "haar"] = "haar",
        block: BlockKind = "inv",
        blocks: int = 8,
        growth: int = 32,
    ) -> None:
        super().__init__()
        self.channels = latent_channels * factor**2
        self.transforms, self.levels = nn.ModuleList(), nn.ModuleList()
        channels = latent_channels
        for _ in range(factor.bit_length() - 1):
            self.transforms.append(OrthogonalTransform(channels, 2, transform, orthogonality, lrt_init))
            channels *= 4
            self.levels.append(invertible_blocks(block, channels, blocks, growth))

    @property
    def lost_channels(self) -> int:
        """How many channels the thumbnail does not keep: C r r - 3."""
        return self.channels - LR_CHANNELS

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (B, C, h, w) -> raw thumbnail (B, 3, h/r, w/r) and lost (B, C r r - 3, h/r, w/r)."""
        h = z
        for transform, level in zip(self.transforms, self.levels, strict=True):
            h = transform(h) / 2
            for block in level:  # type: ignore[attr-defined]  # a ModuleList can be iterated
                h = block(h)
        return h[:, :LR_CHANNELS], h[:, LR_CHANNELS:]

    def inverse(self, raw: Tensor, lost: Tensor) -> Tensor:
        """The exact inverse of ``forward``: what came out, back to the latent (B, C, h, w)."""
        h = torch.cat([raw, lost], 1)
        for transform, level in zip(reversed(self.transforms), reversed(self.levels), strict=True):
            for block in reversed(level):  # type: ignore[call-overload]
                h = block.inverse(h)
            h = transform.inverse(2 * h)  # type: ignore[operator]
        return h
