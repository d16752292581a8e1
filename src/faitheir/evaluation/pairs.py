"""Pairs files with originals by name and checks their sizes. A file without a partner is an error."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from faitheir.errors import ImageError, PairingError, StorageError, ThumbnailError
from faitheir.evaluation.results import Output
from faitheir.files import RESTORED_MARK, mark, picture_files, select_photographs, select_restored, select_thumbnails
from faitheir.images import picture_size
from faitheir.thumbnail import Thumbnail


def list_originals(folder: str | Path, output: Path | None = None) -> dict[str, Path]:
    """The photographs below a folder by their paths in it without suffix; files named like our outputs are not taken.

    ``output``: a folder whose pictures are results; where it lies below ``folder``, they are not taken.
    Raises PairingError where there is no photograph, where two have one name, and where both folders are one.
    """
    folder = Path(folder)
    pictures = select_photographs(_pictures(folder))
    if output is not None:
        whole, apart = folder.absolute(), output.absolute()
        if whole == apart:
            raise PairingError(f"{output} holds the photographs; give the results another folder.")
        if apart.is_relative_to(whole):
            pictures = [path for path in pictures if not path.absolute().is_relative_to(apart)]
    return _by_name(folder, pictures)


def pair(
    originals: Mapping[str, Path], restored: str | Path, thumbnails: str | Path | None = None
) -> dict[str, Output]:
    """What a folder of restored pictures, and one of thumbnails, hold for each original.

    NAME.png and NAME.restored.png belong to NAME.jpg, NAME.thumb.png is its thumbnail. Where a folder has files with
    such marks, only these are taken. Raises PairingError, naming the files, where one has no partner, where two have
    one name, where sizes of original and restored picture differ, and where a folder has no pictures. A file that
    cannot be read is no error here: it will be that picture's alone.
    """
    folder = Path(restored)
    found = _by_name(folder, select_restored(_pictures(folder)))
    _match(originals, found, "restored picture", folder)
    small: dict[str, Path] = {}
    if thumbnails is not None:
        small = _by_name(Path(thumbnails), select_thumbnails(_pictures(Path(thumbnails))))
        _match(originals, small, "thumbnail", Path(thumbnails))
    check_sizes(originals, found)
    return {picture: Output(found[picture], small.get(picture)) for picture in originals}


def check_sizes(originals: Mapping[str, Path], found: Mapping[str, Path]) -> None:
    """Raise PairingError, naming the files, unless every file has its original's size, as far as both can be read."""
    unequal = []
    for name, path in found.items():
        try:
            sizes = picture_size(originals[name]), picture_size(path)
        except (ImageError, StorageError):
            continue
        if sizes[0] != sizes[1]:
            (w, h), (v, g) = sizes
            unequal.append(f"{path} is {v} x {g} and {originals[name]} {w} x {h} pixels")
    if unequal:
        others = f", and {len(unequal) - 3} more" if len(unequal) > 3 else ""
        raise PairingError(f"sizes differ: {'; '.join(unequal[:3])}{others}; both must have the same size.")


def find_scale(originals: Mapping[str, Path], outputs: Mapping[str, Output]) -> int | None:
    """The one scale, 2 to 256, at which every original gives a thumbnail of the size that is there.

    Our thumbnail files name it. None where there are no thumbnails to read, or where none or several
    scales fit.
    """
    fitting = set(range(2, 257))
    seen = False
    for picture, output in outputs.items():
        if output.error is not None or output.thumbnail is None:
            continue
        try:
            sizes = picture_size(originals[picture]), picture_size(output.thumbnail)
            info = Thumbnail.open(output.thumbnail).info
        except (ImageError, StorageError, ThumbnailError):
            continue
        seen = True
        fitting &= fitting if info is None else {info.scale}
        fitting = {s for s in fitting if all(-(-large // s) == small for large, small in zip(*sizes, strict=True))}
    return fitting.pop() if seen and len(fitting) == 1 else None


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PairingError(f"{folder}: not a folder; give a folder of pictures.")
    try:
        return picture_files(folder)
    except (ImageError, StorageError) as error:
        raise PairingError(str(error)) from None


def _by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        stem = path.stem.removesuffix(Path(path.stem).suffix) if mark(path) else path.stem
        name = (path.parent.relative_to(folder) / stem).as_posix()
        if name in found:
            raise PairingError(
                f"{found[name]} and {path} are both '{name}' without their suffixes, so the pair is ambiguous; "
                "rename one or move it away."
            )
        found[name] = path
    if not found:
        raise PairingError(f"{folder}: no pictures in this folder.")
    return found


def _match(originals: Mapping[str, Path], found: Mapping[str, Path], what: str, folder: Path) -> None:
    without = [originals[name] for name in originals if name not in found]
    extra = [found[name] for name in found if name not in originals]
    parts = []
    if without:
        parts.append(f"{_some(without)} {'has' if len(without) == 1 else 'have'} no {what} in {folder}")
    if extra:
        parts.append(f"{_some(extra)} {'has' if len(extra) == 1 else 'have'} no original")
    if parts:
        raise PairingError(f"{', and '.join(parts)}; files pair by their names without suffix and '{RESTORED_MARK}'.")


def _some(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return shown + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
