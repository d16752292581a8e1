"""The adversarial stage: discriminators, and the hinge loss between them and the model (ours; the paper has none).

discriminators   relu(1 - D(x)) + relu(1 + D(x^))     x a photograph, x^ the restored one
model            -D(x^)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from faitheir.features import FeatureNetwork, load_feature_network
from faitheir.training.config import AdversarialConfig, DiscriminatorConfig
from faitheir.training.losses import bicubic_thumbnail
from faitheir.training.optimizers import make_optimizer


class PatchDiscriminator(nn.Module):
    """A verdict for every patch of pixels (PatchGAN, Isola et al. 2017), with spectral normalisation.

    It sees x beside the enlarged bicubic thumbnail, so that the right texture in the wrong place counts as wrong.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        sizes = [width * 2 ** min(i, 3) for i in range(layers)]
        convs: list[nn.Module] = []
        for inputs, outputs in zip([6, *sizes], sizes, strict=False):
            convs += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, padding=1)), nn.LeakyReLU(0.2)]
        convs.append(spectral_norm(nn.Conv2d(sizes[-1], 1, 3, padding=1)))
        self.layers = nn.Sequential(*convs)

    def forward(self, x: Tensor, hint: Tensor) -> list[Tensor]:
        """Pictures and enlarged thumbnails (B, 3, H, W) in [0, 1] -> [(B, 1, h, w)]."""
        return [self.layers(torch.cat([x, hint], 1) * 2 - 1)]


class FeatureDiscriminator(nn.Module):
    """Verdicts on the features of a frozen network, one head per layer (after Projected GAN, Sauer et al. 2021)."""

    def __init__(self, network: FeatureNetwork, width: int) -> None:
        super().__init__()
        # Not a submodule: frozen, and no part of what a checkpoint holds.
        self._network = [network]
        with torch.no_grad():
            features = network(torch.zeros(1, 3, 64, 64))
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(feature.shape[1], width, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for feature in features
        )

    def forward(self, x: Tensor, hint: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Pictures (B, 3, H, W) in [0, 1] -> [(B, 1, h_i, w_i)], one per layer; the hint is not used."""
        network = self._network[0].to(x.device)
        verdicts = []
        for feature, head in zip(network(x), self.heads, strict=True):
            # Layers differ in magnitude by orders; each position's features are scaled to mean square one.
            power = feature.float().square().mean(1, keepdim=True)
            verdicts.append(head(feature / (power + 1e-6).sqrt()))
        return verdicts


def _make(config: DiscriminatorConfig) -> nn.Module:
    if config.kind == "patch":
        return PatchDiscriminator(config.width, config.layers)
    return FeatureDiscriminator(load_feature_network(config.network, config.weights), config.width)


class Discriminators(nn.Module):
    """All the discriminators of a run. Raises ModelError where a feature network's weights are missing.

    ``forward`` is their own loss; ``verdict`` is the model's.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.shares = [d.share for d in config.discriminators]
        self.networks = nn.ModuleList(_make(d) for d in config.discriminators)

    def forward(self, real: Tensor, restored: Tensor, hint: Tensor) -> Tensor:
        """The hinge loss that the discriminators learn from, for pictures (B, 3, H, W) in [0, 1]: a mean."""
        # One pass for both: under DDP a second would find its gradients already under way.
        both = self._judge(torch.cat([real, restored]), torch.cat([hint, hint]))
        losses = []
        for verdicts in both:
            halves = [v.float().chunk(2) for v in verdicts]
            losses.append(torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in halves]).mean())
        return self._sum(losses)

    def verdict(self, restored: Tensor, hint: Tensor) -> Tensor:
        """The model's adversarial term, lower where the discriminators take its pictures for photographs."""
        both = self._judge(restored, hint)
        return self._sum([torch.stack([-v.float().mean() for v in verdicts]).mean() for verdicts in both])

    def _judge(self, x: Tensor, hint: Tensor) -> list[list[Tensor]]:
        return [network(x, hint) for network in self.networks]

    def _sum(self, losses: list[Tensor]) -> Tensor:
        return torch.stack([share * loss for share, loss in zip(self.shares, losses, strict=True)]).sum()


class Adversary:
    """The discriminators of a run and their optimizer, in accelerate's wrapping.

    ``loss`` is what they learn from, ``verdict`` what the model learns from.
    """

    def __init__(self, config: AdversarialConfig, accelerator: Any) -> None:
        self.config = config
        self.discriminators = Discriminators(config)
        self.plain_optimizer = make_optimizer(self.discriminators, config.optimizer, accelerator.device)
        self.loss, self.optimizer = accelerator.prepare(self.discriminators, self.plain_optimizer)

    def verdict(self, restored: Tensor, hint: Tensor) -> Tensor:
        """``Discriminators.verdict``, without gradients for the discriminators."""
        # Past accelerate's wrapping, and without gradients of their own: DDP need not know of this pass.
        self.discriminators.requires_grad_(False)
        term = self.discriminators.verdict(restored, hint)
        self.discriminators.requires_grad_(True)
        return term


def enlarged_thumbnail(x: Tensor, scale: int) -> Tensor:
    """Photographs (B, 3, H, W) in [0, 1] -> their bicubic thumbnails, enlarged bilinearly."""
    small = bicubic_thumbnail(x, (x.shape[2] // scale, x.shape[3] // scale))
    return F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
