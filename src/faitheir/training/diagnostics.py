"""What a run that diverges leaves behind, for whoever looks into it."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from faitheir.errors import FaithEIRError
from faitheir.models import save_model
from faitheir.storage import write_atomic
from faitheir.training.setup import Setup


def check_finite(
    setup: Setup, x: Tensor, terms: dict[str, Tensor], step: int, number: int, report: Path | None
) -> None:
    """Raise FaithEIRError, in all processes, where a loss of pass ``number`` of ``step`` (from 0) is not finite.

    Before that, the crops ``x``, their photographs, the terms and the weights are written into
    ``report/nonfinite-STEP``; None writes nothing.
    """
    # One look for all of them: on a GPU each waits for the step.
    finite = torch.stack([torch.isfinite(value.detach()) for value in terms.values()])
    if not setup.any_process(not bool(finite.all())):
        return
    which = ", ".join(name for name, value in terms.items() if not bool(torch.isfinite(value))) or "in another process"
    rank, crops = setup.accelerator.process_index, _crop_numbers(setup, step, number)
    where = f"step {step + 1}, batch of crops {crops[0]} to {crops[-1]}"
    if report is None:
        raise FaithEIRError(f"the loss is not finite at {where} ({which}).")
    folder = report / f"nonfinite-{step + 1:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"crops": x.detach().cpu().contiguous()}, folder / f"batch-{rank}.safetensors")
    told = {
        "step": step + 1,
        "terms": {name: str(float(value.detach())) for name, value in terms.items()},
        "learning_rate": setup.optimizer.param_groups[0]["lr"],
        "crops": [{"number": n, "photograph": setup.dataset.name_of(n)} for n in crops],
    }
    write_atomic(folder / f"report-{rank}.json", (json.dumps(told, indent=2) + "\n").encode())
    if setup.accelerator.is_main_process:
        save_model(folder / "model", setup.model, setup.config.model)
    raise FaithEIRError(
        f"{report}: the loss is not finite at {where} ({which}); the batch, its terms and the weights are in {folder}; "
        "lower optimizer.lr, or go on from the last checkpoint with --resume auto."
    )


def _crop_numbers(setup: Setup, step: int, number: int) -> range:
    """The crops that this process sees in a pass: batches are dealt to the processes in turn."""
    processes, rank = setup.accelerator.num_processes, setup.accelerator.process_index
    batch = (step * setup.config.optimizer.accumulate + number) * processes + rank
    return range(batch * setup.crops_per_pass, (batch + 1) * setup.crops_per_pass)
