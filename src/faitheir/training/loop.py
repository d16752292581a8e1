"""The training loop, and what a run keeps on disk.

- ``RUN/config.json``: the resolved configuration; ``environment.json``: versions, git revision, device of each start
- ``RUN/log.jsonl``: a line per logged step: losses, gradient norm, learning rate, crops per second
- ``RUN/tensorboard/``: the same as scalars, and validation pictures
- ``RUN/validation/step-.../``: thumbnail, restored, and both beside the original
- ``RUN/checkpoint-00000500/``: model/ (as it would be shipped) and state/ (what a restart needs)
- ``RUN/best/``: the model that scored best in validation; ``best.json`` says when
- ``RUN/model/``: the finished model, with a card filled from the run
- ``RUN/unreadable.txt``: photographs that were passed over, if there were any
"""

import contextlib
import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from faitheir.config import to_dict
from faitheir.devices import native_bfloat16, peak_mib, resolve_device
from faitheir.errors import ConfigError, FaithEIRError, MissingDependencyError, TrainingStopped
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
from faitheir.nn.codec import FaithEIR, Reconstruction
from faitheir.storage import write_atomic
from faitheir.training.adversarial import Discriminators, enlarged_thumbnail
from faitheir.training.card import model_card
from faitheir.training.checkpoints import Best, checkpoints, leave_frozen_out, load_checkpoint, save_checkpoint
from faitheir.training.config import ResaveConfig, TrainConfig
from faitheir.training.data import CropDataset, NumberSampler, patient_worker
from faitheir.training.losses import Objective
from faitheir.training.optimizers import make_optimizer, make_schedule
from faitheir.training.record import Recorder, environment, record_environment, seed_of
from faitheir.training.resave import Resave
from faitheir.training.validation import validate

Log = Callable[[str], None]

#: Photographs that could not be read, with the reason.
UNREADABLE_FILE = "unreadable.txt"


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
        """The averages stand in for the parameters meanwhile."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, a in zip(self.parameters, self.average, strict=True):
                p.copy_(a)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, k in zip(self.parameters, kept, strict=True):
                    p.copy_(k)


class StopRequest:
    """Notes a first SIGTERM or SIGINT instead of dying of it; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listen, where signals can be listened to: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: Any) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: object) -> None:
        """Listen no longer."""
        self._restore()


class _Pass(nn.Module):
    """What is trained, as one module with one forward, for accelerate to wrap."""

    def __init__(self, model: FaithEIR, stage: str, resave: ResaveConfig) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.resave = Resave(resave) if resave.share else None

    def forward(self, x: Tensor) -> Reconstruction:
        if self.stage == "vae":
            return Reconstruction(None, self.model.autoencode(x), None, None)
        out: Reconstruction = self.model(x, fidelity=float(self.stage == "fidelity"), between=self.resave)
        return out


def train_stages(
    configs: Sequence[TrainConfig], *, resume: str | None = None, dry_run: bool = False, log: Log = print
) -> Path | None:
    """Train one configuration after the other, each from the model that the one before left unless it names its own.

    With ``resume="auto"`` stages that are finished are passed over. Returns what ``train`` returns of the last one.
    """
    if len(configs) > 1 and resume not in (None, "auto"):
        raise ConfigError("a checkpoint can be resumed in one stage only; give --resume auto, or one configuration.")
    if len({c.run for c in configs}) < len(configs):
        raise ConfigError("two stages write the same run folder; give each its own 'run'.")
    result: Path | None = None
    for config in configs:
        finished = Path(config.run) / "model"
        if resume == "auto" and (finished / "config.json").is_file():
            log(f"{config.run} is finished already")
            result = finished
            continue
        if config.init is None and result is not None:
            config = replace(config, init=str(result))
        result = train(config, resume=resume, dry_run=dry_run, log=log)
    return result


def train(config: TrainConfig, *, resume: str | None = None, dry_run: bool = False, log: Log = print) -> Path | None:
    """Train and return the folder of the finished model, ``RUN/model``; None after a dry run.

    ``resume``: "auto" goes on from the run's last checkpoint, if there is one, as the uninterrupted run would have; a
    checkpoint's folder goes on from that one; None refuses a run folder that holds checkpoints.
    ``dry_run``: describe the run, take one step, write nothing.

    Raises TrainingStopped after SIGTERM or SIGINT, when a checkpoint is saved; FaithEIRError subclasses.
    """
    return _Trainer(config, resume, dry_run, log).run()


