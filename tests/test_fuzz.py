"""What ever broke a reader, valid inputs of every kind, some hundred damaged ones; fuzz/run.py goes on from there."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import run
import targets

NAMES = list(targets.TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read(name: str) -> None:
    """Mutation starts from what is valid, and would find little if it were not."""
    outcomes = {key: targets.attempt(name, data) for key, data in targets.TARGETS[name][1]().items()}
    refused = {key for key, outcome in outcomes.items() if outcome != "ok"}
    assert len(outcomes) > len(refused)
    # Recipes are given without those that they extend; a file of one frame has no second one.
    assert name in ("config", "picture") or not refused
    if name == "picture":
        assert len(refused) < len(outcomes) / 2


@pytest.mark.parametrize("name", NAMES)
def test_what_broke_it_once(name: str) -> None:
    for data in targets.corpus(name).values():
        targets.attempt(name, data)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_read_or_refused(name: str) -> None:
    pool = run.pool_of(name)
    count = 30 if name == "request" else 300  # most of these take a process of their own
    outcomes = [targets.attempt(name, run.made(name, 1, number, pool)) for number in range(count)]
    assert any(outcome != "ok" for outcome in outcomes)


def test_a_failure_is_found_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign itself: a target that breaks on some inputs."""
    monkeypatch.setattr(targets, "CORPUS", tmp_path)
    monkeypatch.setitem(targets.TARGETS, "broken", (lambda data: [][len(data) % 2], lambda: {"a": b"seed"}))
    assert targets.corpus("broken") == {}
    data = next(d for n in range(99) if len(d := run.made("broken", 0, n, [b"seed"])) % 2 == 0)
    with pytest.raises(IndexError):
        targets.attempt("broken", data)
    assert targets.keep("broken", data).read_bytes() == data
    assert list(targets.corpus("broken").values()) == [data]
