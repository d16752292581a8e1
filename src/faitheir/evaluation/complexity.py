"""What a model costs: seconds, parameters, multiply-accumulates, peak memory (Table 4 of the paper).

Time and memory are measured in a separate process (``python -m faitheir.evaluation.complexity``), so that the peak is
the model's and not the caller's.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from faitheir.devices import keep_freed_memory, peak_mib
from faitheir.errors import ConfigError, EvaluationError
from faitheir.images import Picture, resize_bicubic
from faitheir.models import (
    KNOWN_CONFIGS,
    ModelConfig,
    build_model,
    embedded_models,
    find_model,
    meta_model,
    parameter_table,
    read_config,
)
from faitheir.pipeline import FaithEIRPipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Complexity:
    """``macs_down``, ``macs_up``: multiply-accumulates of convolutions, matrix products and attention, for the whole
    picture at once (tiles overlap, and take more). Seconds are the best of several runs on pictures in memory.
    ``peak_mib``: on the CPU the largest resident set of the process, Python and torch included; on a GPU the most
    memory that torch had allocated there. ``loaded_mib``: the same before the first picture.
    """

    model: str
    width: int
    height: int
    device: str
    dtype: str
    parameters: int
    macs_down: int
    macs_up: int
    seconds_down: float
    seconds_up: float
    peak_mib: float
    loaded_mib: float
    random_weights: bool


def complexity(
    source: str | Path,
    size: tuple[int, int],
    *,
    base: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    tile: int | None = None,
    repeat: int = 2,
) -> Complexity:
    """Measure the model ``source`` (as for ``FaithEIRPipeline.from_pretrained``) on a picture of (width, height).

    A known model whose weights are not here is measured with random ones, which take the same time. Raises ModelError,
    ConfigError, DeviceError, and EvaluationError where the measuring process fails.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ConfigError(f"size is {width} x {height}; both sides must be at least one pixel.")
    config = _without_weights(source) or read_config(find_model(source))
    macs_down, macs_up = count_macs(config, size)
    request: dict[str, Any] = {"source": str(source), "base": None if base is None else str(base)}
    request |= {"size": size, "device": device, "dtype": dtype, "tile": tile, "repeat": repeat}
    done = subprocess.run(
        [sys.executable, "-m", "faitheir.evaluation.complexity", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EvaluationError(f"'{source}' could not be measured at {width} x {height} pixels ({last}).")
    measured = json.loads(lines[-1])
    total = sum(parameter_table(config).values())
    return Complexity(config.name, width, height, parameters=total, macs_down=macs_down, macs_up=macs_up, **measured)


def count_macs(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Multiply-accumulates to encode and to decode a picture of (width, height), counted by torch without computing."""
    model = meta_model(config).eval().requires_grad_(False)
    model.backbone.merge_lora()
    width, height = (-(-side // model.size_multiple) * model.size_multiple for side in size)
    counts = []
    with torch.inference_mode():
        x = torch.empty(1, 3, height, width, device="meta")
        for half in (model.project, model.upscale):
            with FlopCounterMode(display=False) as counter:
                x = half(x)
            counts.append(counter.get_total_flops() // 2)  # torch counts two operations each
    return counts[0], counts[1]


def sample_picture(width: int, height: int) -> Picture:
    """A smooth picture of random colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
    return Picture(resize_bicubic(coarse, (width, height)))


def best_time(function: Callable[[], T], repeat: int) -> tuple[float, T]:
    """Seconds of the fastest of ``repeat`` runs, and the result."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return min(times), result


def _without_weights(source: str | Path) -> ModelConfig | None:
    """The configuration of a known model whose weights are not here."""
    here = str(source) in embedded_models() or Path(source).is_dir()
    return None if here else KNOWN_CONFIGS.get(str(source))


def _measure(source: str, size: tuple[int, int], repeat: int, tile: int | None, **options: Any) -> dict[str, Any]:
    """In this process."""
    keep_freed_memory()  # as the commands that do the work
    if config := _without_weights(source):
        model = build_model(config)
        model.backbone.merge_lora()
        pipeline = FaithEIRPipeline(model, config, tile=tile).to(options["device"], options["dtype"])
    else:
        pipeline = FaithEIRPipeline.from_pretrained(source, tile=tile, **options)
    picture = sample_picture(*size)
    loaded = peak_mib(pipeline.device)
    pipeline.upscale_thumbnail(pipeline.downscale_picture(Picture(picture.rgb[:512, :512].copy())))  # warms up
    down, thumbnail = best_time(lambda: pipeline.downscale_picture(picture), repeat)
    up, _ = best_time(lambda: pipeline.upscale_thumbnail(thumbnail), repeat)
    name = torch.cuda.get_device_name(pipeline.device) if pipeline.device.type == "cuda" else pipeline.device.type
    return {
        "device": name,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "seconds_down": down,
        "seconds_up": up,
        "peak_mib": peak_mib(pipeline.device),
        "loaded_mib": loaded,
        "random_weights": config is not None,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
