"""Condition tokens for the denoiser (paper 3.4): from the thumbnail's pixels, learned but fixed, or none."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Condition(NamedTuple):
    """Tokens for cross-attention.

    ``tokens``: (B, N, D). ``grid``: (height, width) with N = height x width where the tokens are the
    thumbnail's pixels, row by row; None where they have no place in the image.
    """

    tokens: Tensor
    grid: tuple[int, int] | None

    def to(self, dtype: torch.dtype) -> "Condition":
        """The same, its tokens cast."""
        return Condition(self.tokens.to(dtype), self.grid)


class PixelSemanticEmbedder(nn.Module):
    """PSE: fully connected layers with ReLU on each thumbnail pixel, one token per pixel."""

    def __init__(self, hidden: tuple[int, ...], width: int) -> None:
        super().__init__()
        sizes = (3, *hidden, width)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, y: Tensor) -> Condition:
        """Thumbnail (B, 3, h, w) in [0, 1] -> h w tokens."""
        dtype = next(self.parameters()).dtype
        h = (y.movedim(1, -1).flatten(1, 2) * 2 - 1).to(dtype)
        for i, layer in enumerate(self.layers):
            h = layer(torch.relu(h) if i else h)
        return Condition(h, (y.shape[2], y.shape[3]))


class LearnableTextEmbedding(nn.Module):
    """LTE: ``count`` learned tokens, the same for every image (the ablation's stand-in for a caption)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, count, width) * 0.02)

    def forward(self, y: Tensor) -> Condition:
        """Thumbnail (B, 3, h, w), of which only the batch size matters -> ``count`` tokens."""
        return Condition(self.tokens.expand(y.shape[0], -1, -1), None)


class NoCondition(nn.Module):
    """No semantic prior: the denoiser is given no tokens."""

    def forward(self, y: Tensor) -> None:  # noqa: ARG002
        """None, whatever the thumbnail."""
        return


def make_embedder(kind: str, width: int, *, hidden: tuple[int, ...] = (256, 512), count: int = 77) -> nn.Module:
    """The embedder named ``kind``: "pse", "lte" or "none"."""
    if kind == "pse":
        return PixelSemanticEmbedder(hidden, width)
    if kind == "lte":
        return LearnableTextEmbedding(count, width)
    return NoCondition()
