"""Keeps what was computed, by the contents of the files it was computed from, so that a stopped run can go on.

A key is a hash of everything that an entry depends on, so nothing ever needs to be thrown away for being out of date,
and the whole folder may be deleted at any time.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from faitheir.storage import open_file, write_atomic


def file_hash(path: Path) -> str:
    """64 hexadecimal digits (SHA-256) of a file's bytes. Raises StorageError where it cannot be read."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=100_000)
def _hash_of(path: Path, size: int, modified: int) -> str:  # noqa: ARG001 (they tell versions of a file apart)
    return file_hash(path)


class Store:
    """Entries in a folder; without one, nothing is kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @staticmethod
    def key(*parts: object) -> str:
        """The key of an entry that depends on ``parts``."""
        return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()

    @staticmethod
    def hash(path: Path) -> str:
        """``file_hash``, remembered as long as the file's size and time stay. Raises StorageError."""
        try:
            status = path.stat()
        except OSError:
            return file_hash(path)  # which raises the error to show
        return _hash_of(path, status.st_size, status.st_mtime_ns)

    def entry(self, key: str) -> dict[str, Any]:
        """What ``write_entry`` wrote; empty if nothing was, or if it is damaged."""
        try:
            values = json.loads(self._read(f"{key}.json") or "{}")
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    def write_entry(self, key: str, values: dict[str, Any]) -> None:
        """Replace an entry, whole or not at all. Raises StorageError."""
        self._write(f"{key}.json", json.dumps(values).encode())

    def array(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array under a key; computed and written, whole or not at all, if there is none or it is damaged."""
        try:
            array: np.ndarray = np.load(io.BytesIO(self._read(f"{key}.npy")), allow_pickle=False)
        except (ValueError, EOFError, OSError):
            array = compute()
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            self._write(f"{key}.npy", buffer.getvalue())
        return array

    def _read(self, name: str) -> bytes:
        """Nothing where there is no such file."""
        with contextlib.suppress(OSError):
            return b"" if self.folder is None else (self.folder / name[:2] / name).read_bytes()
        return b""

    def _write(self, name: str, data: bytes) -> None:
        if self.folder is not None:
            path = self.folder / name[:2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
