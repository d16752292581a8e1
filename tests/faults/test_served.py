"""A served request whose Nth operation fails, or that is short of memory: an answer, and the next request is done."""

import errno
import http.client
import io
import json
import re
import subprocess
import sys
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


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize(
    ("make", "number", "status"),
    [(failing_start, errno.EAGAIN, 503), (failing_start, errno.EMFILE, 503), (failing_pipe, errno.EPIPE, 422)],
)
def test_the_nth_operation_of_decoding_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch, make: Any, number: int, status: int, for_ever: bool
) -> None:
    """A request writes no file: what it has of the system is the process that decodes, and the pipe to it."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == 2 or (for_ever and count > 2):
            raise OSError(number, "failed on purpose")

    with monkeypatch.context() as patch:
        patch.setattr("faitheir.untrusted.subprocess.Popen", make(subprocess.Popen, tick))
        answers = [server.post("/v1/thumbnails", PICTURE) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, status, status if for_ever else 200]
    assert answers[1].detail
    assert server.post("/v1/thumbnails", PICTURE).status == 200
    assert server.service.held == len(server.service.errands) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's address space")
def test_short_of_memory(tiny_model: Path) -> None:
    """With ever more of it until it is enough: an answer each time, or a closed connection where there is not enough to
    read the request; the server goes on.
    """
    import resource

    command = [sys.executable, "-m", "faitheir", "serve", "--port", "0", "--model", str(tiny_model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(re.search(r":(\d+)/", process.stdout.readline())[1])  # type: ignore[index]

            def ask(body: bytes) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                try:
                    connection.request("POST", "/v1/thumbnails", body)
                    response = connection.getresponse()
                    return response.status, response.read()
                except ConnectionError:
                    return 0, b""
                finally:
                    connection.close()

            small, large = (
                encode_picture(Picture(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)), "png")
                for size in ((300, 400), (1000, 1400))
            )
            assert ask(small)[0] == 200
            unlimited = resource.prlimit(process.pid, resource.RLIMIT_AS)
            refused = 0
            for room in range(0, 400 << 20, 32 << 20):
                used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
                resource.prlimit(process.pid, resource.RLIMIT_AS, (used + room, unlimited[1]))
                status, body = ask(large)
                resource.prlimit(process.pid, resource.RLIMIT_AS, unlimited)
                if status == 200:
                    break
                refused += 1
                assert status in (0, 503)
                assert status == 0 or "not enough memory" in json.loads(body)["detail"]
            assert refused > 0
            assert status == 200
            assert ask(small)[0] == 200
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
