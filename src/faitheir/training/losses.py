"""The training objective (paper 3.5): L = l1 L_LR + l2 L_sem + l3 L_rec + l4 L_feat, and optional terms of ours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.errors import ConfigError
from faitheir.features import (
    FeatureNetwork,
    feature_distance,
    load_feature_network,
    load_lpips,
    pointwise_distance,
    wasserstein_distance,
)
from faitheir.nn.codec import Reconstruction
from faitheir.nn.precision import without_autocast
from faitheir.training.config import REGULARITY_WINDOW, FeatureLossConfig, LossConfig
from faitheir.training.teachers import load_teacher


def bicubic_thumbnail(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Anti-aliased bicubic reduction, clamped to [0, 1]: what the thumbnail should look like (eq. 7)."""
    return F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def storage_cost(thumbnail: Tensor) -> Tensor:
    """About how many bits a pixel's channel takes in a lossless file: (B, 3, h, w) in [0, 1] -> a mean.

    What WebP and PNG store is the difference to a prediction from the pixels to the left and above, of green and of
    red and blue less green; its logarithm stands for the length of its code.
    """
    red, green, blue = thumbnail.unbind(1)
    planes = torch.stack([red - green, green, blue - green], 1)
    left, above, corner = planes[..., 1:, :-1], planes[..., :-1, 1:], planes[..., :-1, :-1]
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    prediction = torch.minimum(torch.maximum(left + above - corner, low), high)
    return torch.log2(1 + 255 * (planes[..., 1:, 1:] - prediction).abs()).mean()


