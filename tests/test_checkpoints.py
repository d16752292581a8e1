"""Checkpoints: whole or not there, no pickle, checked before they are used; a run that is killed anywhere goes on."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from faitheir.errors import ModelError, StorageError
from faitheir.models import load_model
from faitheir.training.checkpoints import Best, checkpoints, damage, load_checkpoint, save_checkpoint, step_of
from faitheir.training.config import TrainConfig
from faitheir.training.loop import train, train_stages
from recipes import Recipe, log_of, quiet

pytest.importorskip("accelerate")


def test_a_checkpoint_holds_no_pickle_and_all_its_files_are_in_the_manifest(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", val_every=0, optimizer__kind="muon"), log=quiet)
    for checkpoint in checkpoints(tmp_path / "run"):
        files = {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()}
        assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
        for name in files:
            if name.endswith(".json"):
                json.loads((checkpoint / name).read_text())
            else:
                load_file(checkpoint / name)
        assert json.loads((checkpoint / "manifest.json").read_text())["sha256"].keys() == files - {"manifest.json"}
        assert damage(checkpoint) is None


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    tensor = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "moment": tensor}, 1: {}},
        "groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [0, 1]}],
        "random": torch.get_rng_state(),
        "half": torch.rand(3).bfloat16(),
    }
    save_checkpoint(tmp_path, 7, state, lambda folder: folder.mkdir(), keep=1)
    (checkpoint,) = checkpoints(tmp_path)
    loaded = load_checkpoint(checkpoint)
    assert loaded["groups"] == state["groups"]
    assert loaded["state"].keys() == {0, 1}
    moment = loaded["state"][0]["moment"]
    assert moment.stride() == tensor.stride()
    for a, b in ((moment, tensor), (loaded["random"], state["random"]), (loaded["half"], state["half"])):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def flip(path: Path) -> None:
    """One bit of a file, in its middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = ["state.safetensors", "state.json", "manifest.json", "model/model.safetensors", "model/config.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path, network: Path) -> Path:
    """Holds "whole", a run of six steps, and "broken", the same that was stopped after step 4; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(folder, photos, network)
    train(recipe("whole", val_every=0), log=quiet)
    train(recipe("broken", val_every=0, steps=4), log=quiet)
    return folder


@pytest.fixture
def whole(trained: Path) -> Path:
    """A run of six steps, not to be changed."""
    return trained / "whole"


@pytest.fixture
def broken(trained: Path, tmp_path: Path) -> Path:
    """A run of six steps that was stopped by the loss of its last checkpoints: it has those of steps 2 and 4."""
    return Path(shutil.copytree(trained / "broken", tmp_path / "broken"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("hurt", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_taken(
    recipe: Recipe, whole: Path, broken: Path, name: str, hurt: Callable[[Path], Any]
) -> None:
    first, newest = checkpoints(broken)
    hurt(newest / name)
    lines: list[str] = []
    train(recipe("broken", val_every=0), resume="auto", log=lines.append)
    warnings = [line for line in lines if "is damaged (" in line]
    assert len(warnings) == 1
    assert str(newest) in warnings[0]
    assert name == "manifest.json" or Path(name).name in warnings[0]  # a manifest may be wrong about any file
    assert f"resumed from {first}" in lines
    assert log_of(broken) == log_of(whole)
    assert all(damage(checkpoint) is None for checkpoint in checkpoints(broken))


def test_damaged_checkpoints_that_cannot_be_avoided(recipe: Recipe, broken: Path) -> None:
    first, newest = checkpoints(broken)
    flip(newest / "state.safetensors")
    with pytest.raises(ModelError, match=r"is damaged \(state\.safetensors is not as it was written\)"):
        train(recipe("broken"), resume=str(newest), log=quiet)
    flip(first / "state.json")
    with pytest.raises(ModelError, match="no checkpoint of this run is whole; remove them"):
        train(recipe("broken"), resume="auto", log=quiet)


@pytest.mark.usefixtures("broken")
def test_a_checkpoint_of_another_configuration_is_refused(recipe: Recipe) -> None:
    for other in ({"model__codec__growth": 6}, {"freeze": ["prior"]}):
        with pytest.raises(ModelError, match="of a run with another configuration") as caught:
            train(recipe("broken", **other), resume="auto", log=quiet)
        assert len(str(caught.value).splitlines()) == 1


def test_a_finished_run_that_is_asked_for_more_steps_trains_on(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    first = train_stages([recipe("run", val_every=0, steps=4)], log=quiet)
    before = load_model(first)[0].state_dict()
    lines: list[str] = []
    train_stages([recipe("run", val_every=0, steps=4)], resume="auto", log=lines.append)
    assert lines == [f"{tmp_path / 'run'} is finished already"]
    last = train_stages([recipe("run", val_every=0)], resume="auto", log=quiet)
    assert log_of(tmp_path / "run") == log_of(whole)
    after = load_model(last)[0].state_dict()
    expected = load_model(whole / "model")[0].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert all(torch.equal(expected[name], after[name]) for name in after)


def test_a_best_model_that_is_lost_is_replaced(tmp_path: Path) -> None:
    """A process that was killed while it replaced the best model leaves its figure alone."""
    assert Best(tmp_path, "psnr", 4).offer(4, {"val_psnr": 30.0}, Path.mkdir)
    assert not Best(tmp_path, "psnr", 6).offer(6, {"val_psnr": 29.0}, Path.mkdir)
    (tmp_path / "best").rmdir()
    assert Best(tmp_path, "psnr", 6).offer(6, {"val_psnr": 29.0}, Path.mkdir)
    assert (tmp_path / "best").is_dir()
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 29.0


# A full disk


class Full:
    """From the nth time on that a file is flushed, made or renamed in ``folder``, its disk takes nothing more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, n: int) -> None:
        self.left, self.folder = n, str(folder)
        for name in ("mkdir", "open", "rename", "replace"):
            monkeypatch.setattr(Path, name, self._failing(getattr(Path, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Path, *arguments: Any, **options: Any) -> Any:
            reading = real.__name__ == "open" and arguments[:1] in ((), ("r",), ("rb",))
            if str(path).startswith(self.folder) and not reading:
                self.left -= 1
                if self.left < 0:
                    raise OSError(28, "No space left on device", str(path))
            return real(path, *arguments, **options)

        return operation


def test_a_disk_that_is_full_at_any_point_of_a_checkpoint(tmp_path: Path) -> None:
    """Until it succeeds: one sentence, the checkpoint before whole, and nothing half-written left."""

    def save_model(folder: Path) -> None:
        folder.mkdir()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(b"weights")

    save_checkpoint(tmp_path, 1, {"step": 1}, save_model, keep=1)
    said: list[str] = []
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            Full(monkeypatch, tmp_path, len(said))
            try:
                save_checkpoint(tmp_path, 2, {"step": 2}, save_model, keep=1)
                break
            except StorageError as error:
                said.append(str(error))
        assert [step_of(c) for c in checkpoints(tmp_path) if damage(c) is None][:1] == [1]
        assert not list(tmp_path.glob(".*"))
        for extra in checkpoints(tmp_path)[1:]:  # it was whole, and only the one before could not be removed
            assert damage(extra) is None
            shutil.rmtree(extra)
    assert len(said) >= 8
    assert set(said) == {
        f"{tmp_path}: the checkpoint of step 2 cannot be saved (No space left on device); make room on this disk, then "
        "go on with --resume auto from the checkpoint before."
    }
    assert [step_of(checkpoint) for checkpoint in checkpoints(tmp_path)] == [2]


def test_a_disk_that_is_full_in_training(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log does not fit: the run's folder is named, and once there is room the run goes on."""
    real = Path.open
    lines = 0

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        nonlocal lines
        if path.name == "log.jsonl" and mode == "a":
            lines += 1
            if lines > 4:
                raise OSError(28, "No space left on device")
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); make room") as caught:
        train(recipe("run", val_every=0), log=quiet)
    assert str(caught.value).startswith(str(tmp_path / "run"))
    monkeypatch.undo()
    train(recipe("run", val_every=0), resume="auto", log=quiet)
    assert log_of(tmp_path / "run") == log_of(whole)


def test_a_run_folder_that_cannot_be_one(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match=r"run: the run's files cannot be written \(.+\); choose another folder"):
        train(recipe("run"), log=quiet)


# A killed process

WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def train_and_die(config: TrainConfig, at: int) -> None:
    """Train in a process of its own that kills itself before it changes its run folder for the ``at``-th time.

    How often it did is left in ``RUN.changes``.
    """
    torch.set_num_threads(1)
    changes = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in WRITES or not str(arguments[0]).startswith(config.run + "/"):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        changes += 1
        if changes == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train(config, resume="auto", log=quiet)
    total = changes  # the line below is one more
    Path(f"{config.run}.changes").write_text(str(total))


def run_alone(config: TrainConfig, at: int = 0) -> int | None:
    """``train_and_die``'s exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faitheir.training.loop", "accelerate"])
    process = context.Process(target=train_and_die, args=(config, at))
    process.start()
    process.join(600)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_ten_kills_of_a_run(recipe: Recipe, tmp_path: Path) -> None:
    """Killed anywhere between two changes of its folder and resumed, a run is the one that was not killed."""
    options: dict[str, Any] = {"tensorboard": False, "steps": 6, "save_every": 2, "val_every": 3}
    assert run_alone(recipe("whole", **options)) == 0
    total = int((tmp_path / "whole.changes").read_text())
    assert total > 60
    whole = load_model(tmp_path / "whole" / "model")[0].state_dict()
    numbers = random.Random(0)
    for kill in range(10):
        config = recipe(f"killed-{kill}", **options)
        at = 1 + numbers.randrange(kill * total // 10, (kill + 1) * total // 10)
        assert run_alone(config, at) == -signal.SIGKILL, at
        assert run_alone(config) == 0, at
        run = Path(config.run)
        assert log_of(run) == log_of(tmp_path / "whole"), at
        assert [p.name for p in run.iterdir() if p.name.startswith(".")] == [], at
        assert all(damage(checkpoint) is None for checkpoint in checkpoints(run)), at
        model = load_model(run / "model")[0].state_dict()
        assert all(torch.equal(whole[name], model[name]) for name in whole), at
