"""Operations that fail on purpose, in the manner of SQLite: the Nth one, once or from then on.

What is counted is what touches files under one folder; the rest of the process is left alone.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What can fail, and what the system says then.
OPERATIONS = {
    "open": errno.EMFILE,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "rename": errno.EACCES,
}


@dataclass
class Count:
    """How many operations there were, and how many of them failed."""

    done: int = 0
    failed: int = 0


class _Writer:
    """A file opened for writing whose writes can fail, and then have written half."""

    def __init__(self, file: Any, tick: Callable[[], None]) -> None:
        self._file, self._tick = file, tick

    def write(self, data: Any) -> int:
        try:
            self._tick()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Writer":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


@contextmanager
def failing(folder: Path, operation: str, nth: int, *, for_ever: bool) -> Iterator[Count]:
    """Within, the ``nth`` operation on files under ``folder`` fails; with ``for_ever`` those after it, too."""
    count, root = Count(), os.fspath(folder)
    real_open, os_open, os_fsync, os_replace, os_rename = builtins.open, os.open, os.fsync, os.replace, os.rename

    def here(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(root)

    def tick(kind: str, path: Any = None) -> None:
        if kind != operation:
            return
        count.done += 1
        if count.done == nth or (for_ever and count.done > nth):
            count.failed += 1
            raise OSError(OPERATIONS[kind], os.strerror(OPERATIONS[kind]), path)

    def open_(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not here(path):
            return real_open(path, mode, *arguments, **options)
        tick("open", path)
        file = real_open(path, mode, *arguments, **options)
        writes = set(mode) & set("wax+")
        return _Writer(file, lambda: tick("write", path)) if writes and operation == "write" else file

    def low_open(path: Any, *arguments: Any, **options: Any) -> int:
        if here(path) and not os.path.isdir(path):  # noqa: PTH112  # folders are opened to be cleared or flushed
            tick("open", path)
        return os_open(path, *arguments, **options)

    def fsync(descriptor: int) -> None:
        tick("fsync")
        os_fsync(descriptor)

    def renamer(real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **options: Any) -> None:
            if here(target):
                tick("rename", source)
            real(source, target, **options)

        return rename

    try:
        builtins.open = io.open = open_
        os.open, os.fsync, os.replace, os.rename = low_open, fsync, renamer(os_replace), renamer(os_rename)
        yield count
    finally:
        builtins.open = io.open = real_open
        os.open, os.fsync, os.replace, os.rename = os_open, os_fsync, os_replace, os_rename


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders of ours that are still there."""
    return [path for path in folder.rglob(".*") if path.name.startswith((".faitheir-", ".saving-", ".removing-"))]
