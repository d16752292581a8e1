"""Validation pictures and figures, through the thumbnail file on disk as everything that is measured."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from faitheir.evaluation.roundtrip import Figures, round_trip
from faitheir.files import find_photographs
from faitheir.images import read_picture
from faitheir.nn.codec import FaithEIR
from faitheir.pipeline import FaithEIRPipeline
from faitheir.training.config import TrainConfig


def validate(model: FaithEIR, config: TrainConfig, folder: Path) -> dict[str, float]:
    """Take ``val_count`` photographs of ``data.val`` through the round trip and leave the pictures in ``folder``.

    Returns the means of the figures. The model is left in evaluation mode.
    """
    assert config.data.val is not None
    paths = find_photographs(config.data.val)
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(config.val_count, len(paths))).astype(int)]
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = FaithEIRPipeline(model, config.model)
    figures = []
    for path in paths:
        outputs = [folder / f"{path.stem}.{kind}.png" for kind in ("thumb", "restored", "roundtrip")]
        figures.append(round_trip(pipeline, read_picture(path), (outputs[0], outputs[1], outputs[2]))[0])
    return {f"val_{key}": value for key, value in asdict(Figures.mean(figures)).items() if "seconds" not in key}
