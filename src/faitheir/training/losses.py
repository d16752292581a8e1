"""The training objective (paper 3.5): L = l1 L_LR + l2 L_sem + l3 L_rec + l4 L_feat."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.errors import ConfigError
from faitheir.features import feature_distance, load_feature_network, load_teacher
from faitheir.nn.codec import Reconstruction
from faitheir.training.config import LossConfig


def bicubic_thumbnail(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Anti-aliased bicubic reduction, clamped to [0, 1]: what the thumbnail should look like (eq. 7)."""
    return F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _norm(kind: str, a: Tensor, b: Tensor) -> Tensor:
    return F.l1_loss(a, b) if kind == "l1" else F.mse_loss(a, b)


class Objective(nn.Module):
    """The weighted sum of the losses whose weight is not zero, with the frozen networks that they need.

    ``context_dim`` is the width of the model's condition tokens. Raises ConfigError where the teacher's features
    have another width, ModelError where a network's weights are missing.
    """

    def __init__(self, config: LossConfig, context_dim: int, *, tokens: bool = True) -> None:
        super().__init__()
        self.config = config
        self.networks = nn.ModuleList()
        if config.feature:
            self.networks.extend(load_feature_network(f.network, f.weights) for f in config.features)
        self.teacher = None
        # Only tokens made from the thumbnail's pixels can be aligned with a picture.
        if config.semantic and tokens:
            self.teacher = load_teacher(config.teacher, config.teacher_weights, config.teacher_layer)
            if self.teacher.width != context_dim:
                raise ConfigError(
                    f"the teacher '{config.teacher}' has {self.teacher.width} features per pixel, the model's tokens "
                    f"{context_dim}; choose a backbone with context_dim {self.teacher.width}, or set semantic to 0."
                )

    def forward(self, x: Tensor, out: Reconstruction) -> tuple[Tensor, dict[str, Tensor]]:
        """Photographs (B, 3, H, W) in [0, 1] and the model's output -> total, and each term unweighted."""
        c = self.config
        terms: dict[str, Tensor] = {}
        picture, thumbnail = out.picture.float(), out.thumbnail.float()
        if c.guidance:
            size = (thumbnail.shape[2], thumbnail.shape[3])
            terms["guidance"] = _norm(c.guidance_norm, thumbnail, bicubic_thumbnail(x, size))
        if c.pixel:
            terms["pixel"] = _norm(c.pixel_norm, picture, x)
        if self.networks:
            # Cuts of one size: with a new size at each step, oneDNN would compile every convolution anew.
            height, width = (n - min(c.feature_shift, n // 2) for n in x.shape[2:])
            top, left = (
                int(torch.randint(n - cut + 1, ())) for n, cut in zip(x.shape[2:], (height, width), strict=True)
            )
            a, b = (p[:, :, top : top + height, left : left + width] for p in (picture, x))
            terms["feature"] = torch.stack(
                [
                    f.share * feature_distance(network, a, b).mean()  # type: ignore[arg-type]
                    for f, network in zip(c.features, self.networks, strict=True)
                ]
            ).sum()
        if self.teacher is not None and out.condition is not None and out.condition.grid is not None:
            with torch.no_grad():
                target = self.teacher.features(x, out.condition.grid).flatten(2).transpose(1, 2)
            terms["semantic"] = self._semantic(out.condition.tokens.float(), target)
        weights = {"guidance": c.guidance, "pixel": c.pixel, "feature": c.feature, "semantic": c.semantic}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return total, terms

    def _semantic(self, tokens: Tensor, target: Tensor) -> Tensor:
        if self.config.semantic_distance == "cosine":
            return (1 - F.cosine_similarity(tokens, target, dim=-1)).mean()
        return _norm(self.config.semantic_distance, tokens, target)
