"""How `faitheir downscale` and `roundtrip` store thumbnails: format, quality, or a budget of bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click

from faitheir.cli.options import F, stack
from faitheir.thumbnail import DEFAULT_FORMAT, Thumbnail, ThumbnailFormat


def thumbnail_options(prefix: str = "") -> Callable[[F], F]:
    """Options that make a `ThumbnailFiles`; ``prefix`` is for commands that have a --format of something else."""
    return stack(
        click.option(
            f"--{prefix}format",
            "format",
            type=click.Choice(get_args(ThumbnailFormat)),
            help=f"Format of the thumbnails. [default: {DEFAULT_FORMAT}; with --lossless: webp; with --bytes and "
            "--bpp: the best for each]",
        ),
        click.option(
            f"--{prefix}quality",
            "quality",
            metavar="0..100",
            type=click.IntRange(0, 100),
            help="Quality of webp, avif and jpg thumbnails. [default: 70 for avif, 90 for webp, 85 for jpg]",
        ),
        click.option("--lossless", is_flag=True, help="Store the thumbnail's pixels unchanged, in webp or png."),
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


def exif_note(thumbnail: Thumbnail, path: Path) -> str:
    """What to say of a thumbnail file's EXIF where it takes more than a tenth of the file."""
    taken = thumbnail.exif_bytes
    return f", {taken:,} of them EXIF (--exif none leaves it out)" if taken * 10 > path.stat().st_size else ""
