"""What a command makes of each of many pictures: names of outputs, conflicts between them, and the work on one.

`faitheir downscale`, `upscale` and `roundtrip` and their forms under `faitheir bulk` share it. Nothing here imports
torch before there is work.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from faitheir.errors import FaithEIRError, PlanError, ThumbnailError, out_of_memory
from faitheir.files import (
    RESTORED_MARK,
    SIDE_BY_SIDE_MARK,
    THUMBNAIL_MARK,
    base_name,
    is_photograph,
    is_thumbnail,
    stem,
)
from faitheir.images import Picture
from faitheir.storage import write_atomic
from faitheir.thumbnail import (
    DEFAULT_FORMAT,
    Thumbnail,
    ThumbnailFormat,
    bytes_for,
    stored_quality,
)

if TYPE_CHECKING:
    from faitheir.pipeline import FaithEIRPipeline, Pipelines

R = TypeVar("R")

RestoredFormat = Literal["png", "jpg", "webp", "tiff"]


@dataclass(frozen=True)
class Naming:
    """Which files a command takes, by their names, and what the files are called that it makes of each."""

    endings: tuple[str, ...]
    """What follows the input's base name in the names of the outputs."""
    alternatives: int = 1
    """So many of the first endings are those of which one is used."""
    wanted: Callable[[str], bool] = is_photograph
    otherwise: Callable[[str], bool] | None = None
    """Chooses where no name is ``wanted``."""
    base: Callable[[str], str] = stem
    """The base of an input's name."""

    def names(self, base: str) -> list[str]:
        """The names of the outputs."""
        return [base + ending for ending in self.endings]


def thumbnail_naming(files: "ThumbnailFiles") -> Naming:
    """photo.jpg gives photo.thumb.avif, or another suffix."""
    return Naming(files.endings, len(files.suffixes))


def restored_naming(format: RestoredFormat) -> Naming:  # noqa: A002
    """photo.thumb.avif gives photo.restored.png, or another suffix."""
    return Naming((f"{RESTORED_MARK}.{format}",), wanted=is_thumbnail, otherwise=is_photograph, base=base_name)


def round_trip_naming(files: "ThumbnailFiles", format: RestoredFormat) -> Naming:  # noqa: A002
    """photo.jpg gives photo.thumb.avif, photo.restored.png and photo.roundtrip.png."""
    endings = (*files.endings, f"{RESTORED_MARK}.{format}", f"{SIDE_BY_SIDE_MARK}.png")
    return Naming(endings, len(files.suffixes))


def check_conflicts(
    written: Iterable[tuple[object, Hashable, object]], inputs: Callable[[Hashable], bool], *, how: str = ""
) -> None:
    """PlanError where two inputs would write one file, or an input would be written.

    ``written``: for each output the input that gives it, what identifies the file, and its name for people; one
    input's outputs follow each other. ``inputs``: whether a file is an input. ``how``: how to name another folder.
    """
    writers: dict[Hashable, object] = {}
    for source, key, name in written:
        other = writers.setdefault(key, source)
        if other is not source:
            raise PlanError(
                f"{other} and {source} would both be written to {name}; rename one of them, or do them one at a time "
                f"into two folders{how}."
            )
        if inputs(key):
            raise PlanError(
                f"{name} is an input, and the output of {source} would replace it; leave it out, or name another "
                f"folder{how}."
            )


