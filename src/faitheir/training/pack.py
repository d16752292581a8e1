"""Photographs packed into WebDataset shards, whole or as crops: few large files, which clusters read faster."""

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from faitheir.errors import ConfigError, ImageError, StorageError
from faitheir.images import Picture, decode_picture, encode_picture
from faitheir.storage import write_atomic
from faitheir.training.data import SHARD_SUFFIX, Photograph, find_training_photographs


@dataclass(frozen=True)
class PackReport:
    """What ``pack`` wrote: shards, members in them, their bytes, and a sentence for each photograph left out."""

    shards: list[Path]
    members: int
    bytes: int
    unreadable: list[str]


def pack(
    source: str | Path,
    output: str | Path,
    *,
    crop: int | None = None,
    crops: int = 1,
    format: Literal["webp", "png", "jpg"] = "webp",  # noqa: A002
    shard_bytes: int = 500_000_000,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[Sequence[Photograph]], Iterator[Photograph]] = iter,
) -> PackReport:
    """Write the photographs of ``source`` (see ``find_training_photographs``) into shards ``train-000000.tar``, ....

    Without ``crop`` the files go in as they are, byte for byte. With it, each photograph gives up to ``crops`` random
    squares of that side, encoded anew (``webp`` and ``png`` lossless, ``jpg`` at quality 95); one that is smaller is
    left out. The order is shuffled by ``seed``, so that every shard is a sample of the whole. A shard is closed when it
    holds ``shard_bytes``. Photographs that cannot be read are left out and listed in ``unreadable.txt``.

    A shard that can be seen is whole. Raises ConfigError where shards exist and ``overwrite`` is not given, ImageError
    where there is nothing to pack.
    """
    folder = Path(output)
    if crops < 1 or shard_bytes < 1 or (crop is not None and crop < 1):
        raise ConfigError("crop, crops and shard_bytes must be at least 1.")
    photographs = find_training_photographs(source)
    old = sorted(folder.glob(f"train-*{SHARD_SUFFIX}")) if folder.is_dir() else []
    if old and not overwrite:
        raise ConfigError(f"{folder}: there are shards in this folder; choose another one, or overwrite them.")
    if {p.path.resolve() for p in photographs} & {p.resolve() for p in old}:
        raise ConfigError(f"{folder}: these shards are the source; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)

    unreadable: list[str] = []
    shards: list[Path] = []
    order = np.random.default_rng((seed, 0)).permutation(len(photographs))
    writer = _ShardWriter(folder, shard_bytes, shards)
    with writer:
        for place, photograph in enumerate(progress([photographs[i] for i in order])):
            try:
                files = list(_files(photograph, crop, crops, format, np.random.default_rng((seed, 1, place))))
            except (ImageError, StorageError) as error:
                unreadable.append(str(error))
                continue
            key = f"{place:08d}-{_plain(photograph)}"
            for number, (suffix, content) in enumerate(files):
                writer.add(f"{key}{f'-{number}' if crop else ''}{suffix}", content)
    if not writer.members:
        raise ImageError(f"{source}: no photograph can be packed; {unreadable[0]}")
    for path in old:
        if path not in shards:
            path.unlink()
    listing = folder / "unreadable.txt"
    if unreadable:
        write_atomic(listing, "".join(f"{line}\n" for line in unreadable).encode())
    else:
        listing.unlink(missing_ok=True)
    return PackReport(shards, writer.members, writer.total, unreadable)


def _files(
    photograph: Photograph, crop: int | None, crops: int, suffix: str, rng: np.random.Generator
) -> Iterator[tuple[str, bytes]]:
    """The members for one photograph, as (suffix, content). It is decoded in any case: damaged ones stay out."""
    content = photograph.read()
    picture = decode_picture(io.BytesIO(content), photograph.name)
    if crop is None:
        yield Path(photograph.member or photograph.path.name).suffix.lower(), content
        return
    if min(picture.width, picture.height) < crop:
        raise ImageError(f"{photograph.name} is {picture.width} x {picture.height} pixels, smaller than the crop.")
    # More squares than it has room for side by side would be the same pixels again.
    count = min(crops, (picture.width // crop) * (picture.height // crop))
    for _ in range(count):
        top, left = rng.integers(picture.height - crop + 1), rng.integers(picture.width - crop + 1)
        cut = Picture(np.ascontiguousarray(picture.rgb[top : top + crop, left : left + crop]))
        yield f".{suffix}", encode_picture(cut, suffix, quality=95 if suffix == "jpg" else None)


def _plain(photograph: Photograph) -> str:
    """A name without special characters: in WebDataset's shards a dot ends the key."""
    stem = Path(photograph.member or photograph.path.name).name.rsplit(".", 1)[0]
    return re.sub(r"[^\w-]+", "_", stem)[:80]


class _ShardWriter:
    """Fills one shard after the other; each is renamed into place when it is closed."""

    def __init__(self, folder: Path, limit: int, shards: list[Path]) -> None:
        self.folder, self.limit, self.shards = folder, limit, shards
        self.members = self.total = 0
        self._tar: tarfile.TarFile | None = None
        self._temporary: Path | None = None
        self._held = 0

    def __enter__(self) -> "_ShardWriter":
        return self

    def add(self, name: str, content: bytes) -> None:
        if self._tar is not None and self._held + len(content) > self.limit:
            self._close()
        if self._tar is None:
            self._temporary = self.folder / f".train-{len(self.shards):06d}{SHARD_SUFFIX}"
            self._held = 0
            self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (see _close)
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))
        self._held += len(content)
        self.total += len(content)
        self.members += 1

    def _close(self) -> None:
        if self._tar is not None and self._temporary is not None:
            self._tar.close()
            final = self.folder / self._temporary.name.removeprefix(".")
            self._temporary.replace(final)
            self.shards.append(final)
            self._tar = self._temporary = None

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._close()
        elif self._tar is not None and self._temporary is not None:
            self._tar.close()
            self._temporary.unlink(missing_ok=True)
