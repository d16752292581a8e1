"""Training: a real, tiny run on real files, resumed, and what it refuses."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from faitheir import FaithEIRPipeline
from faitheir.errors import ConfigError, FaithEIRError, ImageError, ModelError
from faitheir.models import load_model, read_config
from faitheir.training.config import DataConfig, OptimizerConfig, load_train_config
from faitheir.training.data import CropDataset
from faitheir.training.loop import checkpoints, learning_rate_factor, train

pytest.importorskip("accelerate")

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


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(80, 120), (150, 70), (64, 64), (40, 50)]):
        coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet's architecture with random weights: a feature network in the real file format."""
    generator = torch.Generator().manual_seed(0)
    fires = {3: (96, 16, 64), 4: (128, 16, 64), 5: (128, 32, 128), 7: (256, 32, 128), 8: (256, 48, 192)}
    fires |= {9: (384, 48, 192), 10: (384, 64, 256), 12: (512, 64, 256)}
    shapes: dict[str, tuple[int, ...]] = {"features.0": (96, 3, 7, 7)}
    for i, (inputs, squeeze, expand) in fires.items():
        shapes[f"features.{i}.squeeze"] = (squeeze, inputs, 1, 1)
        shapes[f"features.{i}.expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"features.{i}.expand3x3"] = (expand, squeeze, 3, 3)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    path = tmp_path_factory.mktemp("network") / "squeezenet.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def recipe(tmp_path: Path, photos: Path, network: Path) -> Any:
    """Writes the tiny recipe for a run of that name and loads it with overrides."""

    def load(run: str, **overrides: Any) -> Any:
        path = tmp_path / f"{run}.toml"
        path.write_text(TINY.format(run=tmp_path / run, photos=photos, network=network), encoding="utf-8")
        return load_train_config(path, {key.replace("__", "."): value for key, value in overrides.items()})

    return load


def quiet(_: str) -> None:
    """No log."""


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "crops_per_second"} for line in lines]


def test_a_run_trains_and_leaves_a_model_that_works(recipe: Any, tmp_path: Path, photos: Path) -> None:
    config = recipe("run", steps=40, log_every=5, save_every=20, val_every=40, data__shrink=0.0)
    folder = train(config, log=quiet)
    log = [line for line in losses(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in log] == list(range(5, 41, 5))
    for key in ("guidance", "pixel", "feature", "semantic"):
        assert all(math.isfinite(line[key]) and line[key] > 0 for line in log)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["semantic"] < log[0]["semantic"]

    pipeline = FaithEIRPipeline.from_pretrained(folder)
    assert pipeline.name == "tiny"
    assert pipeline.upscale(pipeline.downscale(photos / "0.png")).size == (120, 80)
    matrix = pipeline.model.rescaler.transform.matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)

    pictures = tmp_path / "run" / "validation" / "step-00000040"
    with Image.open(next(pictures.glob("*.roundtrip.png"))) as sheet:
        assert sheet.width == 3 * 120 + 16
    figures = next(line for line in losses(tmp_path / "run") if "val_psnr" in line)
    assert 0 < figures["val_psnr"] < 60
    assert figures["val_bits_per_pixel"] > 0
    assert read_config(tmp_path / "run" / "checkpoint-00000040" / "model") == config.model


def test_a_resumed_run_is_the_uninterrupted_one(recipe: Any, tmp_path: Path) -> None:
    whole = train(recipe("whole"), log=quiet)
    train(recipe("broken", steps=4), log=quiet)
    # A killed run has logged further than its last checkpoint; those lines must not stay.
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 5, "loss": 1e9}) + "\n")
    resumed = train(recipe("broken"), resume=True, log=quiet)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    a, b = (load_model(folder)[0].state_dict() for folder in (whole, resumed))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_only_the_last_checkpoints_are_kept_and_none_is_half_written(recipe: Any, tmp_path: Path) -> None:
    train(recipe("run", keep=1, val_every=0), log=quiet)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-00000006"]
    assert not list((tmp_path / "run").glob(".saving*"))


def test_a_run_is_not_overwritten_unasked(recipe: Any) -> None:
    train(recipe("run", steps=2, val_every=0), log=quiet)
    with pytest.raises(ConfigError, match="resume"):
        train(recipe("run", steps=2, val_every=0), log=quiet)


