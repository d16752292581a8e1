"""A server of tiny models in this process, and requests to it as bytes on a connection."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import save_tiny_model
from faitheir.models import build_model, save_model
from faitheir.server.app import Access
from faitheir.server.run import listen, make_server
from faitheir.server.service import Limits, Service
from tiny import model_config, wake


@dataclass
class Answer:
    """What came back: status, headers (names in lower case), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The sentence of a refusal, whose form is checked."""
        assert self.headers["content-type"] == "application/problem+json"
        said = self.json
        assert said["status"] == self.status
        assert said.keys() == {"type", "title", "status", "detail"}
        assert said["detail"].endswith(".")
        assert "\n" not in said["detail"]
        return str(said["detail"])

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Server:
    """A running server; ``port`` is on the loopback address."""

    def __init__(self, service: Service, access: Access, *, example: bool = False, browser: Path | None = None) -> None:
        self.service = service
        self._socket = listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = make_server(service, access, example=example, browser=browser)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.ask("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def send(self, path: str, files: Sequence[tuple[str, bytes]]) -> Answer:
        """A form of files."""
        body, kind = form(files)
        return self.post(path, body, Content_Type=kind)

    def raw(self, data: bytes, seconds: float = 30) -> bytes:
        """What the server says to bytes on a connection, until it closes or nothing comes any more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            answer = b""
            with contextlib.suppress(TimeoutError):
                while part := connection.recv(65536):
                    answer += part
            return answer

    def until(self, holds: Any, seconds: float = 60) -> None:
        """Wait until something holds of the service."""
        end = time.monotonic() + seconds
        while not holds(self.service):
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self, *, wait: bool = True) -> None:
        self._server.should_exit = True
        if wait:
            self._thread.join(60)
            assert not self._thread.is_alive()


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """The body and the content type of a form with files."""
    boundary = "----------boundary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


@contextlib.contextmanager
def running(
    models: Sequence[Path],
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    load: bool = True,
    example: bool = False,
    browser: Path | None = None,
    **options: Any,
) -> Iterator[Server]:
    service = Service(models, limits=limits, **options)
    if load:
        service.load()
    server = Server(service, access or Access(), example=example, browser=browser)
    try:
        yield server
    finally:
        server.stop()


class Gate:
    """Holds the model up until it is opened; counts the tiles that were begun and reported."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.tiles = 0
        (pipeline,) = server.service.pipelines.values()
        real = pipeline.model.project

        def project(x: torch.Tensor) -> torch.Tensor:
            self.tiles += 1
            self.entered.release()
            assert self.open.wait(60)
            return real(x)

        monkeypatch.setattr(pipeline.model, "project", project)


def tiny_models(folder: Path) -> list[Path]:
    """Two tiny models: of 16x, whose setting of fidelity changes something, and of 32x."""
    torch.manual_seed(0)
    config = model_config(name="tiny-x16", fidelity_rank=2)
    model = build_model(config)
    assert model.fidelity is not None
    wake(model.fidelity)
    save_model(folder / "tiny-x16", model, config)
    return [
        folder / "tiny-x16",
        save_tiny_model(folder / "tiny-x32", model_config(name="tiny-x32", scale=32), seed=1),
    ]