def lattice_excess(error: Tensor, scale: int) -> Tensor:
    """How far a pattern that repeats with the thumbnail's cells stands out of the error (B, 3, H, W): 0 is not at all.

    Of the luma error's power along rows and columns: its logarithm at each multiple of 1/``scale`` cycles per pixel
    over that of the frequencies beside it, summed over the multiples where it is above. The sides must hold at
    least 8 cells, or there are no frequencies between.
    """
    luma = error.float().mul(error.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    excess = luma.new_zeros(())
    for lines in (luma, luma.transpose(1, 2)):
        length = lines.shape[-1]
        cells = length // scale
        window = torch.hann_window(length, device=luma.device)
        power = torch.fft.rfft(lines * window).abs().square().mean((0, 1))
        at = torch.arange(1, scale // 2, device=luma.device) * cells
        # A Hann window spreads a line over the frequencies next to it: what is one step away is no neighbour.
        near = torch.stack([power[at + step] for step in (-3, -2, 2, 3)]).mean(0)
        excess = excess + F.relu(torch.log((power[at] + 1e-9) / (near + 1e-9))).sum()
    return excess / 2


#: The frequencies at which texture is looked at, in cycles per window: periods of 2.3 to 10.7 pixels.
_REGULARITY_BAND = (6, 28)

#: Power below which a pattern does not count: that of noise of 2.4 levels.
_REGULARITY_FLOOR = 0.05


def regularity(picture: Tensor) -> Tensor:
    """How regular the texture is in windows of 64 x 64 pixels, side by side: (B, 3, H, W) in [0, 1] -> (B, windows).

    Sides must be at least those of a window.

    Of the luma's power spectrum: the mean of the eight largest values of its logarithm over that of the frequencies
    around. Repeated texture stands out by far, natural texture hardly; photographs have 1.6 on average.
    """
    side = REGULARITY_WINDOW
    luma = picture.float().mul(picture.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    cut = luma.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)
    window = torch.hann_window(side, periodic=False, device=luma.device)
    spectrum = torch.view_as_real(torch.fft.rfft2((cut - cut.mean((2, 3), keepdim=True)) * window[:, None] * window))
    power = spectrum.square().sum(-1) + _REGULARITY_FLOOR
    # From the lowest frequency to the highest and not around the corner, so that neighbours lie side by side.
    power = power.roll(side // 2, 2).flatten(0, 1)[:, None]
    near = F.avg_pool2d(F.pad(power, (1, 1, 1, 1), mode="replicate"), 3, 1).log()
    around = F.avg_pool2d(F.pad(power.log(), (4, 4, 4, 4), mode="replicate"), 9, 1)
    down = torch.arange(-side // 2, side // 2, device=luma.device)[:, None]
    across = torch.arange(side // 2 + 1, device=luma.device)
    radius = (down**2 + across**2).sqrt()
    inside = (radius >= _REGULARITY_BAND[0]) & (radius <= _REGULARITY_BAND[1])
    largest: Tensor = (near - around)[:, 0, inside].topk(8, 1).values.mean(1)
    return largest.view(cut.shape[:2])


def regularity_excess(restored: Tensor, original: Tensor) -> Tensor:
    """How much more regular the texture of the restored picture is, both (B, 3, H, W): 0 is nowhere."""
    return F.relu(regularity(restored) - regularity(original)).mean()


def _norm(kind: str, a: Tensor, b: Tensor) -> Tensor:
    return F.l1_loss(a, b) if kind == "l1" else F.mse_loss(a, b)


def _perceptual(config: FeatureLossConfig) -> nn.Module:
    """A feature network, or LPIPS with its learned weights."""
    if config.network == "lpips_alex":
        return load_lpips("alex", config.weights)
    if config.network == "lpips_vgg":
        return load_lpips("vgg", config.weights)
    return load_feature_network(config.network, config.weights)


class Objective(nn.Module):
    """The weighted sum of the losses whose weight is not zero, with the frozen networks that they need.

    ``context_dim`` is the width of the model's condition tokens. Raises ConfigError where the teacher's features
    have another width, ModelError where a network's weights are missing.
    """

    def __init__(self, config: LossConfig, context_dim: int, *, tokens: bool = True) -> None:
        super().__init__()
        self.config = config
        self.networks = nn.ModuleList()
        if config.feature or config.texture:
            self.networks.extend(_perceptual(f) for f in config.features)
        self.teacher = None
        # Only tokens made from the thumbnail's pixels can be aligned with a picture.
        if config.semantic and tokens:
            self.teacher = load_teacher(config.teacher, config.teacher_weights, config.teacher_layer)
            if self.teacher.width != context_dim:
                raise ConfigError(
                    f"the teacher '{config.teacher}' has {self.teacher.width} features per pixel, the model's tokens "
                    f"{context_dim}; choose a backbone with context_dim {self.teacher.width}, or set semantic to 0."
                )

    def forward(
        self, x: Tensor, out: Reconstruction, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W) in [0, 1] and the model's output -> total, and each term unweighted.

        Terms about the thumbnail are left out where none was made. ``generator`` draws the features' offset.
        """
        c = self.config
        terms: dict[str, Tensor] = {}
        picture = out.picture.float()
        if out.thumbnail is not None:
            terms |= self._thumbnail_terms(x, out.thumbnail.float())
        if c.pixel:
            terms["pixel"] = _norm(c.pixel_norm, picture, x)
        if self.networks:
            # Cuts of one size: with a new size at each step, oneDNN would compile every convolution anew.
            height, width = (n - min(c.feature_shift, n // 2) for n in x.shape[2:])
            top, left = (
                int(torch.randint(n - cut + 1, (), generator=generator))
                for n, cut in zip(x.shape[2:], (height, width), strict=True)
            )
            a, b = (p[:, :, top : top + height, left : left + width] for p in (picture, x))
            terms |= self._perceptual_terms(a, b)
        if self.teacher is not None and out.condition is not None and out.condition.grid is not None:
            with torch.no_grad():
                target = self.teacher.features(x, out.condition.grid).flatten(2).transpose(1, 2)
            terms["semantic"] = self._semantic(out.condition.tokens.float(), target)
        if c.distribution and out.lost is not None:
            terms["distribution"] = out.lost.float().square().mean()
        if c.rate and out.bits is not None:
            terms["rate"] = out.bits.float().mean()
        if c.compression and out.compression is not None:
            terms["compression"] = out.compression.float()
        if c.lattice and out.thumbnail is not None:
            terms["lattice"] = lattice_excess(picture - x, x.shape[2] // out.thumbnail.shape[2])
        if c.regularity:
            with without_autocast(x):
                terms["regularity"] = regularity_excess(picture, x)
        total = torch.stack([getattr(c, name) * term for name, term in terms.items()]).sum()
        return total, terms

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The first network's perceptual distance, for validation: (B, 3, H, W) in [0, 1] twice -> (B,)."""
        network = self.networks[0]
        found: Tensor = feature_distance(network, a, b) if isinstance(network, FeatureNetwork) else network(a, b)
        return found

    def _perceptual_terms(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """The feature distances of restored and original crops: pointwise, and of local statistics."""
        found: dict[str, list[Tensor]] = {"feature": [], "texture": []}
        for f, network in zip(self.config.features, self.networks, strict=True):
            if not isinstance(network, FeatureNetwork):
                found["feature"].append(f.share * network(a, b).mean())
                continue
            of_a = network(a)
            with torch.no_grad():
                of_b = network(b)
            if self.config.feature:
                found["feature"].append(f.share * pointwise_distance(of_a, of_b).mean())
            if self.config.texture:
                found["texture"].append(f.share * wasserstein_distance(of_a, of_b).mean())
        return {name: torch.stack(parts).sum() for name, parts in found.items() if parts}

    def _thumbnail_terms(self, x: Tensor, thumbnail: Tensor) -> dict[str, Tensor]:
        terms = {}
        reference = bicubic_thumbnail(x, (thumbnail.shape[2], thumbnail.shape[3]))
        if self.config.guidance:
            terms["guidance"] = _norm(self.config.guidance_norm, thumbnail, reference)
        if self.config.storage:
            # What a bicubic thumbnail costs is free; only what is above it is paid for.
            terms["storage"] = F.relu(storage_cost(thumbnail) - storage_cost(reference))
        return terms

    def _semantic(self, tokens: Tensor, target: Tensor) -> Tensor:
        if self.config.semantic_distance == "cosine":
            return (1 - F.cosine_similarity(tokens, target, dim=-1)).mean()
        return _norm(self.config.semantic_distance, tokens, target)
