"""What a run needs before its first step: accelerate, the model with its frozen parts, losses, optimizers, crops."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from faitheir.devices import native_bfloat16, resolve_device
from faitheir.errors import ConfigError, ModelError, needs, why
from faitheir.models import (
    build_model,
    convert_state,
    find_model,
    load_state,
    read_config,
    read_weights,
)
from faitheir.nn.codec import FaithEIR, Reconstruction
from faitheir.training.adversarial import Adversary
from faitheir.training.config import LossyConfig, TrainConfig
from faitheir.training.data import CropDataset, NumberSampler, patient_worker
from faitheir.training.losses import Objective
from faitheir.training.lossy import LossyStorage
from faitheir.training.optimizers import WeightAverage, make_optimizer, make_schedule

Log = Callable[[str], None]

#: Where a run's lines go by default: the command line prints them, other programs choose.
log_line: Log = logging.getLogger("faitheir").info


class TrainingPass(nn.Module):
    """What is trained, as one module with one forward, for accelerate to wrap."""

    def __init__(self, model: FaithEIR, stage: str, lossy: LossyConfig) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.store = LossyStorage(lossy) if lossy.formats else None

    def forward(self, x: Tensor) -> Reconstruction:
        """Photographs (B, 3, H, W) in [0, 1] -> what the losses need; in the stage "vae" the picture alone."""
        if self.stage == "vae":
            return Reconstruction(None, self.model.autoencode(x), None, None)
        out: Reconstruction = self.model(x, fidelity=float(self.stage == "fidelity"), store=self.store)
        return out


@dataclass
class Setup:
    """One process's part in a run.

    ``model`` is what is saved, and ``wrapped`` the ``TrainingPass`` over it in accelerate's wrapping; ``optimizer`` is
    wrapped likewise. ``adversary``: None outside the adversarial stage. ``average``: of what is trained.
    """

    config: TrainConfig
    accelerator: Any
    model: FaithEIR
    wrapped: Any
    optimizer: Any
    schedules: list[Any]
    objective: Objective
    adversary: Adversary | None
    average: WeightAverage
    dataset: CropDataset

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def learners(self) -> list[Any]:
        """What accelerate accumulates gradients of."""
        return [self.wrapped] if self.adversary is None else [self.wrapped, self.adversary.loss]

    @property
    def crops_per_pass(self) -> int:
        """How many of a step's crops one process sees in one of its passes."""
        processes: int = self.accelerator.num_processes
        return self.config.batch // (processes * self.config.optimizer.accumulate)

    def loader(self, first: int, last: int) -> Any:
        """Batches for the steps from ``first``, counted from 0, up to ``last``: (crops_per_pass, 3, crop, crop)."""
        config = self.config
        loader = DataLoader(
            self.dataset,
            batch_size=self.crops_per_pass,
            sampler=NumberSampler(first * config.batch, last * config.batch),
            num_workers=config.data.workers,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: starting a loader must not move the model's random numbers
            worker_init_fn=patient_worker,
        )
        return self.accelerator.prepare_data_loader(loader)

    def any_process(self, here: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def state(self) -> dict[str, Any]:
        """What a restart needs, apart from the frozen weights, which are in files of their own; all must ask.

        Of random numbers torch's alone are kept: nothing here draws from Python's or NumPy's global ones.
        """
        from accelerate.utils import gather_object

        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": _trained_state(self.model),
            "average": self.average.average,
            "optimizer": self.optimizer.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "random": gather_object([random]),
        }
        if self.adversary is not None:
            state["discriminators"] = dict(self.adversary.discriminators.state_dict())
            state["discriminators' optimizer"] = self.adversary.optimizer.state_dict()
        return state

    def load(self, state: dict[str, Any], where: str) -> None:
        """Go on from what ``state`` gave. Raises ModelError, naming ``where``, if that was of another configuration."""
        try:
            if state["model"].keys() != _trained_state(self.model).keys():
                raise ValueError("other parts were trained")
            self.model.load_state_dict(state["model"], strict=False)
            for average, value in zip(self.average.average, state["average"], strict=True):
                average.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            for schedule, value in zip(self.schedules, state["schedules"], strict=True):
                schedule.load_state_dict(value)
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            if self.adversary is not None:
                self.adversary.discriminators.load_state_dict(state["discriminators"])
                self.adversary.optimizer.load_state_dict(state["discriminators' optimizer"])
            # A process that the run had not before keeps its own random numbers.
            for random in state["random"][self.accelerator.process_index :][:1]:
                torch.set_rng_state(random["cpu"])
                if self.device.type == "cuda" and "cuda" in random:
                    torch.cuda.set_rng_state(random["cuda"], self.device)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = why(error)[:200]
            raise ModelError(
                f"{where}: this checkpoint is of a run with another configuration ({reason}); choose another "
                "run folder."
            ) from None


