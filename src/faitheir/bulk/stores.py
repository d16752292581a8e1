"""Folders in any storage that fsspec knows: listed, read, and written whole or not at all.

Credentials are fsspec's affair: its drivers find them in the environment (AWS_*, FSSPEC_*, a machine's role). An
address that holds some is refused, so that none gets into a manifest, a log or a task of Ray's.
"""

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from faitheir.errors import FaithEIRError, MissingDependencyError, PlanError, StorageError, why
from faitheir.storage import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, clear_temporaries, open_file, write_atomic

#: Stores in which an object appears whole when it is put; elsewhere it is written under another name and moved.
_ATOMIC_PUT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory"})
#: What fsspec's listings call the time of the last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
#: Seconds after which a temporary object in a store that cannot lock was left by a process that was killed.
_ABANDONED = 24 * 3600


class Entry(NamedTuple):
    """A file in a listing."""

    name: str
    size: int | None
    modified: float | None
    """Seconds since 1970; None where the store does not say."""

    def newer(self, since: float) -> bool:
        """Whether it was written at that time or later; where the store does not say, whether that is any time."""
        return since < math.inf if self.modified is None else self.modified >= since


@dataclass
class Listing:
    """What is in a folder, by name."""

    folders: list[str] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)


class Store:
    """A folder, by its address; paths in it are relative, with slashes. Pickled, it is the address alone."""

    def __init__(self, url: str) -> None:
        """``url``: a local folder, or an address such as "s3://bucket/folder".

        Raises PlanError for an address that holds credentials, MissingDependencyError where its driver is missing.
        """
        refuse_credentials(url)
        self.protocol = url.split("://", 1)[0] if "://" in url else "file"
        if self.local:  # workers have other working directories
            url = os.path.abspath(url.removeprefix(f"{self.protocol}://"))  # noqa: PTH100 (of a pattern, too)
        self.url = url if url.endswith("://") else url.rstrip("/") or "/"
        self._filesystem: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.url,)

    def __str__(self) -> str:
        return self.url

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine's file system, shared or not."""
        return self.protocol in ("file", "local")

    @property
    def here_only(self) -> bool:
        """Whether other processes do not see it."""
        return self.protocol == "memory"

    def _opened(self) -> tuple[Any, str]:
        if self._filesystem is None:
            from fsspec.core import url_to_fs

            try:
                # Listings are not kept: there may be millions of names in them, and they would be stale.
                fs, path = url_to_fs(self.url, use_listings_cache=False)
            except ImportError as error:
                raise MissingDependencyError(
                    f"{self.url} needs another package ({why(error)}); install it, on every machine of the cluster."
                ) from None
            except ValueError as error:
                raise PlanError(f"{self.url} cannot be opened ({why(error)}); check the address.") from None
            self._filesystem = fs, path.rstrip("/") or "/"
        return self._filesystem

    def path(self, place: str = "") -> str:
        """Where something is, as its driver names it."""
        root = self._opened()[1]
        return f"{root.rstrip('/')}/{place}" if place else root

    def shown(self, place: str) -> str:
        """Where something is, for people and manifests."""
        return f"{self.url.rstrip('/')}/{place}" if place else self.url

    def list(self, place: str = "") -> Listing:
        """What is in a folder of it: nothing where it is missing. StorageError where it cannot be listed."""
        try:
            return self._list_local(Path(self.path(place))) if self.local else self._list_remote(place)
        except FileNotFoundError:
            return Listing()
        except FaithEIRError:
            raise
        except Exception as error:
            raise StorageError(f"{self.shown(place)} cannot be listed ({why(error)}); check permissions.") from error

    def _list_local(self, folder: Path) -> Listing:
        found = Listing()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    found.folders.append(entry.name)
                elif entry.is_file():
                    status = entry.stat()
                    found.files[entry.name] = Entry(entry.name, status.st_size, status.st_mtime)
        return found

    def _list_remote(self, place: str) -> Listing:
        found = Listing()
        fs, _ = self._opened()
        path = self.path(place)
        prefix = len(path.strip("/")) + 1
        for info in fs.ls(path, detail=True):
            name = info["name"].strip("/")[prefix:]
            if not name:  # the folder itself: a store's empty object for it, or a file of that name
                continue
            if info["type"] == "directory":
                found.folders.append(name)
            else:
                found.files[name] = Entry(name, info.get("size"), _modified(info))
        return found

    def is_file(self, place: str = "") -> bool:
        """Whether there is a file of that name. StorageError where the store does not answer."""
        try:
            return bool(self._opened()[0].isfile(self.path(place)))
        except OSError as error:
            raise StorageError(f"{self.shown(place)} cannot be looked up ({why(error)}).") from error

    def is_folder(self) -> bool:
        """Whether there is anything at its address: a store has no empty folders. StorageError as for `is_file`."""
        try:
            return bool(self._opened()[0].isdir(self.path()))
        except OSError as error:
            raise StorageError(f"{self.url} cannot be looked up ({why(error)}).") from error

    def read(self, place: str) -> bytes:
        """A file's bytes. StorageError where it is missing, empty or not readable; TransientError if that may pass."""
        if self.local:
            with open_file(self.path(place)) as file:
                return file.read()
        try:
            data: bytes = self._opened()[0].cat_file(self.path(place))
        except Exception as error:
            raise _failure(error, f"{self.shown(place)} cannot be read") from error
        if not data:
            raise StorageError(f"{self.shown(place)} is empty (zero bytes); use another copy of it.")
        return data

    def write(self, place: str, data: bytes) -> None:
        """A file, whole or not at all, its folder too. StorageError, or TransientError if that may pass."""
        path = self.path(place)
        if self.local:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{path} cannot be written ({why(error)}); choose another folder.") from error
            write_atomic(path, data)
            return
        try:
            fs = self._opened()[0]
            if self.protocol in _ATOMIC_PUT:
                fs.pipe_file(path, data)
                return
            folder, _, name = path.rpartition("/")
            fs.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/{TEMPORARY_PREFIX}{os.getpid()}-{name}{TEMPORARY_SUFFIX}"
            fs.pipe_file(temporary, data)
            fs.mv(temporary, path)
        except Exception as error:
            raise _failure(error, f"{self.shown(place)} cannot be written") from error

    def remove(self, places: Sequence[str]) -> None:
        """Remove files, as far as they are there."""
        for place in places:
            try:
                self._opened()[0].rm_file(self.path(place))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _failure(error, f"{self.shown(place)} cannot be removed") from error

    def clear_temporaries(self, place: str, listing: Listing) -> None:
        """Remove what killed processes left in a folder, given what is in it."""
        left = [n for n in listing.files if n.startswith(TEMPORARY_PREFIX) and n.endswith(TEMPORARY_SUFFIX)]
        if self.local:
            if left:
                clear_temporaries(self.path(place))
            return
        old = time.time() - _ABANDONED
        self.remove([join(place, name) for name in left if (listing.files[name].modified or old) < old])

    def glob(self, pattern: str) -> Iterator[tuple[str, int | None]]:
        """The files that fit a pattern of fsspec's, in order, as paths in this folder, and their sizes."""
        try:
            found = self._opened()[0].glob(self.path(pattern), detail=True)
        except Exception as error:
            raise StorageError(f"{self.shown(pattern)} cannot be listed ({why(error)}).") from error
        cut = len(self.path().strip("/")) + 1
        for path in sorted(found):
            if found[path]["type"] == "file":
                yield path.strip("/")[cut:], found[path].get("size")


