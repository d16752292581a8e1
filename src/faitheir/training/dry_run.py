"""A dry run: what a recipe would train, on what, for how long and in how much memory, and its first step."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
from torch import nn

from faitheir.devices import peak_mib
from faitheir.nn.codec import FaithEIR
from faitheir.training.config import TrainConfig
from faitheir.training.setup import Log, Setup, make_accelerator, prepare
from faitheir.training.step import take_step


def rehearse(config: TrainConfig, log: Log) -> None:
    """Describe the run and take one step; nothing is written."""
    accelerator = make_accelerator(config)
    log = log if accelerator.is_main_process else lambda _: None
    setup = prepare(config, accelerator, log)
    _describe(setup, log)
    setup.wrapped.train()
    started = time.monotonic()
    with contextlib.closing(iter(setup.loader(0, 1))) as batches:
        terms, _ = take_step(setup, batches, 0, report=None)
    seconds = time.monotonic() - started
    memory = "of the GPU's memory" if setup.device.type == "cuda" else "of the process, at its largest"
    losses = "  ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    log(
        f"one step: {seconds:.2f} s with loading and first-time set-up, {peak_mib(setup.device):,.0f} MiB {memory}; "
        f"{losses}"
    )


def _describe(setup: Setup, log: Log) -> None:
    """Parameters part by part, steps and crops, and what weights and optimizer take."""
    config, photographs = setup.config, len(setup.dataset)
    log(f"{'part':<44}{'trained':>14}{'frozen':>14}")
    totals = np.zeros(2, dtype=np.int64)
    for part, module in _named_parts(setup.model):
        counts = [sum(p.numel() for p in module.parameters() if p.requires_grad is wanted) for wanted in (True, False)]
        totals += counts
        log(f"{part:<44}{counts[0]:>14,}{counts[1]:>14,}")
    log(f"{'total':<44}{totals[0]:>14,}{totals[1]:>14,}")
    judges = sum(p.numel() for p in setup.adversary.discriminators.parameters()) if setup.adversary is not None else 0
    if judges:
        log(f"{'discriminators':<44}{judges:>14,}{0:>14,}")
    crops = config.steps * config.batch
    log(
        f"{config.steps:,} steps of {config.batch} crops of {config.data.crop} x {config.data.crop}: "
        f"{crops:,} crops, {crops / photographs:,.1f} passes over {photographs:,} photographs"
    )
    moments = 2 if config.optimizer.kind == "adamw8bit" else 8
    learned, frozen = int(totals[0]) + judges, int(totals[1])
    sizes = {"weights": 4 * (learned + frozen), "gradients": 4 * learned, "optimizer": moments * learned}
    sizes["average"] = 4 * int(totals[0])
    parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in sizes.items())
    log(f"memory: {sum(sizes.values()) / 2**20:,.0f} MiB before activations ({parts})")


def _named_parts(model: FaithEIR) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if name == "backbone":
            yield from ((f"backbone.{inner}", part) for inner, part in module.named_children())
        else:
            yield name, module
