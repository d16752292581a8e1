"""Stand-ins for the lost channels when upscaling (paper 3.3; Tables 2 and 3).

Each prior is a module ``prior(batch, height, width) -> (batch, lost_channels, height, width)``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveDetailPrior(nn.Module):
    """ADP: a learned deterministic tensor, the training set's average of the lost channels.

    ``pattern`` is the side of the learned spatial pattern, tiled over the image; 1 is one value per channel.
    Table 3's variants are its states: ``init="zeros"`` frozen, ``init="random"`` frozen (uniform in [-1, 1]),
    or learned.
    """

    def __init__(self, channels: int, pattern: int = 1, *, random: bool = False, learned: bool = True) -> None:
        super().__init__()
        shape = (1, channels, pattern, pattern)
        values = torch.rand(shape) * 2 - 1 if random else torch.zeros(shape)
        self.values = nn.Parameter(values, requires_grad=learned)

    def forward(self, batch: int, height: int, width: int) -> Tensor:
        """Shape (batch, channels, height, width)."""
        pattern = self.values.shape[-1]
        if pattern == 1:
            return self.values.expand(batch, -1, height, width)
        # Not -(-height // pattern): exported, that would round towards zero.
        tiles = self.values.repeat(1, 1, (height + pattern - 1) // pattern, (width + pattern - 1) // pattern)
        return tiles[:, :, :height, :width].expand(batch, -1, -1, -1)


class NormalPrior(nn.Module):
    """ND: a standard normal sample, new at each call (IRN; the ablation's "ND")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        # Non-persistent, empty: it only carries the device and dtype that the module was moved to.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, batch: int, height: int, width: int) -> Tensor:
        """Shape (batch, channels, height, width)."""
        like = self.like
        assert isinstance(like, Tensor)
        return torch.randn(batch, self.channels, height, width, device=like.device, dtype=like.dtype)


class GaussianMixturePrior(nn.Module):
    """GMM: a sample of a learned mixture of Gaussians, new at each call (after SAIN, Yang et al. 2023).

    The component is drawn with a straight-through Gumbel-softmax and the value by reparametrisation, so
    weights, means and scales all receive gradients, as in SAIN. Two things differ. SAIN's mixture is over scalars: one
    mean and one scale per component, shared by all channels; here each component has them per channel (a diagonal
    covariance). SAIN draws a component for each value by itself; here it is drawn once per position, for all channels
    there. The paper says only "a learnable mixture of Gaussians".
    """

    def __init__(self, channels: int, components: int = 5) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, channels) * 0.1)
        self.log_scales = nn.Parameter(torch.zeros(components, channels))

    def forward(self, batch: int, height: int, width: int) -> Tensor:
        """Shape (batch, channels, height, width)."""
        logits = self.logits.float().expand(batch, height, width, -1)
        choice = F.gumbel_softmax(logits, hard=True).to(self.means.dtype)  # (b, h, w, components)
        mean, scale = choice @ self.means, choice @ self.log_scales.exp()
        return (mean + scale * torch.randn_like(mean)).movedim(-1, 1)


def make_prior(kind: str, channels: int, *, pattern: int = 1, components: int = 5) -> nn.Module:
    """The prior named ``kind``: "adp", "zeros", "random", "normal" or "gmm"."""
    if kind == "normal":
        return NormalPrior(channels)
    if kind == "gmm":
        return GaussianMixturePrior(channels, components)
    return AdaptiveDetailPrior(channels, pattern, random=kind == "random", learned=kind == "adp")
