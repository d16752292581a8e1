"""`faitheir train`: its options and what it calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import ok, refused
from faitheir.cli.train import toml_value

Photo = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"7"', "7"),
        ("runs/other", "runs/other"),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_toml_value(text: str, value: object) -> None:
    assert toml_value(text) == value


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faitheir.training.loop as loop

    calls = []

    def record(config: Any, *, resume: str | None, dry_run: bool, log: Callable[[str], None]) -> Path:
        calls.append((config, resume))
        assert not dry_run
        log("step 1")
        return tmp_path / "run" / "model"

    monkeypatch.setattr(loop, "train", record)
    path = tmp_path / "config.toml"
    path.write_text('steps = 10\n[model]\nname = "tiny"\n[data]\ntrain = "photos"\n')
    text = ok(
        "train",
        path,
        "--set",
        "data.crop=128",
        "--set",
        "run=runs/x",
        "--set",
        "optimizer.lr = 1e-3",
        "--resume",
        "auto",
    )
    assert text == f"step 1\n{tmp_path / 'run' / 'model'}\n"
    ((config, resume),) = calls
    assert (config.data.crop, config.run, config.optimizer.lr, config.steps, resume) == (
        128,
        "runs/x",
        1e-3,
        10,
        "auto",
    )


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        ('setps = 10\n[model]\n[data]\ntrain = "x"', [], "did you mean 'steps'"),
        ('[model]\n[data]\ntrain = "x"', ["data.corp=128"], "did you mean 'crop'"),
        ('[model]\n[data]\ntrain = "x"', ["data.crop=large"], "crop"),
        ("[model", [], "TOML"),
        (None, [], "cannot be read"),
    ],
)
def test_wrong_training_config(content: str | None, settings: list[str], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_text(content)
    text = refused("train", path, *(part for setting in settings for part in ("--set", setting)))
    assert sentence in text
    assert "config.toml" in text


def test_set_without_a_value(tmp_path: Path) -> None:
    assert "KEY=VALUE" in refused("train", tmp_path / "config.toml", "--set", "steps", status=2)
