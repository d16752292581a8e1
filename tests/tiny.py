"""Tiny but real models for the tests: every part is there, nothing is a mock."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from faitheir.backbones.nano import NanoBackbone, NanoConfig
from faitheir.models import ModelConfig, build_model
from faitheir.nn.codec import CodecConfig, FaithEIR

M = TypeVar("M", bound=nn.Module)


def nano_config(**changes: Any) -> NanoConfig:
    sizes: dict[str, Any] = {
        "latent_channels": 4,
        "encoder_widths": (8, 8),
        "encoder_blocks": (1, 1),
        "unet_widths": (8, 16),
        "unet_blocks": (1, 2),
        "decoder_widths": (8, 8, 4),
        "decoder_blocks": (1, 1, 1),
        "context_dim": 16,
        "heads": 1,
        "window": 2,
    }
    return NanoConfig(**(sizes | changes))


def model_config(nano: dict[str, Any] | None = None, *, name: str = "tiny", **codec: Any) -> ModelConfig:
    """A nano model of some 20,000 parameters."""
    choices: dict[str, Any] = {"growth": 4, "inv_blocks": 2, "pse_hidden": (8,), "lte_tokens": 3}
    return ModelConfig(name, CodecConfig(**(choices | codec)), nano_config(**(nano or {})))


def tiny(nano: dict[str, Any] | None = None, *, seed: int = 0, **codec: Any) -> FaithEIR:
    """The model of ``model_config``, as initialised: many of its parts start as the identity."""
    torch.manual_seed(seed)
    return build_model(model_config(nano, **codec))


def wake(module: M, std: float = 0.05, seed: int = 1) -> M:
    """Give every weight that starts at zero a random value, so that no part is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.any() and not name.endswith("skew"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def nano(**changes: Any) -> NanoBackbone:
    """A tiny backbone, awake."""
    torch.manual_seed(0)
    return wake(NanoBackbone(nano_config(**changes)))


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1]; ``shape`` is (batch, height, width), or (height, width) for one."""
    batch, height, width = shape if len(shape) == 3 else (1, *shape)
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