class _Trainer:
    """One process's part in a run."""

    def __init__(self, config: TrainConfig, resume: str | None, dry_run: bool, log: Log) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
            from accelerate.state import AcceleratorState
            from accelerate.utils import parse_flag_from_env, set_seed
        except ImportError:
            raise MissingDependencyError("Training needs accelerate: pip install 'faitheir[train]'.") from None

        self.config = config
        self.folder = Path(config.run)
        self.dry_run = dry_run
        checkpoint = None if dry_run else self._checkpoint(resume)
        # accelerate keeps the precision of the process's first run; a second run may want another.
        AcceleratorState._reset_state()
        # Without a condition the attention to it is idle, and DDP must look for what took no part.
        idle = config.model.codec.embedder == "none"
        self.accelerator = accelerator = Accelerator(
            # Told so, accelerate joins several processes without a GPU by gloo; else it takes each for the only one.
            cpu=resolve_device("auto").type == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU"),
            mixed_precision=_precision(config.precision),
            gradient_accumulation_steps=config.optimizer.accumulate,
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)],
        )
        self.main = accelerator.is_main_process
        self.device = accelerator.device
        self.log: Log = log if self.main else lambda _: None

        # Weights are drawn from the same seed in every process; sampling inside the model is not.
        set_seed(config.seed)
        self.model = _initial_model(config, self.log)
        self._freeze()
        tokens = config.model.codec.embedder == "pse" and config.stage == "joint"
        self.objective = Objective(config.losses, self.model.context_dim, tokens=tokens)
        self.discriminators = Discriminators(config.adversarial) if config.adversarial.weight else None
        set_seed(config.seed, device_specific=True)
        if config.activation_checkpointing:
            self.model.backbone.enable_gradient_checkpointing()
        self.model.to(memory_format=torch.channels_last)
        sharded = str(accelerator.distributed_type).endswith("FSDP")
        # FSDP spreads the model over the processes; validation and files want a whole one.
        self.whole = copy.deepcopy(self.model) if sharded and self.main else None
        if sharded:
            self.log("FSDP: this way of training has not been run by its authors; DDP has")
        self.sharded = sharded

        if sharded and "muon" in (config.optimizer.kind, config.adversarial.optimizer.kind):
            raise ConfigError("the optimizer 'muon' needs whole kernels, which FSDP cuts up; choose 'adamw', or DDP.")

        passed = _Pass(self.model, config.stage, config.resave)
        optimizer = make_optimizer([p for p in passed.parameters() if p.requires_grad], config.optimizer, self.device)
        self.prepared, self.optimizer = accelerator.prepare(passed, optimizer)
        self.trained = [p for p in self.prepared.parameters() if p.requires_grad]
        self.schedules = [make_schedule(optimizer, config.optimizer, config.steps)]
        self.judges: Any = None
        self.judge_optimizer: Any = None
        if self.discriminators is not None:
            own = config.adversarial.optimizer
            judging = make_optimizer(list(self.discriminators.parameters()), own, self.device)
            self.schedules.append(make_schedule(judging, own, config.steps))
            self.judges, self.judge_optimizer = accelerator.prepare(self.discriminators, judging)
        for schedule in self.schedules:
            accelerator.register_for_checkpointing(schedule)
        self.objective.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.trained, config.ema)
        leave_frozen_out(accelerator)

        self.step = self.logged = 0
        self.sums: dict[str, Tensor] = {}
        if checkpoint is not None:
            progress = load_checkpoint(accelerator, checkpoint, self.average.average)
            self.step, self.logged = progress["step"], progress["logged"]
            self.sums = {k: torch.tensor(v, device=self.device) for k, v in progress["sums"].items()}
            self.log(f"resumed from {checkpoint}")
        passes = accelerator.num_processes * config.optimizer.accumulate
        if config.batch % passes:
            raise ConfigError(
                f"batch {config.batch} cannot be shared evenly by {accelerator.num_processes} process(es) and "
                f"{config.optimizer.accumulate} accumulated pass(es); choose a multiple of {passes}."
            )
        self.crops_per_pass = config.batch // passes
        listing = None if dry_run else self.folder / UNREADABLE_FILE
        self.dataset = CropDataset(config.data, config.seed, listing=listing)

    def _checkpoint(self, resume: str | None) -> Path | None:
        """Where to go on from. Raises ConfigError for a run that must not be written over, or no checkpoint."""
        found = checkpoints(self.folder)
        if resume == "auto":
            return found[-1] if found else None
        if resume is not None:
            if Path(resume).resolve() not in {p.resolve() for p in found}:
                raise ConfigError(f"{resume}: not a checkpoint of the run in {self.folder}; give --resume auto.")
            return Path(resume)
        if found:
            raise ConfigError(f"{self.folder}: this run has checkpoints; give --resume auto, or another run folder.")
        return None

    def _freeze(self) -> None:
        """Turn off the gradient of what the stage and ``freeze`` leave alone."""
        names = [name for name, _ in self.model.named_parameters()]
        for prefix in self.config.freeze:
            if not any(name.startswith(prefix) for name in names):
                raise ConfigError(f"freeze: no part of the model is called '{prefix}'; its parts: {_parts(names)}.")
        vae = tuple(f"backbone.{part}" for part in self.model.backbone.vae_parts)
        for name, parameter in self.model.named_parameters():
            offsets = name.startswith("fidelity.")
            outside = self.config.stage == "vae" and not name.startswith(vae)
            if outside or offsets is not (self.config.stage == "fidelity") or name.startswith(self.config.freeze):
                parameter.requires_grad_(False)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError("freeze and stage leave nothing to train.")

    def _loader(self) -> Any:
        config = self.config
        steps = self.step + 1 if self.dry_run else config.steps
        loader = DataLoader(
            self.dataset,
            batch_size=self.crops_per_pass,
            sampler=NumberSampler(self.step * config.batch, steps * config.batch),
            num_workers=config.data.workers,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: starting a loader must not move the model's random numbers
            worker_init_fn=patient_worker,
        )
        return self.accelerator.prepare_data_loader(loader)

    def run(self) -> Path | None:
        """Train to the end."""
        if self.dry_run:
            self._describe()
            self._train(None, StopRequest())
            return None
        if self.main:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{self.folder}: the run's folder cannot be made ({error.strerror}); choose another."
                ) from None
            write_atomic(self.folder / "config.json", (json.dumps(to_dict(self.config), indent=2) + "\n").encode())
            about = environment(self.device, self.accelerator.num_processes)
            record_environment(self.folder, self.step, about)
        trained = sum(p.numel() for p in self.trained)
        self.log(
            f"{trained:,} of {sum(p.numel() for p in self.prepared.parameters()):,} parameters trained on "
            f"{len(self.dataset)} photographs, {self.device}, precision {self.accelerator.mixed_precision}"
        )
        recorder = Recorder(self.folder, self.step, tensorboard=self.config.tensorboard) if self.main else None
        if recorder is not None and recorder.note is not None:
            self.log(recorder.note)
        try:
            with StopRequest() as stop:
                self._train(recorder, stop)
        finally:
            if recorder is not None:
                recorder.close()
        if self.main and (self.folder / UNREADABLE_FILE).exists():
            self.log(
                f"some photographs could not be read and were passed over; {self.folder / UNREADABLE_FILE} lists them"
            )
        final = self.folder / "model"
        self._save_model(final, finished=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return final

    def _train(self, recorder: Recorder | None, stop: StopRequest) -> None:
        with contextlib.closing(iter(self._loader())) as batches:
            # Closed whatever happens, so that the loader's processes end before this one.
            self._learn_from(batches, recorder, stop)

    def _learn_from(self, batches: Iterable[Tensor], recorder: Recorder | None, stop: StopRequest) -> None:
        config, accelerator = self.config, self.accelerator
        best = Best(self.folder, config.best, self.step)
        self.prepared.train()
        started, timed = time.monotonic(), self.step
        micro = 0
        for batch in batches:
            with accelerator.accumulate(*[m for m in (self.prepared, self.judges) if m is not None]):
                terms, norm = self._learn(batch.to(memory_format=torch.channels_last), micro)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.detach()
            if not accelerator.sync_gradients:
                micro += 1
                continue
            micro = 0
            for schedule in self.schedules:
                schedule.step()
            self.step += 1
            self.average.update(self.step)

            if self.dry_run:
                self._describe_step(time.monotonic() - started)
                return
            if self.step % config.log_every == 0 or self.step == config.steps:
                count = (self.step - self.logged) * config.optimizer.accumulate
                record: dict[str, float] = {"step": self.step}
                record |= {k: v / count for k, v in self._mean_sums().items()}
                record |= {
                    "grad_norm": float(norm),
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "crops_per_second": (self.step - timed) * config.batch / (time.monotonic() - started),
                }
                self._note(recorder, record)
                self.sums, self.logged = {}, self.step
                started, timed = time.monotonic(), self.step
            if config.data.val and config.val_every and self.step % config.val_every == 0:
                self._validate(recorder, best)
                started, timed = time.monotonic(), self.step
            stopping = self._any(stop.signal is not None)
            if self.step % config.save_every == 0 or self.step == config.steps or stopping:
                self._save()
            if stopping and self.step < config.steps:
                raise TrainingStopped(
                    f"{self.folder}: stopped at step {self.step} of {config.steps}, a checkpoint is saved; "
                    "--resume auto goes on.",
                    stop.signal or signal.SIGTERM,
                )

    def _learn(self, x: Tensor, micro: int) -> tuple[dict[str, Tensor], Tensor]:
        """One batch: the model's step and, in the adversarial stage, the discriminators'."""
        config, accelerator = self.config, self.accelerator
        # The same offset in every process and pass of a step, and after a restart.
        generator = torch.Generator().manual_seed(seed_of(config.seed, 2, self.step))
        norm = torch.zeros(())
        with accelerator.autocast():
            out = self.prepared(x)
            total, terms = self.objective(x, out, generator)
            if self.discriminators is not None:
                hint = enlarged_thumbnail(x, self.model.config.scale)
                picture = out.picture.float()
                if self.step >= config.adversarial.start:
                    # Nothing of the discriminators is learned here, so DDP need not know.
                    self.discriminators.requires_grad_(False)
                    terms["adversarial"] = self.discriminators.verdict(picture, hint)
                    self.discriminators.requires_grad_(True)
                    total = total + config.adversarial.weight * terms["adversarial"]
        terms = {"loss": total, **terms}
        self._check_finite(x, terms, micro)
        accelerator.backward(total)
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(self.prepared.parameters(), config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.discriminators is not None:
            with accelerator.autocast():
                judged = self.judges(x, picture.detach(), hint)
            terms["discriminators"] = judged
            self._check_finite(x, terms, micro)
            accelerator.backward(judged)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.judges.parameters(), config.adversarial.optimizer.clip)
            self.judge_optimizer.step()
            self.judge_optimizer.zero_grad()
        return terms, norm

    def _check_finite(self, x: Tensor, terms: dict[str, Tensor], micro: int) -> None:
        """Stop where a loss is not finite, leaving what is needed to look into it."""
        # One look for all of them: on a GPU each waits for the step.
        finite = torch.stack([torch.isfinite(value.detach()) for value in terms.values()])
        if not self._any(not bool(finite.all())):
            return
        wrong = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
        accelerator, rank = self.accelerator, self.accelerator.process_index
        batches = (self.step * self.config.optimizer.accumulate + micro) * accelerator.num_processes + rank
        numbers = range(batches * self.crops_per_pass, (batches + 1) * self.crops_per_pass)
        where = f"step {self.step + 1}, batch of crops {numbers[0]} to {numbers[-1]}"
        which = ", ".join(wrong) or "in another process"
        if self.dry_run:
            raise FaithEIRError(f"the loss is not finite at {where} ({which}).")
        folder = self.folder / f"nonfinite-{self.step + 1:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"crops": x.detach().cpu().contiguous()}, folder / f"batch-{rank}.safetensors")
        report = {
            "step": self.step + 1,
            "terms": {name: str(float(value.detach())) for name, value in terms.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "crops": [{"number": n, "photograph": self.dataset.name_of(n)} for n in numbers],
        }
        write_atomic(folder / f"report-{rank}.json", (json.dumps(report, indent=2) + "\n").encode())
        if not self.sharded and self.main:
            save_model(folder / "model", self.model, self.config.model)
        raise FaithEIRError(
            f"{self.folder}: the loss is not finite at {where} ({which}); "
            f"the batch, its terms and the weights are in {folder}; lower optimizer.lr or --resume auto from the last "
            "checkpoint."
        )

    def _any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _mean_sums(self) -> dict[str, float]:
        return {k: float(self.accelerator.reduce(v.float(), reduction="mean")) for k, v in self.sums.items()}

    def _note(self, recorder: Recorder | None, record: dict[str, float]) -> None:
        if recorder is not None:
            recorder.scalars(record)
            self.log("  ".join(f"{k} {v:.4g}" for k, v in record.items()))

    def _validate(self, recorder: Recorder | None, best: Best) -> None:
        with self._averaged() as model:
            if recorder is not None and model is not None:
                folder = self.folder / "validation" / f"step-{self.step:08d}"
                distance = next(iter(self.objective.networks), None)
                # The pipeline may move the model; what is trained stays where it is.
                figures = validate(model, self.config, folder, distance)
                recorder.scalars({"step": self.step, **figures})
                recorder.pictures(self.step, sorted(folder.glob("*.roundtrip.png"))[:4])
                self.log("validation: " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
                about = self._card({"step": self.step, **figures})
                best.offer(self.step, figures, lambda path: save_model(path, model, self.config.model, card=about))
        self.prepared.train()
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[FaithEIR | None]:
        """The model with averaged weights, whole; under FSDP in the main process only."""
        with self.average.in_place():
            if not self.sharded:
                yield self.model
                return
            state = self.accelerator.get_state_dict(self.prepared)
            if self.whole is not None:
                self.whole.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
            yield self.whole

    def _save_model(self, folder: Path, *, finished: bool = False) -> None:
        with self._averaged() as model:
            if self.main and model is not None:
                save_model(folder, model, self.config.model, card=self._card(None) if finished else None)

    def _card(self, figures: dict[str, float] | None) -> str:
        return model_card(self.config, self.folder, self.step, len(self.dataset), figures)

    def _save(self) -> None:
        progress = {"step": self.step, "logged": self.logged, "sums": self._mean_sums()}
        save_checkpoint(
            self.accelerator, self.folder, progress, self.average.average, self._save_model, self.config.keep
        )

    def _describe(self) -> None:
        """What a run would train, on what, for how long, and what its weights take."""
        config = self.config
        self.log(f"{'part':<44}{'trained':>14}{'frozen':>14}")
        totals = np.zeros(2, dtype=np.int64)
        for part, module in _named_parts(self.model):
            counts = [
                sum(p.numel() for p in module.parameters() if p.requires_grad is wanted) for wanted in (True, False)
            ]
            totals += counts
            self.log(f"{part:<44}{counts[0]:>14,}{counts[1]:>14,}")
        self.log(f"{'total':<44}{totals[0]:>14,}{totals[1]:>14,}")
        judges = sum(p.numel() for p in self.discriminators.parameters()) if self.discriminators is not None else 0
        if judges:
            self.log(f"{'discriminators':<44}{judges:>14,}{0:>14,}")
        passes = config.steps * config.batch / max(1, len(self.dataset))
        self.log(
            f"{config.steps:,} steps of {config.batch} crops of {config.data.crop} x {config.data.crop}: "
            f"{config.steps * config.batch:,} crops, {passes:,.1f} passes over {len(self.dataset):,} photographs"
        )
        moments = 2 if config.optimizer.kind == "adamw8bit" else 8
        learned, frozen = int(totals[0]) + judges, int(totals[1])
        sizes = {"weights": 4 * (learned + frozen), "gradients": 4 * learned, "optimizer": moments * learned}
        sizes["average"] = 4 * int(totals[0])
        parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in sizes.items())
        self.log(f"memory: {sum(sizes.values()) / 2**20:,.0f} MiB before activations ({parts})")

    def _describe_step(self, seconds: float) -> None:
        what = "of the GPU's memory" if self.device.type == "cuda" else "of the process, at its largest"
        losses = "  ".join(f"{k} {float(v):.4g}" for k, v in self.sums.items())
        self.log(
            f"one step: {seconds:.2f} s with loading and first-time set-up, {peak_mib(self.device):,.0f} MiB {what}; "
            f"{losses}"
        )


def _precision(name: str) -> str:
    device = resolve_device("auto")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision 'fp16' needs a GPU; choose 'bf16', 'no' or 'auto'.")
    if name != "auto":
        return name
    return "bf16" if native_bfloat16(device) else "fp16" if device.type == "cuda" else "no"


def _named_parts(model: FaithEIR) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if name == "backbone":
            yield from ((f"backbone.{inner}", part) for inner, part in module.named_children())
        else:
            yield name, module


def _parts(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(".".join(n.split(".")[: 2 if n.startswith("backbone.") else 1]) for n in names))


def _initial_model(config: TrainConfig, log: Log) -> FaithEIR:
    """The model to train: new, or ``init``'s weights, converted where the configurations differ."""
    model = build_model(config.model, pretrained=True, base=config.base)
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
