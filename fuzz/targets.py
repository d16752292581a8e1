"""What is fuzzed: functions of bytes that return, or raise a FaithEIRError of one line, and nothing else.

Those that need torch import it themselves: the memory of the others is measured without it.
"""

import binascii
import functools
import hashlib
import io
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

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


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], dict[str, bytes]]]] = {
    "picture": (picture, seeds.pictures),
    "thumbnail": (thumbnail, seeds.thumbnails),
    "metadata": (metadata, seeds.metadata),
    "config": (config, seeds.configs),
    "results": (results, seeds.results),
    "checkpoint": (checkpoint, seeds.checkpoint_files),
}

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
def _checkpoint() -> Path:
    return seeds.checkpoint(_folder() / "run")


@functools.cache
def _CHECKPOINT_FILES(folder: Path) -> frozenset[Path]:  # noqa: N802
    return frozenset(path for path in folder.rglob("*") if path.is_file())
