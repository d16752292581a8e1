"""What is fuzzed: functions of bytes that return, or raise a FaithEIRError of one line, and nothing else.

Those that need torch import it themselves: the memory of the others is measured without it.
"""

import asyncio
import binascii
import functools
import hashlib
import importlib.util
import io
import json
import struct
import tempfile
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import seeds

from faitheir.errors import FaithEIRError
from faitheir.images import UNTRUSTED_MAX_PIXELS, UNTRUSTED_PIXELS_PER_BYTE, decode_picture
from faitheir.thumbnail import Thumbnail, ThumbnailInfo

#: The closed list of what may come out of any target.
ALLOWED = (FaithEIRError,)

_LIMITS = {"max_pixels": UNTRUSTED_MAX_PIXELS, "pixels_per_byte": UNTRUSTED_PIXELS_PER_BYTE}


def picture(data: bytes) -> None:
    """Any picture file: the first frame, or the second."""
    decode_picture(io.BytesIO(data), "fuzz", frame=1 if len(data) % 4 == 3 else None, **_LIMITS)


def thumbnail(data: bytes) -> None:
    """A thumbnail file."""
    Thumbnail.decode(data, **_LIMITS)


def metadata(data: bytes) -> None:
    """What a thumbnail says of its making: JSON, bytes, or bytes whose checksum is right."""
    size = (seeds.WIDTH, seeds.HEIGHT)
    if data[:1] == b"{":
        ThumbnailInfo.from_json(data.decode("utf-8", "surrogateescape"))
        return
    if sum(data) % 2:
        data = data[:-2] + binascii.crc_hqx(data[:-2] + struct.pack(">II", *size), 0xFFFF).to_bytes(2, "big")
    ThumbnailInfo.from_bytes(data, size)


def config(data: bytes) -> None:
    """A training recipe."""
    from faitheir.training.config import load_train_config

    path = _folder() / "fuzz.toml"
    path.write_bytes(data)
    load_train_config(path)


def results(data: bytes) -> None:
    """The file of a measured system."""
    from faitheir.evaluation.results import SystemResult

    SystemResult.from_json(data.decode("utf-8", "surrogateescape"))


def checkpoint(data: bytes) -> None:
    """A checkpoint in which one file was replaced: its path, a zero byte, its content."""
    from faitheir.models import load_model
    from faitheir.training.checkpoints import damage, load_checkpoint

    name, _, content = data.partition(b"\0")
    folder = _checkpoint()
    path = folder / name.decode("utf-8", "replace")
    if path not in _CHECKPOINT_FILES(folder):
        return
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        wrong = damage(folder)
        assert wrong is not None or content == before or path.name == "manifest.json", "damage was not seen"
        if name.startswith(b"model/"):
            load_model(folder / "model")
        else:
            load_checkpoint(folder)
    finally:
        path.write_bytes(before)


def request(data: bytes) -> None:
    """A request to the server: a line with method and address, headers, an empty line, the body."""
    from urllib.parse import unquote

    from faitheir.server.problem import Problem

    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    method, address, *_ = [*line.split(b" "), b""]
    path, _, query = address.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "method": method.decode("latin-1").upper(),
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "headers": [(key.strip().lower(), value.strip()) for key, _, value in (f.partition(b":") for f in fields)],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    status, answer = _loop().run_until_complete(_ask(scope, body))
    if status >= 400:
        raise Problem(status, json.loads(answer)["detail"])


async def _ask(scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    """What the server answers; what its handlers do not expect is raised here."""
    gone, sent, answer = asyncio.Event(), False, [b""]
    status = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        answer.append(message.get("body", b""))

    await _app()(scope, receive, send)
    gone.set()
    return status, b"".join(answer)


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], dict[str, bytes]]]] = {
    "picture": (picture, seeds.pictures),
    "thumbnail": (thumbnail, seeds.thumbnails),
    "metadata": (metadata, seeds.metadata),
    "config": (config, seeds.configs),
    "results": (results, seeds.results),
    "checkpoint": (checkpoint, seeds.checkpoint_files),
}
if importlib.util.find_spec("fastapi"):
    TARGETS["request"] = request, seeds.requests

#: How often a target has its turn. Pictures and thumbnails come from strangers most often, and have most code behind
#: them; a request takes a process of its own, and what is in it is mostly one of these.
SHARES = {"picture": 40, "thumbnail": 40, "request": 1}
USUAL_SHARE = 10

CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str) -> dict[str, bytes]:
    """What broke a target once."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*")) if path.is_file()}


def keep(name: str, data: bytes) -> Path:
    """Put an input into a target's corpus."""
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def attempt(name: str, data: bytes) -> str:
    """Run a target; returns "ok" or the name of the error, which is one of ALLOWED. Raises what is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name][0](data)
        except ALLOWED as error:
            text = str(error)
            assert text, "an error without a text"
            assert "\n" not in text, "an error of several lines"
            return type(error).__name__
    return "ok"


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="faitheir-fuzz-")


def _folder() -> Path:
    return Path(_temporary().name)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@functools.cache
def _app() -> Any:
    """The server's application, with the small model in it."""
    from faitheir.models import save_model
    from faitheir.server.app import create_app
    from faitheir.server.service import Limits, Service

    save_model(_folder() / "tiny", *seeds.small_model())
    service = Service([_folder() / "tiny"], limits=Limits(pixels=1_000_000, files=8, decode_seconds=10))
    service.load()
    return create_app(service)


@functools.cache
def _checkpoint() -> Path:
    return seeds.checkpoint(_folder() / "run")


@functools.cache
def _CHECKPOINT_FILES(folder: Path) -> frozenset[Path]:  # noqa: N802
    return frozenset(path for path in folder.rglob("*") if path.is_file())
