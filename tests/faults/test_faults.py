"""Whatever fails while files are written: nothing is half-written, no temporary is left, the next run completes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from command import call
from faitheir.comparison.compare import compare
from faitheir.comparison.produce import Setting
from faitheir.comparison.systems import ModelSystem
from faitheir.errors import FaithEIRError
from faitheir.evaluation.results import read_result
from faitheir.images import Picture, read_picture, write_picture
from faitheir.models import load_model, save_model
from faitheir.thumbnail import Thumbnail, ThumbnailInfo
from faitheir.training.checkpoints import checkpoints, damage, load_checkpoint, save_checkpoint
from faults import OPERATIONS, failing, leftovers

RNG = np.random.default_rng(0)


@dataclass
class Case:
    """Something that writes files into a folder."""

    act: Callable[[Path], None]
    """Do it; FaithEIRError where it fails."""
    check: Callable[[Path, bool], None]
    """Assert that no file in the folder is half-written; with True, that all are there."""
    #: The first N that are tried, and every how many after them: a batch repeats itself.
    dense: int = 1000


def thumbnail_case(height: int = 4, width: int = 5) -> Case:
    old, new = (
        Thumbnail(
            Picture(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)),
            ThumbnailInfo(16, 16 * width, 16 * height, "0123456789abcdef"),
        )
        for _ in range(2)
    )

    def act(folder: Path) -> None:
        if not (folder / "a.png").exists():
            old.save(folder / "a.png")
        new.save(folder / "a.png")

    def check(folder: Path, whole: bool) -> None:
        if whole or (folder / "a.png").exists():
            there = Thumbnail.open(folder / "a.png").picture.rgb
            assert any(np.array_equal(there, one.picture.rgb) for one in ([new] if whole else [old, new]))

    return Case(act, check)


def batch_case(model: Path, photographs: Path) -> Case:
    def act(folder: Path) -> None:
        result = call("downscale", photographs, "--model", model, "--device", "cpu", "-o", folder)
        assert "Traceback" not in result.output
        if result.exit_code:
            assert result.stderr.startswith("faitheir: error: ")
            raise FaithEIRError(result.stderr)

    def check(folder: Path, whole: bool) -> None:
        there = sorted(folder.glob("*.thumb.*"))
        assert not whole or len(there) == 5
        for path in there:
            assert Thumbnail.open(path).info is not None

    return Case(act, check, dense=4)


def checkpoint_case(model: Path) -> Case:
    net, config = load_model(model)
    before, now = ({"step": step, "moments": [torch.full((50,), float(step))]} for step in (1, 2))

    def act(folder: Path) -> None:
        for step, state in ((1, before), (2, now)):
            if not (folder / f"checkpoint-{step:08d}").exists():
                save_checkpoint(folder, step, state, lambda path: save_model(path, net, config), keep=2)

    def check(folder: Path, whole: bool) -> None:
        there = checkpoints(folder)
        assert not whole or len(there) == 2
        for path in there:
            assert damage(path) is None
            state, expected = load_checkpoint(path), before if path.name.endswith("1") else now
            assert state["step"] == expected["step"]
            assert torch.equal(state["moments"][0], expected["moments"][0])
            load_model(path / "model")

    return Case(act, check, dense=8)


def evaluation_case(model: Path, photographs: Path) -> Case:
    setting = Setting(metrics=("psnr",), device="cpu", progress=False)

    def act(folder: Path) -> None:
        (result,) = compare(photographs, [partial(ModelSystem, str(model))], folder, setting=setting)
        if any(picture.error for picture in result.pictures):
            raise FaithEIRError("; ".join(str(picture.error) for picture in result.pictures))

    def check(folder: Path, whole: bool) -> None:
        for path in folder.rglob("*.png"):
            read_picture(path)
        if whole or (folder / "tiny-x16.json").exists():
            assert read_result(folder / "tiny-x16.json").system == "tiny-x16"

    return Case(act, check, dense=3)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five in a folder; two of them again in "two", beside it."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("0", "1", "2", "3", "4", "../two/0", "../two/1"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        write_picture(path, Picture(RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)))
    return folder


@pytest.fixture(scope="module", params=["thumbnail", "batch", "checkpoint", "evaluation"])
def case(request: pytest.FixtureRequest, tiny_model: Path, photographs: Path) -> Case:
    if request.param == "thumbnail":
        return thumbnail_case()
    if request.param == "checkpoint":
        return checkpoint_case(tiny_model)
    if request.param == "batch":
        return batch_case(tiny_model, photographs)
    return evaluation_case(tiny_model, photographs.parent / "two")


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_nth_operation_fails(case: Case, operation: str, for_ever: bool, tmp_path: Path) -> None:
    nth, failures, refusals = 0, 0, 0
    while True:
        nth += 1 if nth < case.dense else max(1, nth // 2)
        folder = tmp_path / str(nth)
        folder.mkdir()
        refused = False
        with failing(folder, operation, nth, for_ever=for_ever) as count:
            try:
                case.act(folder)
            except FaithEIRError:
                refused = True
        assert leftovers(folder) == []
        case.check(folder, whole=not refused)
        case.act(folder)
        case.check(folder, whole=True)
        assert leftovers(folder) == []
        shutil.rmtree(folder)
        if not count.failed:
            assert not refused
            break
        failures += 1
        refusals += refused
    assert failures > 0
    assert refusals > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
@pytest.mark.parametrize("name", ["thumbnail", "batch", "evaluation"])
def test_short_of_memory(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """With ever more of it until it is enough: a sentence each time, and files as for any other fault."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(here), str(here.parent)])}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "starve.py"), name, str(tiny_model), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["texts"]
    assert all("memory" in text for text in told["texts"]), told["texts"]
