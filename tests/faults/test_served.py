"""A served request whose Nth operation fails: an answer, and the next request is done."""

import errno
import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faitheir.images import Picture, encode_picture
from serving import Server, running

PICTURE = encode_picture(Picture(np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)), "png")


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Server]:
    with running([tiny_model]) as server:
        yield server


def failing_pipe(real: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    """Processes whose input breaks at the Nth write."""

    def start(*arguments: Any, **options: Any) -> Any:
        process = real(*arguments, **options)
        pipe = process.stdin

        class Pipe(io.RawIOBase):
            def write(self, data: Any) -> int:
                tick()
                return int(pipe.write(data))

            def close(self) -> None:
                pipe.close()

        process.stdin = Pipe()
        return process

    return start


def failing_start(real: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def start(*arguments: Any, **options: Any) -> Any:
        tick()
        return real(*arguments, **options)

    return start


@pytest.mark.parametrize(
    ("make", "number", "status"),
    [(failing_start, errno.EAGAIN, 503), (failing_start, errno.EMFILE, 503), (failing_pipe, errno.EPIPE, 422)],
)
def test_the_nth_operation_of_decoding_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch, make: Any, number: int, status: int
) -> None:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(number, "failed on purpose")

    for nth in (1, 2, 3):
        count = 0
        with monkeypatch.context() as patch:
            patch.setattr("faitheir.untrusted.subprocess.Popen", make(subprocess.Popen, tick))
            answers = [server.post("/v1/thumbnails", PICTURE) for _ in range(3)]
        assert [answer.status for answer in answers] == [status if n + 1 == nth else 200 for n in range(3)]
        assert answers[nth - 1].detail
        assert server.service.held == len(server.service.errands) == 0