class TransientError(StorageError):
    """A store refused or did not answer: the same may succeed later."""


def join(folder: str, name: str) -> str:
    """A path in a folder of a store."""
    return f"{folder}/{name}" if folder else name


def split(url: str) -> tuple[str, str]:
    """The folder of an address, and the name in it."""
    url = url.rstrip("/")
    folder, slash, name = url.rpartition("/")
    if folder.endswith(":/"):  # a bucket: there is nothing above
        return url, ""
    return (folder or slash) if slash else ".", name


def _failure(error: Exception, text: str) -> StorageError:
    lasting = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    return (StorageError if lasting else TransientError)(f"{text} ({why(error)}).")


def refuse_credentials(url: str) -> None:
    """PlanError for an address that holds some, which the sentence does not show."""
    if "://" not in url or url.startswith(("file://", "local://", "memory://")):
        return
    parts = urlsplit(url)
    if "@" in parts.netloc and not re.match(r"abfss?$|hf$", parts.scheme):
        raise PlanError("an address holds a user name or a password; leave them out: the environment has credentials.")
    if parts.scheme in ("http", "https") and parts.query:
        raise PlanError(f"{url.split('?')[0]}?... has a query, which may be a credential; name files without one.")


def _modified(info: dict[str, Any]) -> float | None:
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
        if isinstance(value, int | float):
            return float(value)
    return None
