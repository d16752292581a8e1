"""Optimizers, schedules of the learning rate, and the average of the weights."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from faitheir.errors import MissingDependencyError, needs
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
    """A LambdaLR with ``learning_rate_factor`` over ``steps`` steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, steps))


def parameter_groups(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """What is trained of ``module``, by its role, in the module's order; a role that nothing has is left out.

    - ``kernels``: the weights of convolutions
    - ``matrices``: the weights of linear layers
    - ``others``: all else: biases, norms, priors, LRT's skew matrix, learned tokens, attention's tables of offsets, the
      fidelity setting's offsets. These are values, not maps: weight decay would pull them to zero for nothing (a prior
      is an average, and a skew matrix of zero is the transform that training started from), and a step that Muon makes
      orthogonal means nothing to them, whatever their rank.
    """
    groups: dict[str, list[nn.Parameter]] = {"kernels": [], "matrices": [], "others": []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # Under spectral normalisation a layer keeps its weight as parametrizations.weight.original.
        owner, _, leaf = name.replace(".parametrizations.weight.original", ".weight").rpartition(".")
        layer = module.get_submodule(owner)
        if leaf == "weight" and isinstance(layer, nn.Conv2d):
            groups["kernels"].append(parameter)
        elif leaf == "weight" and isinstance(layer, nn.Linear):
            groups["matrices"].append(parameter)
        else:
            groups["others"].append(parameter)
    return {role: found for role, found in groups.items() if found}


def make_optimizer(module: nn.Module, config: OptimizerConfig, device: torch.device) -> Any:
    """The optimizer of what is trained in ``module``, with a group for each role (``parameter_groups``).

    Weight decay is for kernels and matrices alone. Raises MissingDependencyError where the optimizer's library is not
    installed or too old.
    """
    groups = [
        {"role": role, "params": found, "weight_decay": 0.0 if role == "others" else config.weight_decay}
        for role, found in parameter_groups(module).items()
    ]
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas}
    if config.kind == "adamw8bit":
        with needs("The optimizer 'adamw8bit' needs bitsandbytes: pip install bitsandbytes, or choose kind 'adamw'."):
            from bitsandbytes.optim import AdamW8bit
        return AdamW8bit(groups, **settings)
    settings["fused"] = device.type == "cuda" if config.fused is None else config.fused
    return MuonAdamW(groups, **settings) if config.kind == "muon" else torch.optim.AdamW(groups, **settings)


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for ``kernels`` and AdamW for the other groups, both torch's, as one optimizer.

    Muon takes matrices; a kernel is one with a row for each output channel. Its steps are scaled to the size of AdamW's
    (Liu et al. 2025), so that one learning rate serves both. ``groups``: as ``make_optimizer`` makes them. Raises
    MissingDependencyError before torch 2.9.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], fused: bool) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise MissingDependencyError(
                f"The optimizer 'muon' needs torch 2.9, this is {torch.__version__}: pip install -U torch, or choose "
                "kind 'adamw'."
            )
        super().__init__(groups, {"lr": lr})
        self._kernels: list[nn.Parameter] = []
        self._matrices: list[nn.Parameter] = []
        #: Each of torch's two with those of our groups that are its own, in its order.
        self._inner: list[tuple[torch.optim.Optimizer, list[dict[str, Any]]]] = []
        kernels = [g for g in self.param_groups if g["role"] == "kernels"]
        rest = [g for g in self.param_groups if g["role"] != "kernels"]
        if kernels:
            self._kernels = kernels[0]["params"]
            self._matrices = [nn.Parameter(_matrix(p.detach())) for p in self._kernels]
            decay = kernels[0]["weight_decay"]
            muon = torch.optim.Muon(self._matrices, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._inner.append((muon, kernels))
        if rest:
            settings = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in rest]
            self._inner.append((torch.optim.AdamW(settings, lr=lr, betas=betas, fused=fused), rest))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One step of both, at the learning rates in ``param_groups``."""
        for inner, groups in self._inner:
            for own, group in zip(inner.param_groups, groups, strict=True):
                own["lr"] = group["lr"]
        for matrix, kernel in zip(self._matrices, self._kernels, strict=True):
            # Made anew each time: a kernel may have been moved, and its gradient is another tensor.
            matrix.data = _matrix(kernel.data)
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        for inner, _ in self._inner:
            inner.step()
        for matrix, kernel in zip(self._matrices, self._kernels, strict=True):
            if matrix.data_ptr() != kernel.data_ptr():  # a copy, where the kernel's layout allows no view
                kernel.copy_(matrix.unflatten(1, (*kernel.shape[2:], kernel.shape[1])).permute(0, 3, 1, 2))  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"inner": [inner.state_dict() for inner, _ in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave."""
        for (inner, groups), state in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)
            for own, group in zip(inner.param_groups, groups, strict=True):
                group["lr"] = own["lr"]


def _matrix(kernel: Tensor) -> Tensor:
    """(O, I, h, w) -> (O, h w I), which of a kernel in channels_last is a view."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


class WeightAverage:
    """Exponential moving average of the trained parameters; with decay 0 it is the parameters themselves.

    The decay is warmed up as (1 + step) / (10 + step), so that early steps are forgotten.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        self.average = [p.detach().clone() for p in self.parameters]

    def update(self, step: int) -> None:
        """Take in the parameters as they are after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in for the parameters inside the context."""
        kept = [p.detach().clone() for p in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
