"""Checkpoints of a run: written whole or not at all, the last few and the best model kept."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faitheir.errors import ModelError
from faitheir.storage import write_atomic

BEST_FILE = "best.json"


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(p for p in run.glob("checkpoint-*") if (p / "state" / "progress.json").is_file())


def save_checkpoint(
    accelerator: Any,
    run: Path,
    progress: dict[str, Any],
    average: list[Tensor],
    save_model: Callable[[Path], None],
    keep: int,
) -> None:
    """Write ``RUN/checkpoint-STEP``: the model as it would be shipped, and what a restart needs; by all processes.

    ``progress`` holds the "step" and what else the loop needs. ``average``: this process's averaged weights, which are
    all processes' alike except under FSDP, where each has its part.
    """
    step = progress["step"]
    final, temporary = run / f"checkpoint-{step:08d}", run / f".saving-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed while saving
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary / "state"))
    if accelerator.is_main_process or _sharded(accelerator):
        tensors = {str(i): _local(t).contiguous() for i, t in enumerate(average)}
        save_file(tensors, temporary / "state" / _average_file(accelerator))
    save_model(temporary / "model")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / "state" / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in checkpoints(run)[:-keep]:
            # Renamed first: a folder that is half removed must not be taken for a checkpoint.
            gone = run / f".removing-{old.name}"
            old.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    accelerator.wait_for_everyone()


def leave_frozen_out(accelerator: Any) -> None:
    """Let checkpoints hold no frozen weights: turbo's base would be 3.9 GB in each, and is in its own files."""

    def drop(models: list[nn.Module], states: list[dict[str, Tensor]], _folder: str) -> None:
        for model, state in zip(models, states, strict=False):  # under FSDP there are no states here
            for name, parameter in accelerator.unwrap_model(model).named_parameters():
                if not parameter.requires_grad:
                    state.pop(name, None)

    accelerator.register_save_state_pre_hook(drop)


def load_checkpoint(accelerator: Any, folder: Path, average: list[Tensor]) -> dict[str, Any]:
    """Load what ``save_checkpoint`` wrote and return its progress. Raises ModelError for a damaged checkpoint."""
    try:
        accelerator.load_state(str(folder / "state"), strict=False)  # frozen weights are not in it
        state = load_file(folder / "state" / _average_file(accelerator))
        for i, tensor in enumerate(average):
            _local(tensor).copy_(state[str(i)])
        progress = json.loads((folder / "state" / "progress.json").read_text(encoding="utf-8"))
        if not isinstance(progress, dict) or not isinstance(progress.get("step"), int):
            raise ValueError("progress.json holds no step")
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, EOFError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{folder}: this checkpoint cannot be resumed ({reason}); remove it to go on from the one before."
        ) from None
    return progress


def _sharded(accelerator: Any) -> bool:
    return str(accelerator.distributed_type).endswith("FSDP")


def _average_file(accelerator: Any) -> str:
    return f"average-{accelerator.process_index if _sharded(accelerator) else 0}.safetensors"


def _local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that FSDP has spread over several; else the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class Best:
    """The best model of a run so far, in ``RUN/best``, by a validation figure.

    ``figure``: "psnr" and "ssim" are better higher, "distance" lower. What ``best.json`` says of a step after ``step``
    is forgotten: a resumed run comes there again.
    """

    def __init__(self, run: Path, figure: str, step: int) -> None:
        self.run, self.figure = run, figure
        self.value = math.nan
        try:
            said = json.loads((run / BEST_FILE).read_text(encoding="utf-8"))
            if said["figure"] == figure and said["step"] <= step:
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
        best, new, old = self.run / "best", self.run / ".saving-best", self.run / ".removing-best"
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        save_model(new)
        if best.exists():
            best.rename(old)
        new.rename(best)
        shutil.rmtree(old, ignore_errors=True)
        said = {"step": step, "figure": self.figure, "value": value}
        write_atomic(self.run / BEST_FILE, (json.dumps(said) + "\n").encode())
        return True