def make_accelerator(config: TrainConfig) -> Any:
    """Accelerate for this process. Raises ConfigError for a precision or a batch that is not possible here."""
    with needs("Training needs accelerate: pip install 'faitheir[train]'."):
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
        from accelerate.utils import parse_flag_from_env

    # accelerate keeps the precision of the process's first run; a second run may want another.
    AcceleratorState._reset_state()
    # Without a condition the attention to it is idle, and DDP must look for what took no part.
    idle = config.model.codec.embedder == "none"
    accelerator = Accelerator(
        # Without cpu=True accelerate treats each CPU process as a run of its own.
        cpu=resolve_device("auto").type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"),
        mixed_precision=_precision(config.precision),
        gradient_accumulation_steps=config.optimizer.accumulate,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)],
    )
    passes = accelerator.num_processes * config.optimizer.accumulate
    if config.batch % passes:
        raise ConfigError(
            f"batch {config.batch} cannot be shared evenly by {accelerator.num_processes} process(es) and "
            f"{config.optimizer.accumulate} accumulated pass(es); choose a multiple of {passes}."
        )
    return accelerator


def prepare(config: TrainConfig, accelerator: Any, log: Log, *, listing: Path | None = None) -> Setup:
    """Everything for the first step, on this process's device. ``listing``: see ``CropDataset``."""
    from accelerate.utils import set_seed

    # Weights are drawn from the same seed in every process; sampling inside the model is not.
    set_seed(config.seed)
    model = initial_model(config, log)
    freeze(model, config)
    tokens = config.model.codec.embedder == "pse" and config.stage == "joint"
    objective = Objective(config.losses, model.context_dim, tokens=tokens)
    objective.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adversary = Adversary(config.adversarial, accelerator) if config.adversarial.weight else None
    set_seed(config.seed, device_specific=True)
    if config.activation_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    model.to(memory_format=torch.channels_last)

    training = TrainingPass(model, config.stage, config.lossy)
    optimizer = make_optimizer(training, config.optimizer, accelerator.device)
    schedules = [make_schedule(optimizer, config.optimizer, config.steps)]
    if adversary is not None:
        schedules.append(make_schedule(adversary.plain_optimizer, adversary.config.optimizer, config.steps))
    wrapped, optimizer = accelerator.prepare(training, optimizer)
    average = WeightAverage((p for p in model.parameters() if p.requires_grad), config.ema)
    dataset = CropDataset(config.data, config.seed, listing=listing)
    return Setup(config, accelerator, model, wrapped, optimizer, schedules, objective, adversary, average, dataset)


def initial_model(config: TrainConfig, log: Log) -> FaithEIR:
    """The model to train: new, or ``init``'s weights, converted where the configurations differ."""
    model = build_model(config.model, pretrained=True, base=config.base)
    if config.init is None:
        return model
    folder = find_model(config.init)
    other, state = read_config(folder), read_weights(folder)
    if (other.codec, other.backbone) == (config.model.codec, config.model.backbone):
        load_state(model, state, config.init)
    else:
        taken, total = convert_state(model, state, config.init)
        log(
            f"{config.init} has another configuration: {taken:,} of {total:,} values ({taken / total:.0%}) are taken "
            "from it, the rest is new"
        )
    return model


def freeze(model: FaithEIR, config: TrainConfig) -> None:
    """Turn off the gradient of what the stage and ``freeze`` leave alone. Raises ConfigError where nothing is left."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in config.freeze:
        if not any(name.startswith(prefix) for name in names):
            depth = {name: 2 if name.startswith("backbone.") else 1 for name in names}
            parts = dict.fromkeys(".".join(name.split(".")[: depth[name]]) for name in names)
            raise ConfigError(f"freeze: no part of the model is called '{prefix}'; its parts: {', '.join(parts)}.")
    vae = tuple(f"backbone.{part}" for part in model.backbone.vae_parts)
    for name, parameter in model.named_parameters():
        offsets = name.startswith("fidelity.")
        outside = config.stage == "vae" and not name.startswith(vae)
        if outside or offsets is not (config.stage == "fidelity") or name.startswith(config.freeze):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("freeze and stage leave nothing to train.")


def _precision(name: str) -> str:
    device = resolve_device("auto")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision 'fp16' needs a GPU; choose 'bf16', 'no' or 'auto'.")
    if name != "auto":
        return name
    return "bf16" if native_bfloat16(device) else "fp16" if device.type == "cuda" else "no"


def _trained_state(model: FaithEIR) -> dict[str, Tensor]:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}
