"""Files read and written: the one place that opens what a user names, and that replaces a file whole or not at all."""

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from faitheir.errors import StorageError, disk_full, why

PathLike = str | os.PathLike[str]

#: How temporary files and folders begin and end. One that no process has locked was left by a process that was killed.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".faitheir-", ".tmp"
_LOCK = "lock"
#: Seconds after which a temporary file counts as abandoned where files cannot be locked.
_ABANDONED = 24 * 3600


def open_file(path: PathLike) -> io.BufferedReader:
    """The file opened for reading bytes; StorageError if it is missing, not a file, empty or not readable."""
    path = Path(path)
    try:
        if path.is_dir():
            raise StorageError(f"{path} is a folder, not a file; name a file in it.")
        if not path.exists():
            what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
            raise StorageError(f"{path} {what}; check the name.")
        if not path.is_file():
            raise StorageError(f"{path} is not an ordinary file; copy it to one.")
        if path.stat().st_size == 0:
            raise StorageError(f"{path} is empty (zero bytes); use another copy of it.")
        return path.open("rb")
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({why(error)}); check the name and permissions.") from error


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write a file whole or not at all, and have it on the disk before returning.

    A temporary file in the same folder is written, flushed, measured and renamed, and the folder is flushed.
    StorageError if the folder is missing or the file cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise StorageError(f"{path} cannot be written: it is a folder; choose another name.")
        if not path.parent.is_dir():
            raise StorageError(f"{path} cannot be written: {path.parent} is not a folder; create it first.")
        with _new_temporary(path.parent) as (temporary, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if os.fstat(file.fileno()).st_size != len(data):  # some network disks lose what is written in silence
                raise OSError(errno.EIO, "the disk holds less than was written")
            if os.name == "nt":  # Windows renames no open file; elsewhere it stays locked until it is in place
                file.close()
            temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({why(error)}); {_remedy(error)}.") from error


def write_files(folder: PathLike, contents: Mapping[str, bytes]) -> list[Path]:
    """Write each content under its name into a folder that exists, as `write_atomic` does; returns the files."""
    paths = [Path(folder) / name for name in contents]
    for path, data in zip(paths, contents.values(), strict=True):
        write_atomic(path, data)
    return paths


@contextlib.contextmanager
def temporary_folder(parent: PathLike) -> Iterator[Path]:
    """A hidden folder in ``parent`` for files that are moved out of it once they are whole; it is gone afterwards.

    Where the process is killed, `clear_temporaries` removes it. OSError if it cannot be created.
    """
    with _new_temporary(Path(parent), folder=True) as (path, _):
        yield path


@contextlib.contextmanager
def claim(path: PathLike) -> Iterator[bool]:
    """Whether it is for this process to make ``path``: False while another one does so, which may run elsewhere.

    A claim is a locked file beside ``path`` and ends with the process, however that ends. Where files cannot be locked
    (Windows, some network disks) every process has every claim.
    """
    path = Path(path)
    marker = path.with_name(_temporary_name(hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]))
    try:
        file = _create(marker) if not os.path.lexists(marker) or _remove_abandoned(marker) else None
    except FileExistsError:  # another process was quicker
        file = None
    except OSError:  # a full disk, say: writing the file itself will tell
        yield True
        return
    except BaseException:  # interrupted, perhaps when it was there already
        _remove_abandoned(marker)
        raise
    if file is None:
        yield False
        return
    locked = True
    try:
        locked = _lock(file.fileno()) is not None
        if not locked:
            file.close()  # Windows removes no open file
            marker.unlink(missing_ok=True)
        yield True
    finally:
        try:
            if locked:
                _remove(marker)  # before it is unlocked: afterwards it may be another's
        except KeyboardInterrupt:
            _remove(marker)
            raise
        finally:
            file.close()


def clear_temporaries(folder: PathLike) -> None:
    """Remove what processes that were killed left in ``folder``: temporary files and folders that nobody has locked."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX) and entry.name.endswith(TEMPORARY_SUFFIX):
                _remove_abandoned(Path(entry.path))


def _temporary_name(middle: str) -> str:
    return f"{TEMPORARY_PREFIX}{middle}{TEMPORARY_SUFFIX}"


@contextlib.contextmanager
def _new_temporary(parent: Path, *, folder: bool = False) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file, or a new folder and the file in it that is locked for it; what is left of it is removed.

    It is named before it is made: an interruption may come at any point, and leaves nothing.
    """
    while True:
        path = parent / _temporary_name(secrets.token_hex(8))
        try:
            if folder:
                path.mkdir()
            file = None
            try:
                file = _create(path / _LOCK if folder else path)
            except FileNotFoundError:  # the folder was taken for abandoned before it was locked
                if not folder:
                    raise
            if file is not None:
                with file:
                    yield path, file
                return
        finally:
            try:
                _remove(path)
            except KeyboardInterrupt:  # at its very entry perhaps, so it cannot see to this itself
                _remove(path)
                raise


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        # An interrupted rmtree may close a descriptor twice; that error hides the interruption.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None


def _create(path: Path) -> BinaryIO | None:
    """A new file, open and locked; FileExistsError if it is there.

    None where another process took it for abandoned before it was locked, and removes it.
    """
    file = path.open("xb")
    try:
        if _lock(file.fileno()) is not False and path.exists():
            return file
    except BaseException:
        file.close()  # and with it the lock, which the error's traceback would hold
        raise
    file.close()
    return None


def _lock(descriptor: int) -> bool | None:
    """Lock a file for as long as it is open; False if another process has it, None where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _remove_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder was nobody's, and is gone."""
    try:
        folder = path.is_dir()
        file = path / _LOCK if folder else path
        if folder and not file.exists():
            path.rmdir()
            return True
        descriptor = os.open(file, os.O_RDWR)
        try:
            locked = _lock(descriptor)
            if locked is False or (locked is None and time.time() - os.fstat(descriptor).st_mtime < _ABANDONED):
                return False
            for other in path.iterdir() if folder else ():
                if other != file:
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
            file.unlink()
            if folder:
                path.rmdir()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remedy(error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return "give it a shorter name"
    if disk_full(error) and error.errno != errno.EROFS:
        return "free some space on that disk, or choose another folder"
    return "choose another folder"


def flush_folder(folder: Path) -> None:
    """Have a rename in ``folder`` on the disk, where folders can be flushed: Windows and some network disks cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
