"""Files read and written: the one place that opens what a user names, and that replaces a file whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from faitheir.errors import StorageError, why

PathLike = str | os.PathLike[str]

#: How the temporary file begins and ends that ``write_atomic`` renames; one that is left was a killed process's.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".faitheir-", ".tmp"


def open_file(path: PathLike) -> BinaryIO:
    """The file opened for reading bytes; StorageError if it is missing, not a file, empty or not readable."""
    path = Path(path)
    try:
        if path.is_dir():
            raise StorageError(f"{path} is a folder, not a file; name a file in it.")
        if not path.exists():
            raise StorageError(f"{path} does not exist; check the name.")
        if not path.is_file():
            raise StorageError(f"{path} is not an ordinary file; copy it to one.")
        if path.stat().st_size == 0:
            raise StorageError(f"{path} is empty (zero bytes); use another copy of it.")
        return path.open("rb")
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({why(error)}); check the name and permissions.") from error


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write a file whole or not at all, and have it on the disk before returning.

    A temporary file in the same folder is written, flushed and renamed, and the folder is flushed. StorageError if the
    folder is missing or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        if path.is_dir():
            raise StorageError(f"{path} cannot be written: it is a folder; choose another name.")
        if not path.parent.is_dir():
            raise StorageError(f"{path} cannot be written: {path.parent} is not a folder; create it first.")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({why(error)}); choose another folder.") from error


def _flush_folder(folder: Path) -> None:
    """Have a rename in ``folder`` on the disk, where folders can be flushed: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
