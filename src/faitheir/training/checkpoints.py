"""Checkpoints of a run: written whole or not at all, checked before they are used, the last few and the best kept.

``RUN/checkpoint-00000500/`` holds the model as it would be shipped (``model/``), what a restart needs besides
(``state.safetensors``, ``state.json``), and ``manifest.json``, written last, with the SHA-256 of every other file. No
file is a pickle.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from faitheir.errors import ConfigError, ModelError, StorageError, why
from faitheir.storage import clear_temporaries, flush_folder, write_atomic

BEST_FILE, MANIFEST_FILE = "best.json", "manifest.json"
STATE_FILE, TENSORS_FILE = "state.json", "state.safetensors"

#: How folders begin that are being written or removed; one that is left was a killed process's.
_SAVING, _REMOVING = ".saving-", ".removing-"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, whole or damaged."""
    return sorted(p for p in run.glob("checkpoint-*") if p.is_dir())


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def find_checkpoint(run: Path, resume: str | None, log: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume from, None to begin anew.

    ``resume``: "auto" for the newest that is whole, saying of each damaged one that it is; a checkpoint's folder for
    that one; None refuses a run that has checkpoints. Raises ConfigError for a run that must not be written over or no
    checkpoint of it, ModelError where all are damaged or the named one is.
    """
    found = checkpoints(run)
    if resume is None:
        if found:
            raise ConfigError(f"{run}: this run has checkpoints; give --resume auto, or another run folder.")
        return None
    if resume != "auto":
        if Path(resume).resolve() not in {p.resolve() for p in found}:
            raise ConfigError(f"{resume}: not a checkpoint of the run in {run}; give --resume auto.")
        if wrong := damage(Path(resume)):
            raise ModelError(f"{resume}: this checkpoint is damaged ({wrong}); --resume auto takes one that is whole.")
        return Path(resume)
    for checkpoint in reversed(found):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        log(f"WARNING: {checkpoint} is damaged ({wrong}); looking at the one before")
    if found:
        raise ModelError(f"{run}: no checkpoint of this run is whole; remove them to train from the beginning.")
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, by its manifest; None for one that is whole."""
    try:
        files = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))["sha256"]
        for name, expected in files.items():
            if _sha256(checkpoint / name) != expected:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename).name}: {why(error)}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST_FILE} is not as it was written"
    return None if {STATE_FILE, TENSORS_FILE} <= files.keys() else f"{MANIFEST_FILE} is not as it was written"


def save_checkpoint(run: Path, step: int, state: Any, save_model: Callable[[Path], None], keep: int) -> None:
    """Write ``RUN/checkpoint-STEP``, then remove all but the last ``keep``.

    ``state``: what a restart needs, of dicts, lists, tuples, tensors, numbers, strings and None. ``save_model`` writes
    the model into a folder. Raises StorageError where it cannot be written; the checkpoints before are left as they
    were.
    """
    final, temporary = run / f"checkpoint-{step:08d}", run / f"{_SAVING}{step:08d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        plain = json.dumps(_pack(state, tensors))
        write_atomic(temporary / TENSORS_FILE, save(tensors))
        write_atomic(temporary / STATE_FILE, plain.encode())
        save_model(temporary / "model")
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        sums = {p.relative_to(temporary).as_posix(): _sha256(p, flush=True) for p in files}
        write_atomic(temporary / MANIFEST_FILE, (json.dumps({"sha256": sums}, indent=2) + "\n").encode())
        _replace_folder(temporary, final)
        for old in checkpoints(run)[:-keep]:
            shutil.rmtree(_set_aside(old), ignore_errors=True)
    except (OSError, StorageError, ModelError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            f"{run}: the checkpoint of step {step} cannot be saved ({_cause(error)}); make room on this disk, then "
            "go on with --resume auto from the checkpoint before."
        ) from error


def load_checkpoint(checkpoint: Path) -> Any:
    """The ``state`` of a checkpoint, its tensors on the CPU. Raises ModelError where it cannot be read."""
    try:
        tensors = load_file(checkpoint / TENSORS_FILE)
        return _unpack(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")), tensors)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{checkpoint}: this checkpoint cannot be read ({why(error)}); remove it.") from None


def clear_leftovers(run: Path) -> None:
    """Remove what a killed process left half-written in a run folder."""
    for path in (*run.glob(f"{_SAVING}*"), *run.glob(f"{_REMOVING}*")):
        shutil.rmtree(path, ignore_errors=True)
    clear_temporaries(run)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of ``value``; its tensors go into ``tensors``.

    A tensor's strides are kept: fused optimizers want their state laid out in memory as the parameters are.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name, "stride": value.stride()}
    if isinstance(value, dict):  # as pairs, since the keys of an optimizer's state are numbers
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    return [_pack(item, tensors) for item in value] if isinstance(value, list) else value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What ``_pack`` was given."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor, stride = tensors[value["tensor"]], value["stride"]
        reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, stride, strict=True))
        if min(stride, default=0) < 0 or (tensor.numel() and reach != tensor.numel()):
            raise ValueError(f"strides {stride} do not fit a tensor of shape {tuple(tensor.shape)}")
        return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {key: _unpack(item, tensors) for key, item in value["dict"]}


def _sha256(path: Path, *, flush: bool = False) -> str:
    """The checksum of a file; ``flush``: have it on the disk first."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if flush:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    return checksum


def _cause(error: Exception) -> str:
    """What the system said, where one of our errors stands around it."""
    return why(error.__context__ if isinstance(error.__context__, OSError) else error)


def _replace_folder(new: Path, old: Path) -> None:
    """Put ``new`` in the place of ``old``, which may exist."""
    gone = _set_aside(old) if old.exists() else None
    new.rename(old)
    flush_folder(old.parent)
    if gone is not None:
        shutil.rmtree(gone, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Rename a folder that is to be removed: one that is half removed must not be taken for a whole one."""
    gone = folder.with_name(f"{_REMOVING}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    return folder.rename(gone)


class Best:
    """The best model of a run so far, in ``RUN/best``, by a validation figure.

    ``figure``: "psnr" and "ssim" are better higher, "distance" lower. What ``best.json`` says of a step after ``step``
    is forgotten, since a resumed run comes there again, and so is what it says of a model that is not there.
    """

    def __init__(self, run: Path, figure: str, step: int) -> None:
        self.run, self.figure = run, figure
        self.value = math.nan
        try:
            said = json.loads((run / BEST_FILE).read_text(encoding="utf-8"))
            if said["figure"] == figure and said["step"] <= step and (run / "best").is_dir():
                self.value = float(said["value"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def offer(self, step: int, figures: dict[str, float], save_model: Callable[[Path], None]) -> bool:
        """Keep the model that scored ``figures`` at ``step`` if it is the best; returns whether it is."""
        value = figures[f"val_{self.figure}"]
        better = value < self.value if self.figure == "distance" else value > self.value
        if math.isnan(value) or not (better or math.isnan(self.value)):
            return False
        self.value = value
        new = self.run / f"{_SAVING}best"
        shutil.rmtree(new, ignore_errors=True)
        save_model(new)
        _replace_folder(new, self.run / "best")
        said = {"step": step, "figure": self.figure, "value": value}
        write_atomic(self.run / BEST_FILE, (json.dumps(said) + "\n").encode())
        return True
