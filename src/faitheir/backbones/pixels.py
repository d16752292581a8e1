"""`pixels`: no VAE and no UNet. The rescaler works on the pixels themselves, as in IRN and T-IRN.

encode   x in [0, 1] --> 2 x - 1
predict  nothing: what the inverse rescaler gives is the picture
decode   (z + 1) / 2
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from faitheir.nn.codec import Backbone
from faitheir.nn.denoiser import PredictionType
from faitheir.nn.embedder import Condition


@dataclass(frozen=True)
class PixelsConfig:
    """There is nothing to choose."""

    kind: Literal["pixels"] = "pixels"

    @property
    def size_multiple(self) -> int:
        """What picture sides must be divisible by: any will do."""
        return 1


class PixelsBackbone(Backbone):
    """A backbone without parameters; see ``Backbone`` for the interface."""

    latent_channels = 3
    latent_stride = 1
    context_dim = 0
    size_multiple = 1
    prediction_type: PredictionType = "sample"
    least_scale = 2
    window = 1
    vae_parts = ()

    def encode(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] -> the same in [-1, 1]."""
        return 2 * x - 1

    def decode(self, z: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:  # noqa: ARG002
        """The inverse of ``encode``, not clamped."""
        return (z + 1) / 2

    def predict(self, z_t: Tensor, condition: Condition | None) -> Tensor:  # noqa: ARG002
        """The latent itself."""
        return z_t

    def trained_state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""

    def enable_gradient_checkpointing(self) -> None:
        """Nothing is computed here, so there is nothing to recompute."""

    def parts(self) -> dict[str, int]:
        """None."""
        return {}
