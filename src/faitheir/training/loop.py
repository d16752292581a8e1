"""The training loop, and what a run keeps on disk.

- ``RUN/config.json``: the resolved configuration; ``environment.json``: versions, git revision, device of each start
- ``RUN/log.jsonl``: a line per logged step: losses, gradient norm, learning rate, crops per second
- ``RUN/tensorboard/``: the same as scalars, and validation pictures
- ``RUN/validation/step-.../``: thumbnail, restored, and both beside the original
- ``RUN/checkpoint-00000500/``: see ``faitheir.training.checkpoints``
- ``RUN/best/``: the model that scored best in validation; ``best.json`` says when
- ``RUN/model/``: the finished model, with a card filled from the run
- ``RUN/unreadable.txt``: photographs that were skipped, if there were any
"""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faitheir.config import to_dict
from faitheir.errors import ConfigError, StorageError, TrainingStopped, disk_full, why
from faitheir.models import save_model
from faitheir.storage import write_atomic
from faitheir.training.card import model_card
from faitheir.training.checkpoints import (
    Best,
    checkpoints,
    clear_leftovers,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from faitheir.training.config import TrainConfig
from faitheir.training.dry_run import rehearse
from faitheir.training.record import Recorder, environment, record_environment
from faitheir.training.setup import Log, Setup, log_line, make_accelerator, prepare
from faitheir.training.step import take_step
from faitheir.training.validation import validate

#: Photographs that could not be read, with the reason.
UNREADABLE_FILE = "unreadable.txt"


def train_stages(
    configs: Sequence[TrainConfig], *, resume: str | None = None, dry_run: bool = False, log: Log = log_line
) -> Path | None:
    """Train one configuration after the other, each from the model that the one before left unless it names its own.

    With ``resume="auto"`` stages that are finished are skipped. Returns what ``train`` returns of the last one.
    """
    if len(configs) > 1 and resume not in (None, "auto"):
        raise ConfigError("a checkpoint can be resumed in one stage only; give --resume auto, or one configuration.")
    if len({c.run for c in configs}) < len(configs):
        raise ConfigError("two stages write the same run folder; give each its own 'run'.")
    result: Path | None = None
    for config in configs:
        if resume == "auto" and _finished(config):
            log(f"{config.run} is finished already")
            result = Path(config.run) / "model"
            continue
        if config.init is None and result is not None:
            config = replace(config, init=str(result))
        result = train(config, resume=resume, dry_run=dry_run, log=log)
    return result


def train(config: TrainConfig, *, resume: str | None = None, dry_run: bool = False, log: Log = log_line) -> Path | None:
    """Train and return the folder of the finished model, ``RUN/model``; None after a dry run.

    ``resume``: "auto" goes on from the run's last whole checkpoint, if there is one, as the uninterrupted run would
    have; a checkpoint's folder goes on from that one; None refuses a run folder that holds checkpoints.
    ``dry_run``: describe the run, take one step, write nothing.

    Raises TrainingStopped after SIGTERM, SIGINT or SIGHUP, when a checkpoint is saved; FaithEIRError subclasses.
    """
    if dry_run:
        rehearse(config, log)
        return None
    folder = Path(config.run)
    accelerator = make_accelerator(config)
    log = log if accelerator.is_main_process else lambda _: None
    checkpoint = find_checkpoint(folder, resume, log)
    setup = prepare(config, accelerator, log, listing=folder / UNREADABLE_FILE)
    run = _Run(setup, folder, log)
    if checkpoint is not None:
        run.go_on_from(checkpoint)
    try:
        return run.to_the_end()
    except OSError as error:
        remedy = (
            "make room on this disk, then go on with --resume auto" if disk_full(error) else "choose another folder"
        )
        raise StorageError(f"{folder}: the run's files cannot be written ({why(error)}); {remedy}.") from error


def _finished(config: TrainConfig) -> bool:
    """Whether a run has its model, and was not asked for more steps since."""
    saved = checkpoints(Path(config.run))
    enough = not saved or step_of(saved[-1]) >= config.steps
    return enough and (Path(config.run) / "model" / "config.json").is_file()


class StopRequest:
    """Notes a first SIGTERM, SIGINT or SIGHUP instead of dying of it; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listen, where signals can be listened to: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGTERM, signal.SIGINT]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
                numbers.append(signal.SIGHUP)
            for number in numbers:
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


class _Run:
    """A run on its way: the step it is at, and what it writes."""

    def __init__(self, setup: Setup, folder: Path, log: Log) -> None:
        self.setup, self.config, self.folder, self.log = setup, setup.config, folder, log
        self.step = self.logged = 0
        #: Of the losses since the last line of the log.
        self.sums: dict[str, Tensor] = {}
        self.recorder: Recorder | None = None  # the main process's
        self._start_clock()

    def go_on_from(self, checkpoint: Path) -> None:
        """Take up what a checkpoint holds."""
        state = load_checkpoint(checkpoint)
        self.setup.load(state, str(checkpoint))
        self.step, self.logged = state["step"], state["logged"]
        self.sums = {name: torch.tensor(value, device=self.setup.device) for name, value in state["sums"].items()}
        self.log(f"resumed from {checkpoint}")

    def to_the_end(self) -> Path:
        """Train, and return the finished model's folder."""
        setup = self.setup
        if setup.accelerator.is_main_process:
            self._open_folder()
        trained = sum(p.numel() for p in setup.average.parameters)
        self.log(
            f"{trained:,} of {sum(p.numel() for p in setup.model.parameters()):,} parameters trained on "
            f"{len(setup.dataset)} photographs, {setup.device}, precision {setup.accelerator.mixed_precision}"
        )
        # The loader is closed whatever happens, so that its processes end before this one.
        with contextlib.closing(iter(setup.loader(self.step, self.config.steps))) as batches, StopRequest() as stop:
            try:
                self._train(batches, stop)
            finally:
                if self.recorder is not None:
                    self.recorder.close()
        unreadable = self.folder / UNREADABLE_FILE
        if unreadable.exists():
            self.log(f"some photographs could not be read and were skipped; {unreadable} lists them")
        final = self.folder / "model"
        if setup.accelerator.is_main_process:
            self._save_model(final, model_card(self.config, self.folder, self.step, len(setup.dataset)))
        setup.accelerator.wait_for_everyone()
        setup.accelerator.end_training()
        return final

    def _open_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        write_atomic(self.folder / "config.json", (json.dumps(to_dict(self.config), indent=2) + "\n").encode())
        about = environment(self.setup.device, self.setup.accelerator.num_processes)
        record_environment(self.folder, self.step, about)
        self.recorder = Recorder(self.folder, self.step, tensorboard=self.config.tensorboard)
        if self.recorder.note is not None:
            self.log(self.recorder.note)

    def _train(self, batches: Any, stop: StopRequest) -> None:
        config, setup = self.config, self.setup
        best = Best(self.folder, config.best, self.step)
        setup.wrapped.train()
        self._start_clock()
        while self.step < config.steps:
            terms, norm = take_step(setup, batches, self.step, report=self.folder)
            for schedule in setup.schedules:
                schedule.step()
            self.step += 1
            setup.average.update(self.step)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0) + value

            if self.step % config.log_every == 0 or self.step == config.steps:
                self._log(norm)
            if config.data.val and config.val_every and self.step % config.val_every == 0:
                self._validate(best)
            stopping = setup.any_process(stop.signal is not None)
            if self.step % config.save_every == 0 or self.step == config.steps or stopping:
                self._save()
            if stopping and self.step < config.steps:
                raise TrainingStopped(
                    f"{self.folder}: stopped at step {self.step} of {config.steps}, a checkpoint is saved; "
                    "--resume auto goes on.",
                    stop.signal or signal.SIGTERM,
                )

    def _start_clock(self) -> None:
        self.started, self.timed = time.monotonic(), self.step

    def _means(self) -> dict[str, float]:
        """The sums, over the processes."""
        return {k: float(self.setup.accelerator.reduce(v.float(), reduction="mean")) for k, v in self.sums.items()}

    def _log(self, norm: Tensor) -> None:
        record = {"step": self.step} | {k: v / (self.step - self.logged) for k, v in self._means().items()}
        record |= {
            "grad_norm": float(norm),
            "learning_rate": self.setup.optimizer.param_groups[0]["lr"],
            "crops_per_second": (self.step - self.timed) * self.config.batch / (time.monotonic() - self.started),
        }
        if self.recorder is not None:
            self.recorder.scalars(record)
        self.log("  ".join(f"{k} {v:.4g}" for k, v in record.items()))
        self.sums, self.logged = {}, self.step
        self._start_clock()

    def _validate(self, best: Best) -> None:
        setup, config = self.setup, self.config
        if self.recorder is not None:
            folder = self.folder / "validation" / f"step-{self.step:08d}"
            with setup.average.in_place():
                # The pipeline may move the model; what is trained stays where it is.
                figures = validate(
                    setup.model, config, folder, setup.objective.distance if setup.objective.networks else None
                )
            scored = {"step": self.step, **figures}
            self.recorder.scalars(scored)
            self.recorder.pictures(self.step, sorted(folder.glob("*.roundtrip.png"))[:4])
            self.log("validation: " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            card = model_card(config, self.folder, self.step, len(setup.dataset), scored)
            best.offer(self.step, figures, lambda path: self._save_model(path, card))
        setup.wrapped.train()
        setup.accelerator.wait_for_everyone()
        self._start_clock()

    def _save(self) -> None:
        state = {"step": self.step, "logged": self.logged, "sums": self._means(), **self.setup.state()}
        if self.setup.accelerator.is_main_process:
            save_checkpoint(self.folder, self.step, state, self._save_model, self.config.keep)
        self.setup.accelerator.wait_for_everyone()

    def _save_model(self, folder: Path, card: str | None = None) -> None:
        with self.setup.average.in_place():
            save_model(folder, self.setup.model, self.config.model, card=card)