@dataclass(frozen=True)
class ThumbnailFiles:
    """How thumbnails are stored; PlanError where the choices contradict each other."""

    format: ThumbnailFormat | None = None
    quality: int | None = None
    lossless: bool = False
    limit: int | None = None
    """Bytes."""
    bpp: float | None = None

    def __post_init__(self) -> None:
        if self.budget and (self.quality is not None or self.lossless or None not in (self.limit, self.bpp)):
            raise PlanError("--bytes and --bpp choose the quality; give one of them, without a quality or --lossless.")
        if not self.budget:
            try:
                self.encode(Thumbnail(Picture(np.zeros((1, 1, 3), np.uint8)), None))
            except FaithEIRError as error:
                raise PlanError(str(error)) from None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "ThumbnailFiles":
        """Those among a command's options, which are taken out."""
        return cls(**{name: options.pop(name) for name in ("format", "quality", "lossless", "limit", "bpp")})

    @property
    def budget(self) -> bool:
        """Whether bytes are given, and the format and quality are chosen for each thumbnail."""
        return self.limit is not None or self.bpp is not None

    @property
    def suffixes(self) -> tuple[ThumbnailFormat, ...]:
        """What a thumbnail's name may end in."""
        if self.format is not None:
            return (self.format,)
        if self.budget:
            return get_args(ThumbnailFormat)
        if self.lossless:
            return ("webp",)
        return (DEFAULT_FORMAT,)

    @property
    def endings(self) -> tuple[str, ...]:
        """What stands after a photograph's base name in that of its thumbnail."""
        return tuple(f"{THUMBNAIL_MARK}.{suffix}" for suffix in self.suffixes)

    @property
    def settings(self) -> dict[str, Any]:
        """What the files depend on, defaults filled in; a quality of None is lossless."""
        if self.budget:
            return {"formats": list(self.suffixes), "bytes": self.limit, "bpp": self.bpp}
        (suffix,) = self.suffixes
        return {"format": suffix, "quality": stored_quality(suffix, self.quality, self.lossless or None)}

    def encode(self, thumbnail: Thumbnail) -> tuple[bytes, ThumbnailFormat]:
        """The bytes of its file, and their format; ThumbnailError where it does not fit."""
        if not self.budget:
            (suffix,) = self.suffixes
            return thumbnail.encode(suffix, quality=self.quality, lossless=self.lossless or None), suffix
        limit = self.limit
        if limit is None:
            assert self.bpp is not None
            assert thumbnail.size is not None
            limit = bytes_for(self.bpp, *thumbnail.size)
        encoded = thumbnail.encode_within(limit, formats=None if self.format is None else self.suffixes)
        return encoded.data, encoded.format

    def save(self, thumbnail: Thumbnail, path: Path) -> Path:
        """Write its file, under the suffix of its format, and return where it is."""
        data, suffix = self.encode(thumbnail)
        path = path.with_suffix(f".{suffix}")
        write_atomic(path, data)
        return path

    def first_that_fits(
        self, pipelines: "Pipelines", scale: str | None, attempt: "Callable[[FaithEIRPipeline], R]"
    ) -> R:
        """What ``attempt`` gives for the chosen model or, with a budget that it does not meet, for that of scale 32."""
        from faitheir.models import DEFAULT_MODELS

        def candidates() -> "Iterator[FaithEIRPipeline]":
            yield pipelines.for_thumbnail()
            if self.budget and pipelines.model is None and scale is None:
                yield pipelines.open(DEFAULT_MODELS[32])

        refused: ThumbnailError | None = None
        for pipeline in candidates():
            try:
                return attempt(pipeline)
            except ThumbnailError as error:
                refused = error
        assert refused is not None
        raise refused


def check_quality(format: RestoredFormat, quality: int | None) -> None:  # noqa: A002
    """PlanError for a quality of a format that has none."""
    if quality is not None and format not in ("jpg", "webp"):
        raise PlanError(f"--quality is for jpg and webp, and {format} is lossless; leave it out or choose --format.")


def check_scale(scale: str | None, model: str | None) -> None:
    """PlanError where the model is for another scale. Raises ModelError where there is no such model."""
    from faitheir.models import find_model, read_config

    if scale is not None and model is not None and (of := read_config(find_model(model)).codec.scale) != int(scale):
        raise PlanError(f"the model '{model}' is for scale {of}, not --scale {scale}; leave one out.")


def open_pipelines(scale: str | None, model: str | None, **options: Any) -> "Pipelines":
    """The pipelines for ``scale`` ("16", "32") or ``model``; PlanError where the two disagree.

    ``options``: for `Pipelines`. The process keeps the memory it frees.
    """
    from faitheir.devices import keep_freed_memory
    from faitheir.models import DEFAULT_MODELS
    from faitheir.pipeline import Pipelines

    check_scale(scale, model)
    keep_freed_memory()
    return Pipelines(model, default=DEFAULT_MODELS[int(scale or 16)], **options)


def pipeline_to_restore(pipelines: "Pipelines", thumbnail: Thumbnail, scale: str | None) -> "FaithEIRPipeline":
    """The one that restores a thumbnail; ThumbnailError where it was made at another ``scale`` than was asked for."""
    info = thumbnail.info
    if info is not None and pipelines.model is None and scale not in (None, str(info.scale)):
        raise ThumbnailError(f"the thumbnail was made at scale {info.scale}; leave --scale {scale} out.")
    return pipelines.for_thumbnail(thumbnail)


def restored_size(pipeline: "FaithEIRPipeline", thumbnail: Thumbnail) -> tuple[int, int]:
    """Width and height of what a thumbnail gives."""
    small, scale = thumbnail.picture, pipeline.scale
    return thumbnail.size or (small.width * scale, small.height * scale)


@contextmanager
def memory_for(width: int, height: int) -> Iterator[None]:
    """Say for which picture memory is short; FaithEIRError then."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise FaithEIRError(
            f"there is not enough memory for {width} x {height} pixels; a smaller --tile or picture needs less."
        ) from error
