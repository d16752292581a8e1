"""A tiny recipe for nano, with what it needs on disk: shared by the tests of training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from faitheir.training.config import TrainConfig, load_train_config
from weights import squeezenet_state

TINY = """
run = "{run}"
steps = 6
batch = 2
seed = 3
precision = "no"
ema = 0.5
log_every = 1
save_every = 2
val_every = 3
val_count = 1

[model]
name = "tiny"
[model.codec]
growth = 4
inv_blocks = 1
pse_hidden = [8]
[model.backbone]
kind = "nano"
latent_channels = 4
encoder_widths = [8, 8]
encoder_blocks = [0, 0]
unet_widths = [8, 8]
unet_blocks = [0, 1]
decoder_widths = [8, 8, 8]
decoder_blocks = [0, 0, 0]
context_dim = 512
heads = 1
window = 4

[data]
train = "{photos}"
val = "{photos}"
crop = 64
workers = 0

[optimizer]
lr = 2e-3
schedule = "constant"

[losses]
teacher = "squeezenet"
teacher_weights = "{network}"
features = [{{ network = "squeezenet", weights = "{network}" }}]
"""


def write_photos(folder: Path) -> Path:
    """Four small pictures of several shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(80, 120), (150, 70), (64, 64), (40, 50)]):
        coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def write_squeezenet(path: Path) -> Path:
    """SqueezeNet's architecture with random weights: a feature network in the real file format."""
    save_file(squeezenet_state(), path)
    return path


class Recipe:
    """Writes the tiny recipe for a run of that name, and loads it: ``recipe("run", steps=2, data__crop=96)``."""

    def __init__(self, folder: Path, photos: Path, network: Path) -> None:
        self.folder, self.photos, self.network = folder, photos, network

    def write(self, run: str, more: str = "") -> Path:
        path = self.folder / f"{run}.toml"
        path.write_text(TINY.format(run=self.folder / run, photos=self.photos, network=self.network) + more, "utf-8")
        return path

    def __call__(self, run: str, **overrides: Any) -> TrainConfig:
        return load_train_config(self.write(run), {key.replace("__", "."): v for key, v in overrides.items()})


def quiet(_: str) -> None:
    """No log."""


def log_of(run: Path) -> list[dict[str, float]]:
    """The log without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "crops_per_second"} for line in lines]
