"""Errors a user can meet. Each carries one sentence: what is wrong, in which file, what to do."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

#: Nothing more can be written to this disk, whatever the file.
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class FaithEIRError(Exception):
    """Base of every error this package raises on purpose; the command line prints its text, exits with 1."""


class StorageError(FaithEIRError):
    """A file or folder is missing, or cannot be read or written."""


class ImageError(FaithEIRError):
    """A file is not a picture we can read, is damaged or too large, or its format cannot be written."""


class PlanError(FaithEIRError):
    """What was asked for cannot be begun: inputs, outputs or options contradict each other."""


class ThumbnailError(FaithEIRError):
    """A thumbnail's metadata is damaged, contradicts the picture, or asks for what the model cannot do."""


class ConfigError(FaithEIRError):
    """A configuration has an unknown key, a value of the wrong type, or a value out of range."""


class ModelError(FaithEIRError):
    """A model is unknown, incomplete, unsafe to load, or its weights do not fit its configuration."""


class DeviceError(FaithEIRError):
    """The requested device or precision is not available on this machine."""


class MissingDependencyError(FaithEIRError):
    """A feature needs an optional extra that is not installed."""


@contextlib.contextmanager
def needs(sentence: str) -> Iterator[None]:
    """Around the import of an optional package: where it is missing, MissingDependencyError with that sentence."""
    try:
        yield
    except ImportError:
        raise MissingDependencyError(sentence) from None


class ServerError(FaithEIRError):
    """A server refuses what was asked of it, or cannot be reached."""


class Stopped(FaithEIRError):  # noqa: N818 (not a fault: the user asked)
    """A signal ended what was under way; ``status`` is the exit status for it."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.status = 128 + signal


class TrainingStopped(Stopped):
    """Training was told to stop, and saved a checkpoint first."""


class EvaluationError(FaithEIRError):
    """What is to be measured does not pair, or a protocol, a metric or a result is not what it must be."""


class PairingError(EvaluationError):
    """Originals and what is to be measured against them do not pair: nothing has been computed yet."""


def reason(error: BaseException, memory_hint: str = "") -> str:
    """What went wrong, on one line."""
    text = one_line(error)
    if isinstance(error, FaithEIRError):
        return text
    if out_of_memory(error):
        return f"there is not enough memory{memory_hint}."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'} cannot be read or written ({error.strerror})."
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, Python's or torch's, says that memory is short."""
    text = one_line(error)
    return isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that its disk takes nothing more: it is full or read-only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        error = error.__cause__
    return False


def why(error: Exception) -> str:
    """The cause inside a sentence: the system's word for it, on one line, without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text).rstrip(".") or type(error).__name__


def one_line(value: Any) -> str:
    """Its text without line breaks."""
    return " ".join(str(value).split())
