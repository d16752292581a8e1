"""What files are called: pictures by their suffixes, ours by a mark before it; and the pictures in folders."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faitheir.errors import ImageError
from faitheir.images import is_picture_path

#: What stands before the suffix in the names of files that we write.
THUMBNAIL_MARK, RESTORED_MARK, SIDE_BY_SIDE_MARK = ".thumb", ".restored", ".roundtrip"
THUMBNAIL_SUFFIXES = frozenset({".png", ".webp", ".avif", ".jpg"})
_MARKS = (THUMBNAIL_MARK, RESTORED_MARK, SIDE_BY_SIDE_MARK)


def mark(path: Path) -> str | None:
    """The mark in a file's name, or None for what is not named like an output of ours."""
    found = Path(path.stem).suffix.lower()
    return found if found in _MARKS else None


def base_name(path: Path) -> str:
    """The name of a picture without its suffix, and of a thumbnail without ".thumb" either."""
    name = path.stem
    return name[: -len(THUMBNAIL_MARK)] or name if name.lower().endswith(THUMBNAIL_MARK) else name


def is_photograph(path: Path) -> bool:
    """Whether a file's name does not look like an output of ours."""
    return mark(path) is None


def is_thumbnail(path: Path) -> bool:
    """Whether a file is named like a thumbnail of ours."""
    return mark(path) == THUMBNAIL_MARK and path.suffix.lower() in THUMBNAIL_SUFFIXES


def select_photographs(pictures: Sequence[Path]) -> list[Path]:
    """Those that do not look like outputs of ours, by their names."""
    return [path for path in pictures if is_photograph(path)]


def select_thumbnails(pictures: Sequence[Path]) -> list[Path]:
    """Those named like thumbnails of ours; where there are none, all that do not look like other outputs."""
    return [path for path in pictures if is_thumbnail(path)] or select_photographs(pictures)


def select_restored(pictures: Sequence[Path]) -> list[Path]:
    """Those named like restored pictures of ours; where there are none, all that do not look like other outputs."""
    return [path for path in pictures if mark(path) == RESTORED_MARK] or select_photographs(pictures)


def picture_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """The files named like pictures in a folder, folder by folder in order; hidden ones are left alone.

    Raises ImageError where one cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions.")

    return [path for _, paths in picture_folders(folder, recursive=recursive, onerror=refuse) for path in paths]


def picture_folders(
    folder: Path, *, recursive: bool, onerror: Callable[[OSError], object]
) -> Iterator[tuple[Path, list[Path]]]:
    """Like `picture_files`, folder by folder as they are found; ``onerror`` is called for one that cannot be listed."""
    for parent, folders, names in os.walk(folder, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        yield Path(parent), [path for path in paths if is_picture_path(path)]


def find_photographs(folder: str | Path) -> list[Path]:
    """Every picture file below ``folder``, sorted. Raises ImageError where there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{folder}: not a folder; give a folder of photographs.")
    paths = sorted(path for path in picture_files(root) if path.is_file())
    if not paths:
        raise ImageError(f"{folder}: no photographs in this folder.")
    return paths
