"""How `faitheir downscale` and `roundtrip` store thumbnails: format, quality, or a budget of bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
import numpy as np

from faitheir.cli.jobs import PlanError
from faitheir.cli.options import F, stack
from faitheir.errors import FaithEIRError, ThumbnailError
from faitheir.images import Picture
from faitheir.storage import write_atomic
from faitheir.thumbnail import (
    DEFAULT_FORMAT,
    LOSSLESS_FORMATS,
    LOSSY_FORMATS,
    Thumbnail,
    ThumbnailFormat,
    bytes_for,
)

if TYPE_CHECKING:
    from faitheir.pipeline import FaithEIRPipeline, Pipelines

R = TypeVar("R")


def thumbnail_options(prefix: str = "") -> Callable[[F], F]:
    """Options that make a `ThumbnailFiles`; ``prefix`` is for commands that have a --format of something else."""
    return stack(
        click.option(
            f"--{prefix}format",
            "format",
            type=click.Choice(get_args(ThumbnailFormat)),
            help=f"Format of the thumbnails. [default: {DEFAULT_FORMAT}; with --bytes and --bpp: the best for each]",
        ),
        click.option(
            f"--{prefix}quality",
            "quality",
            metavar="0..100",
            type=click.IntRange(0, 100),
            help="Quality of lossy thumbnails: webp (the default then), avif or jpg.",
        ),
        click.option("--lossless", is_flag=True, help="Store the thumbnail's pixels unchanged, in png or webp."),
        click.option(
            "--bytes",
            "limit",
            metavar="N",
            type=click.IntRange(min=1),
            help="Store each thumbnail as well as N bytes allow, metadata included; at scale 32 where 16 does not fit.",
        ),
        click.option(
            "--bpp",
            metavar="X",
            type=click.FloatRange(min=0, min_open=True),
            help="The same for X bits per pixel of the photograph, such as 0.02.",
        ),
    )


@dataclass(frozen=True)
class ThumbnailFiles:
    """What `thumbnail_options` say; PlanError where they contradict each other."""

    format: ThumbnailFormat | None
    quality: int | None
    lossless: bool
    limit: int | None
    """Bytes."""
    bpp: float | None

    def __post_init__(self) -> None:
        if self._budget and (self.quality is not None or self.lossless or None not in (self.limit, self.bpp)):
            raise PlanError("--bytes and --bpp choose the quality; give one of them, without a quality or --lossless.")
        if not self._budget:
            try:
                self.encode(Thumbnail(Picture(np.zeros((1, 1, 3), np.uint8)), None))
            except FaithEIRError as error:
                raise PlanError(str(error)) from None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "ThumbnailFiles":
        """Those among a command's options, which are taken out."""
        return cls(**{name: options.pop(name) for name in ("format", "quality", "lossless", "limit", "bpp")})

    @property
    def _budget(self) -> bool:
        return self.limit is not None or self.bpp is not None

    @property
    def suffixes(self) -> tuple[ThumbnailFormat, ...]:
        """What a thumbnail's name may end in."""
        if self.format is not None:
            return (self.format,)
        if self._budget:
            return get_args(ThumbnailFormat)
        if self.quality is not None and DEFAULT_FORMAT not in LOSSY_FORMATS:
            return ("webp",)
        if self.lossless and DEFAULT_FORMAT not in LOSSLESS_FORMATS:
            return ("png",)
        return (DEFAULT_FORMAT,)

    def encode(self, thumbnail: Thumbnail) -> tuple[bytes, ThumbnailFormat]:
        """The bytes of its file, and their format; ThumbnailError where it does not fit."""
        if not self._budget:
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
        from faitheir.models import embedded_models

        def candidates() -> "Iterator[FaithEIRPipeline]":
            yield pipelines.for_thumbnail()
            if self._budget and pipelines.model is None and scale is None and "nano-x32" in embedded_models():
                yield pipelines.open("nano-x32")

        refused: ThumbnailError | None = None
        for pipeline in candidates():
            try:
                return attempt(pipeline)
            except ThumbnailError as error:
                refused = error
        assert refused is not None
        raise refused


def exif_note(thumbnail: Thumbnail, path: Path) -> str:
    """What to say of a thumbnail file's EXIF where it takes more than a tenth of the file."""
    taken = thumbnail.exif_bytes
    return f", {taken:,} of them EXIF (--exif none leaves it out)" if taken * 10 > path.stat().st_size else ""
