"""A batch killed at any moment: what is there is whole, and the next run does the rest, to the byte."""

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from command import names

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="kills in the manner of Unix")]

KILLS = 10  # of each command
#: Processes are forked from one that has imported everything, so that most of their time is the batch.
CONTEXT = multiprocessing.get_context("forkserver") if os.name != "nt" else None
PHOTOGRAPHS = 5


def batch(command: str, photographs: str, output: str, model: str) -> None:
    """A command line, with nothing said."""
    from faitheir.cli import main

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    main([command, photographs, "-o", output, "--model", model])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is no temporary one of ours, by its path."""
    return {name: (folder / name).read_bytes() for name in names(folder) if not name.startswith(".faitheir-")}


@pytest.mark.parametrize("command", ["downscale", "roundtrip"])
def test_killed_batches(command: str, tiny_model: Path, photo: Callable[..., Path], tmp_path: Path) -> None:
    assert CONTEXT is not None
    CONTEXT.set_forkserver_preload(["faitheir.cli", "faitheir.evaluation.roundtrip", "torch"])
    for index in range(PHOTOGRAPHS):
        photo(f"in/{index}.png", 120, 90, seed=index)
    output = tmp_path / "out"

    def start() -> ForkServerProcess:
        assert CONTEXT is not None
        process = CONTEXT.Process(target=batch, args=(command, str(tmp_path / "in"), str(output), str(tiny_model)))
        process.start()
        return process

    for _ in range(2):  # the second is not slowed down by what the first has to read
        shutil.rmtree(output, ignore_errors=True)
        begun = time.perf_counter()
        process = start()
        process.join()
        seconds = time.perf_counter() - begun
        assert process.exitcode == 0
    expected = contents(output)
    assert len(expected) == PHOTOGRAPHS * (3 if command == "roundtrip" else 1)

    moments = random.Random(command)
    early = 0
    for _ in range(KILLS):
        shutil.rmtree(output)
        output.mkdir()
        process = start()
        # Half of a run is its start, in which nothing is written: from the first sign of a file on.
        until = time.perf_counter() + 10 * seconds
        while not any(output.iterdir()) and time.perf_counter() < until:
            time.sleep(0.0005)
        process.join(moments.uniform(0, 0.5 * seconds))
        process.kill()
        process.join()
        left = contents(output)
        assert {name: expected[name] for name in left} == left, "a file is half-written"
        early += len(left) < len(expected)
        process = start()
        process.join()
        assert process.exitcode == 0
        assert contents(output) == expected
        assert {path.name for path in output.iterdir()} == set(expected), "a temporary file is left"
    assert early > 0, "no kill came in time"
