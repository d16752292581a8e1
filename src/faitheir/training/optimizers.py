"""Optimizers and schedules of the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from faitheir.errors import MissingDependencyError
from faitheir.training.config import OptimizerConfig


def learning_rate_factor(config: OptimizerConfig, steps: int) -> Callable[[int], float]:
    """The schedule: step, from 0 -> factor on the learning rate."""

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (config.warmup + 1))
        if config.schedule == "halve":
            return float(warm * 0.5 ** (step // config.halve_every))
        if config.schedule == "cosine":
            done = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
            return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        return warm

    return factor


def make_schedule(optimizer: Any, config: OptimizerConfig, steps: int) -> Any:
    """The schedule as torch has it, over ``steps`` steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, steps))


def make_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig, device: torch.device) -> Any:
    """The optimizer as configured. Raises MissingDependencyError where its library is not installed or too old."""
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise MissingDependencyError(
                "The optimizer 'adamw8bit' needs bitsandbytes: pip install bitsandbytes, or choose kind 'adamw'."
            ) from None
        return AdamW8bit(parameters, **settings)
    settings["fused"] = device.type == "cuda" if config.fused is None else config.fused
    return MuonAdamW(parameters, **settings) if config.kind == "muon" else torch.optim.AdamW(parameters, **settings)


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the kernels of convolutions and AdamW for the rest, both torch's, as one optimizer.

    Muon takes matrices; a kernel is one with a row for each output channel. Its steps are scaled to the size of AdamW's
    (Liu et al. 2025), so that one learning rate serves both. Raises MissingDependencyError before torch 2.9.
    """

    def __init__(
        self, parameters: list[nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float, fused: bool
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise MissingDependencyError(
                f"The optimizer 'muon' needs torch 2.9, this is {torch.__version__}: pip install -U torch, or choose "
                "kind 'adamw'."
            )
        kinds = ([p for p in parameters if p.ndim == 4], [p for p in parameters if p.ndim != 4])
        # torch refuses an optimizer of nothing.
        super().__init__([{"params": found} for found in kinds if found], {"lr": lr})
        self._matrices = [nn.Parameter(_matrix(p.detach())) for p in kinds[0]]
        self._inner: list[torch.optim.Optimizer] = []
        if kinds[0]:
            self._inner.append(
                torch.optim.Muon(self._matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if kinds[1]:
            self._inner.append(torch.optim.AdamW(kinds[1], lr=lr, betas=betas, weight_decay=weight_decay, fused=fused))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One step of both, at the learning rates in ``param_groups``."""
        for inner, group in zip(self._inner, self.param_groups, strict=True):
            inner.param_groups[0]["lr"] = group["lr"]
        kernels = self.param_groups[0]["params"] if self._matrices else []
        for matrix, kernel in zip(self._matrices, kernels, strict=True):
            # Made anew each time: a kernel may have been moved, and its gradient is another tensor.
            matrix.data = _matrix(kernel.data)
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        for inner in self._inner:
            inner.step()
        for matrix, kernel in zip(self._matrices, kernels, strict=True):
            if matrix.data_ptr() != kernel.data_ptr():  # a copy, where the kernel's layout allows no view
                kernel.copy_(matrix.unflatten(1, (*kernel.shape[2:], kernel.shape[1])).permute(0, 3, 1, 2))  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave."""
        for inner, group, state in zip(self._inner, self.param_groups, state_dict["inner"], strict=True):
            inner.load_state_dict(state)
            group["lr"] = inner.param_groups[0]["lr"]


def _matrix(kernel: Tensor) -> Tensor:
    """(O, I, h, w) -> (O, h w I), which of a kernel in channels_last is a view."""
    return kernel.permute(0, 2, 3, 1).flatten(1)
