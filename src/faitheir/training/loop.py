"""The training loop: one function, ``train``, and what it keeps on disk.

- ``RUN/config.json``: the resolved configuration
- ``RUN/log.jsonl``: a line per logged step: losses, gradient norm, learning rate, crops per second
- ``RUN/checkpoint-00000500/``: model/ (as it would be shipped) and state/ (what a restart needs)
- ``RUN/validation/step-.../``: thumbnail, restored, and both beside the original
- ``RUN/model/``: the finished model
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from faitheir.config import to_dict
from faitheir.errors import ConfigError, FaithEIRError, MissingDependencyError, ModelError
from faitheir.models import (
    build_model,
    convert_state,
    find_model,
    load_state,
    read_config,
    read_weights,
    save_model,
    stored_state,
)
from faitheir.nn.codec import FaithEIR
from faitheir.pipeline import native_bfloat16, resolve_device
from faitheir.training.config import OptimizerConfig, TrainConfig
from faitheir.training.data import CropDataset, NumberSampler
from faitheir.training.losses import Objective
from faitheir.training.validation import validate


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

    def swap(self) -> None:
        """Exchange parameters and averages; calling it again undoes it."""
        for p, a in zip(self.parameters, self.average, strict=True):
            value = p.detach().clone()
            p.data.copy_(a)
            a.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for a, value in zip(self.average, state["average"], strict=True):
            a.copy_(value)


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


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(p for p in run.glob("checkpoint-*") if (p / "state").is_dir())


def train(config: TrainConfig, *, resume: bool = False, log: Callable[[str], None] = print) -> Path:
    """Train and return the folder of the finished model, ``RUN/model``.

    ``resume`` goes on from the run's last checkpoint, if there is one, as the uninterrupted run would have; without
    it a run folder that holds checkpoints is refused. Raises FaithEIRError subclasses.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import set_seed
    except ImportError:
        raise MissingDependencyError("Training needs accelerate: pip install 'faitheir[train]'.") from None

    run = Path(config.run)
    found = checkpoints(run)
    if found and not resume:
        raise ConfigError(f"{run}: this run has checkpoints; resume it, or choose another run folder.")
    if not resume and (run / "log.jsonl").exists():
        (run / "log.jsonl").unlink()

    precision = config.precision
    if precision == "auto":
        device = resolve_device("auto")
        precision = "bf16" if native_bfloat16(device) else "fp16" if device.type == "cuda" else "no"
    # accelerate keeps the precision of the process's first run; a second run may want another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.optimizer.accumulate,
        step_scheduler_with_optimizer=False,
    )
    # Weights are drawn from the same seed in every process; sampling inside the model is not.
    set_seed(config.seed)
    model = _initial_model(config, log)
    set_seed(config.seed, device_specific=True)
    objective = Objective(config.losses, model.context_dim, tokens=config.model.codec.embedder == "pse")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, config.optimizer.lr, config.optimizer.betas, weight_decay=config.optimizer.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config.optimizer, config.steps))

    if accelerator.is_main_process:
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{run}: the run's folder cannot be made ({error.strerror}); choose another.") from None
        (run / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
    average = WeightAverage(trained, config.ema)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    objective = objective.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average.average = [a.to(accelerator.device) for a in average.average]
    accelerator.register_for_checkpointing(schedule, average)
    step = 0
    if found:
        step = _load_checkpoint(accelerator, found[-1])
        log(f"resumed from {found[-1]}")
    if accelerator.is_main_process:
        _truncate_log(run / "log.jsonl", step)

    per_step = config.batch * accelerator.num_processes * config.optimizer.accumulate
    dataset = CropDataset(config.data, config.seed)
    loader = DataLoader(
        dataset,
        batch_size=config.batch,
        sampler=NumberSampler(step * per_step, config.steps * per_step),
        num_workers=config.data.workers,
        drop_last=True,
        generator=torch.Generator(),  # its own: starting a loader must not move the model's random numbers
        persistent_workers=config.data.workers > 0,
    )
    loader = accelerator.prepare_data_loader(loader)
    log(
        f"{sum(p.numel() for p in trained):,} of {sum(p.numel() for p in model.parameters()):,} parameters trained on "
        f"{len(dataset.paths)} photographs, {accelerator.device}, precision {precision}"
    )

    prepared.train()
    sums: dict[str, Tensor] = {}
    norm = torch.zeros(())
    started, logged = time.monotonic(), step
    for batch in loader:
        with accelerator.accumulate(prepared):
            x = batch.to(memory_format=torch.channels_last)
            with accelerator.autocast():
                total, terms = objective(x, prepared(x))
            accelerator.backward(total)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(trained, config.optimizer.clip)
            optimizer.step()
            optimizer.zero_grad()
        for name, value in {"loss": total, **terms}.items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        step += 1
        average.update(step)

        if step % config.log_every == 0 or step == config.steps:
            count = (step - logged) * config.optimizer.accumulate
            record: dict[str, float] = {"step": step}
            record |= {k: float(accelerator.reduce(v, reduction="mean")) / count for k, v in sums.items()}
            if not math.isfinite(record["loss"]):
                raise FaithEIRError(
                    f"{run}: the loss is not finite at step {step}; "
                    "lower optimizer.lr or resume from the last checkpoint."
                )
            speed = (step - logged) * per_step / (time.monotonic() - started)
            record |= {
                "grad_norm": float(norm),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "crops_per_second": speed,
            }
            if accelerator.is_main_process:
                _append(run / "log.jsonl", record)
                log("  ".join(f"{k} {v:.4g}" for k, v in record.items()))
            sums, logged, started = {}, step, time.monotonic()
        if accelerator.is_main_process and config.data.val and config.val_every and step % config.val_every == 0:
            average.swap()
            figures = validate(model, config, run / "validation" / f"step-{step:08d}")
            average.swap()
            prepared.train()
            _append(run / "log.jsonl", {"step": step, **figures})
            log("validation: " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        if step % config.save_every == 0 or step == config.steps:
            _save_checkpoint(accelerator, run, step, model, average, config)

    final = run / "model"
    if accelerator.is_main_process:
        average.swap()
        save_model(final, model, config.model)
    accelerator.end_training()
    return final


def _initial_model(config: TrainConfig, log: Callable[[str], None]) -> FaithEIR:
    """The model to train: new, or ``init``'s weights, converted where the configurations differ."""
    model = build_model(config.model, pretrained=True)
    if config.init is None:
        return model
    folder = find_model(config.init)
    other, state = read_config(folder), read_weights(folder)
    if (other.codec, other.backbone) == (config.model.codec, config.model.backbone):
        load_state(model, state, config.init)
    else:
        fitted = convert_state(model, state, config.init)
        total = sum(v.numel() for v in stored_state(model).values())
        log(f"{config.init} has another configuration: {fitted:,} of {total:,} values taken from it, the rest new")
    return model


def _save_checkpoint(
    accelerator: Any, run: Path, step: int, model: FaithEIR, average: WeightAverage, config: TrainConfig
) -> None:
    """Written beside and renamed, so that a checkpoint that can be seen is whole."""
    final = run / f"checkpoint-{step:08d}"
    temporary = run / f".saving-{step:08d}"
    accelerator.save_state(str(temporary / "state"))
    if accelerator.is_main_process:
        average.swap()
        save_model(temporary / "model", model, config.model)
        average.swap()
        (temporary / "state" / "step.json").write_text(json.dumps({"step": step}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in checkpoints(run)[: -config.keep]:
            shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _load_checkpoint(accelerator: Any, folder: Path) -> int:
    try:
        accelerator.load_state(str(folder / "state"))
        return int(json.loads((folder / "state" / "step.json").read_text(encoding="utf-8"))["step"])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{folder}: this checkpoint cannot be resumed ({reason}).") from None


def _append(path: Path, record: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _truncate_log(path: Path, step: int) -> None:
    """Forget what was logged after the checkpoint: those steps are done again."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
