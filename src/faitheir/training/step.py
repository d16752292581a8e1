"""One step: the batch's passes, the model's losses and, in the adversarial stage, the discriminators'."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faitheir.training.adversarial import enlarged_thumbnail
from faitheir.training.diagnostics import check_finite
from faitheir.training.record import seed_of
from faitheir.training.setup import Setup


def take_step(
    setup: Setup, batches: Iterator[Tensor], step: int, *, report: Path | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Step number ``step``, from 0: as many passes as are accumulated, and the optimizers' steps after the last.

    Returns the means of the losses over the passes ("loss" is the weighted total, the others are unweighted), and the
    norm of the model's gradient before clipping. ``report``: see ``check_finite``, which ends a run that diverges.
    """
    sums: dict[str, Tensor] = {}
    passes = setup.config.optimizer.accumulate
    for number in range(passes):
        x = next(batches).to(memory_format=torch.channels_last)
        with setup.accelerator.accumulate(*setup.learners):
            terms, norm = _learn(setup, x, step, number, report)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / passes
    return sums, norm


def _learn(setup: Setup, x: Tensor, step: int, number: int, report: Path | None) -> tuple[dict[str, Tensor], Tensor]:
    """Pass ``number`` of a step over crops (B, 3, crop, crop)."""
    config, accelerator, adversary = setup.config, setup.accelerator, setup.adversary
    # The same offset in every process and pass of a step, and after a restart.
    generator = torch.Generator().manual_seed(seed_of(config.seed, 2, step))
    hint = enlarged_thumbnail(x, setup.model.config.scale) if adversary is not None else x
    with accelerator.autocast():
        out = setup.wrapped(x)
        picture = out.picture.float()
        total, terms = setup.objective(x, out, generator)
        if adversary is not None and step >= adversary.config.start:
            terms["adversarial"] = adversary.verdict(picture, hint)
            total = total + adversary.config.weight * terms["adversarial"]
    terms = {"loss": total, **terms}
    check_finite(setup, x, terms, step, number, report)
    norm = _descend(accelerator, total, setup.wrapped, setup.optimizer, config.optimizer.clip)
    if adversary is not None:
        with accelerator.autocast():
            terms["discriminators"] = adversary.loss(x, picture.detach(), hint)
        check_finite(setup, x, terms, step, number, report)
        clip = adversary.config.optimizer.clip
        _descend(accelerator, terms["discriminators"], adversary.loss, adversary.optimizer, clip)
    return terms, norm


def _descend(accelerator: Any, loss: Tensor, module: Any, optimizer: Any, clip: float) -> Tensor:
    """Gradients of ``loss`` and, after the last pass of a step, the optimizer's step; returns their norm then, or 0."""
    accelerator.backward(loss)
    norm = torch.zeros(())
    if accelerator.sync_gradients:
        norm = accelerator.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return norm