def test_training_starts_from_a_saved_model(recipe: Any) -> None:
    first = train(recipe("first", val_every=0), log=quiet)
    second = train(recipe("second", val_every=0, steps=2, optimizer__lr=1e-9, ema=0.0, init=str(first)), log=quiet)
    a, b = (load_model(folder)[0].state_dict() for folder in (first, second))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match="do not fit"):
        train(recipe("third", init=str(first), model__codec__growth=5), log=quiet)


def test_bfloat16_trains(recipe: Any, tmp_path: Path) -> None:
    train(recipe("run", precision="bf16", steps=2, val_every=0), log=quiet)
    assert all(math.isfinite(line["loss"]) for line in losses(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run(recipe: Any) -> None:
    with pytest.raises(FaithEIRError, match="not finite at step"):
        train(recipe("run", optimizer__lr=1e30, steps=6, val_every=0), log=quiet)


def test_crops_do_not_depend_on_who_asks_or_in_what_order(photos: Path) -> None:
    config = DataConfig(train=str(photos), crop=32)
    a, b = CropDataset(config, seed=1), CropDataset(config, seed=1)
    forward = [a[n] for n in range(10)]
    for n in reversed(range(10)):
        torch.testing.assert_close(b[n], forward[n], rtol=0, atol=0)
    assert forward[0].shape == (3, 32, 32)
    assert 0 <= float(forward[0].min()) < float(forward[0].max()) <= 1
    assert not torch.equal(CropDataset(config, seed=2)[0], forward[0])


def test_each_pass_sees_every_photograph_and_small_ones_are_enlarged(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (20, 10), (i * 50, 0, 0)).save(tmp_path / f"{i}.png")
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    for lap in range(3):
        reds = sorted(round(float(dataset[lap * 5 + n][0].mean()) * 255) for n in range(5))
        assert reds == [0, 50, 100, 150, 200]


def test_unreadable_photographs_are_skipped_and_listed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    for n in range(6):
        assert float(dataset[n].mean()) == pytest.approx(9 / 255)
    assert dataset.unreadable == {tmp_path / "bad.jpg"}
    (tmp_path / "good.png").unlink()
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    with pytest.raises(ImageError, match="none of the photographs"):
        dataset[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no photographs"):
        CropDataset(DataConfig(train=str(tmp_path / "empty"), crop=32), seed=0)


def test_learning_rate_schedules() -> None:
    halve = learning_rate_factor(OptimizerConfig(schedule="halve", halve_every=100), 1000)
    assert [halve(s) for s in (0, 99, 100, 250)] == [1, 1, 0.5, 0.25]
    cosine = learning_rate_factor(OptimizerConfig(schedule="cosine", warmup=10), 1000)
    assert cosine(0) == pytest.approx(1 / 11)
    assert cosine(10) == pytest.approx(1)
    assert cosine(1000) == pytest.approx(0.01)
    values = [cosine(s) for s in range(10, 1000)]
    assert all(a >= b for a, b in pairwise(values))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data__cropp": 64}, "unknown key 'cropp'; did you mean 'crop'"),
        ({"losses__pixle": 1.0}, "did you mean 'pixel'"),
        ({"data__crop": 60}, "not a multiple of the scale"),
        ({"steps": 0}, "at least 1"),
        ({"steps": "many"}, "type int is wanted"),
        ({"save_every": 3, "log_every": 2}, "multiple of log_every"),
        ({"optimizer__lr": -1.0}, "must be positive"),
        ({"losses__teacher": "cat"}, "choose one of"),
    ],
)
def test_a_bad_recipe_is_one_sentence_that_names_the_file(recipe: Any, override: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe("bad", **override)
    assert "bad.toml" in str(caught.value)


def test_missing_networks_and_files_are_named(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        train(recipe("run", losses__teacher_weights=str(tmp_path / "nowhere.safetensors")), log=quiet)
    with pytest.raises(ConfigError, match="512 features per pixel"):
        train(recipe("run", model__backbone__context_dim=16), log=quiet)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_train_config(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_train_config(tmp_path / "broken.toml")
