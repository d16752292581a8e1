"""What files are called: pictures by their suffixes, ours by a mark before it; and the pictures in folders."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from faitheir.errors import ImageError
from faitheir.images import SUFFIXES
from faitheir.storage import PathLike

#: What stands before the suffix in the names of files that we write.
THUMBNAIL_MARK, RESTORED_MARK, SIDE_BY_SIDE_MARK = ".thumb", ".restored", ".roundtrip"
THUMBNAIL_SUFFIXES = frozenset({".png", ".webp", ".avif", ".jpg"})
_MARKS = (THUMBNAIL_MARK, RESTORED_MARK, SIDE_BY_SIDE_MARK)


def split_name(path: PathLike) -> tuple[str, str]:
    """The stem and suffix of a file's name, as pathlib has them, in a tenth of its time: there may be a million."""
    name = os.fspath(path)
    name = name[name.rfind(os.sep) + 1 :]
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


def mark(path: PathLike) -> str | None:
    """The mark in a file's name, or None for what is not named like an output of ours."""
    found = split_name(split_name(path)[0])[1].lower()
    return found if found in _MARKS else None


def stem(path: PathLike) -> str:
    """A file's name without its suffix."""
    return split_name(path)[0]


def base_name(path: PathLike) -> str:
    """The name of a picture without its suffix, and of a thumbnail without ".thumb" either."""
    name = stem(path)
    return name[: -len(THUMBNAIL_MARK)] or name if name.lower().endswith(THUMBNAIL_MARK) else name


def is_photograph(path: PathLike) -> bool:
    """Whether a file's name does not look like an output of ours."""
    return mark(path) is None


def is_thumbnail(path: PathLike) -> bool:
    """Whether a file is named like a thumbnail of ours."""
    return mark(path) == THUMBNAIL_MARK and split_name(path)[1].lower() in THUMBNAIL_SUFFIXES


def select_photographs(pictures: Sequence[Path]) -> list[Path]:
    """Those that do not look like outputs of ours, by their names."""
    return [path for path in pictures if is_photograph(path)]


def select_thumbnails(pictures: Sequence[Path]) -> list[Path]:
    """Those named like thumbnails of ours; where there are none, all that do not look like other outputs."""
    return [path for path in pictures if is_thumbnail(path)] or select_photographs(pictures)


def select_restored(pictures: Sequence[Path]) -> list[Path]:
    """Those named like restored pictures of ours; where there are none, all that do not look like other outputs."""
    return [path for path in pictures if mark(path) == RESTORED_MARK] or select_photographs(pictures)


def is_picture(name: str) -> bool:
    """Whether a file in a folder is taken for a picture, by its name: hidden ones are not."""
    return not name.startswith(".") and split_name(name)[1].lower() in SUFFIXES


def picture_files(folder: Path, *, recursive: bool = True) -> list[Path]:
    """The files named like pictures in a folder, folder by folder in order; hidden ones are left alone.

    Raises ImageError where one cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions.")

    found = picture_folders(folder, recursive=recursive, onerror=refuse)
    return [parent / name for parent, names in found for name in names]


def picture_folders(
    folder: Path, *, recursive: bool, onerror: Callable[[OSError], object]
) -> Iterator[tuple[Path, list[str]]]:
    """The names that `picture_files` takes in each folder, as these are found.

    ``onerror`` is called for a folder that cannot be listed.
    """
    for parent, folders, names in os.walk(folder, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        yield Path(parent), sorted(filter(is_picture, names))


def find_photographs(folder: str | Path) -> list[Path]:
    """Every picture file below ``folder``, sorted. Raises ImageError where there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{folder}: not a folder; give a folder of photographs.")
    paths = sorted(path for path in picture_files(root) if path.is_file())
    if not paths:
        raise ImageError(f"{folder}: no photographs in this folder.")
    return paths
