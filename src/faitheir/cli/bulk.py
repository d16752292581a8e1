"""`faitheir bulk`: millions of files through Ray Data, from and to any storage that fsspec knows."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click
from tqdm import tqdm

from faitheir.batches import ThumbnailFiles
from faitheir.cli.messages import printable, show_error
from faitheir.cli.options import (
    EPILOG,
    Commands,
    exif_option,
    fidelity_option,
    max_pixels_option,
    model_options,
    restored_options,
    stack,
)
from faitheir.cli.thumbnails import thumbnail_options
from faitheir.images import UNTRUSTED_MAX_PIXELS

if TYPE_CHECKING:
    from faitheir.bulk import Estimate, Summary
    from faitheir.bulk.planning import Verb

#: Failures that are shown; the manifest has all.
_SHOWN = 20


@click.group(cls=Commands, epilog=EPILOG)
def bulk() -> None:
    """Rescale millions of files on many machines, with Ray Data and fsspec.

    SOURCE is a folder or its address (s3://bucket/folder, gs://, az://, hf://, file://), a quoted pattern, a list of
    paths (.txt, one a line; .parquet, in the column "path"), or WebDataset shards ("shards/*.tar",
    "shards-{000..099}.tar"). TARGET is a folder or an address, in which the tree of SOURCE is mirrored.

    Outputs that exist in TARGET are skipped, so a run that ended early is continued by starting it again. TARGET's
    folder faitheir-bulk holds the settings of its outputs and a manifest of what was done (Parquet). Credentials come
    from the environment.
    """


_bulk_options = stack(
    click.argument("source"),
    click.argument("target"),
    click.option(
        "--ray",
        metavar="ADDRESS|local",
        default="local",
        show_default=True,
        help="Cluster to run on: an address (HOST:PORT, ray://HOST:PORT), 'auto' for the one that this machine is "
        "part of, or 'local' to start Ray on this machine alone.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist instead of skipping them."),
    click.option(
        "--adopt",
        is_flag=True,
        help="Count outputs in TARGET as done that no bulk run made, whatever their settings are.",
    ),
    click.option("--dry-run", is_flag=True, help="Show counts, bytes and an estimate from a sample; write nothing."),
    click.option(
        "--shard-files",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        help="Write WebDataset shards, each of the outputs of N files of a folder, instead of a tree of files.",
    ),
    click.option(
        "--models",
        metavar="N",
        type=click.IntRange(min=1),
        help="Maximum number of models that run at once. [default: as many as the CPUs or GPUs hold]",
    ),
    click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(min=1),
        help="CPU threads of each model. [default: 4, or as many as the smallest machine has CPUs]",
    ),
    click.option(
        "--gpus",
        metavar="X",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        help="GPUs of each model; with 0.25 four models share one.",
    ),
    click.option(
        "--apart/--together",
        default=None,
        help="Whether processes of their own decode and encode, or each model's does so too. [default: --apart where "
        "GPUs compute]",
    ),
    click.option(
        "--cpus", metavar="N", type=click.IntRange(min=1), help="CPUs to use, with --ray local. [default: all]"
    ),
    click.option(
        "--object-store",
        metavar="MB",
        type=click.IntRange(min=80),
        help="Memory for pictures on their way between processes, with --ray local. [default: Ray's]",
    ),
    model_options,
    max_pixels_option(UNTRUSTED_MAX_PIXELS),
)


def _run(verb: "Verb", source: str, target: str, *, dry_run: bool, **options: Any) -> None:
    # What Ray says of lost workers would stand on stdout; the summary and the manifest say what came of them.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    from faitheir import bulk as library

    if options["object_store"] is not None:
        options["object_store"] *= 10**6
    chosen = cast(Any, {name: value for name, value in options.items() if value is not None})
    if dry_run:
        _show_estimate(library.estimate(verb, source, target, **chosen))
        return
    function = {"downscale": library.downscale, "upscale": library.upscale, "roundtrip": library.roundtrip}[verb]
    with _progress() as show:
        chosen["progress"] = show
        summary = function(source, target, **chosen)
    _show_summary(summary)


@contextmanager
def _progress() -> Iterator[Callable[["Summary"], None]]:
    """A bar on stderr where that is a terminal: files, megapixels per second, failures, time left."""
    with tqdm(unit="file", dynamic_ncols=True, disable=None) as bar:

        def show(summary: "Summary") -> None:
            if bar.disable:
                return
            if bar.total is None:
                bar.reset(summary.planned)
            rate = summary.pixels / 1e6 / max(summary.seconds, 1e-9)
            bar.set_postfix_str(f"{rate:.1f} MP/s, {summary.failed} failed", refresh=False)
            bar.update(summary.over - bar.n)

        yield show


def _show_summary(summary: "Summary") -> None:
    counts = [f"{summary.done} done"] if summary.done or summary.failed else []
    counts += [f"{summary.failed} failed"] if summary.failed else []
    counts += ["the rest not begun"] if summary.disk_full else []
    counts += [f"{summary.skipped} skipped, exist already; --overwrite to redo"] if summary.skipped else []
    click.echo(", ".join(counts) or "nothing to do")
    if summary.done:
        megapixels = summary.pixels / 1e6
        click.echo(
            f"{megapixels:.1f} MP in {summary.seconds:.1f} s, {megapixels / max(summary.seconds, 1e-9):.2f} MP/s; "
            f"{summary.bytes_before:,} -> {summary.bytes_after:,} bytes"
        )
    click.echo(printable(f"manifest: {summary.manifest}"))
    for path, text in summary.failures[:_SHOWN]:
        show_error(text if path is None or text.startswith(path) else f"{path}: {text}")
    if summary.failed > _SHOWN:
        show_error(f"{summary.failed - _SHOWN} more failed; the manifest says which, and why.")
    if summary.failed:
        click.get_current_context().exit(1)


def _show_estimate(found: "Estimate") -> None:
    click.echo(f"{found.files} to do, {found.bytes:,} bytes; {found.skipped} skipped, exist already")
    if found.sampled:
        click.echo(
            f"from {found.sampled} of them: {found.bytes_after:,.0f} bytes of outputs, {found.seconds / 3600:,.2f} h "
            f"with {found.models} models"
        )


@bulk.command(epilog=EPILOG)
@_bulk_options
@thumbnail_options()
@exif_option
def downscale(**options: Any) -> None:
    """Make thumbnail files from photographs, as `faitheir downscale` does."""
    _run("downscale", thumbnails=ThumbnailFiles.taken_from(options), **options)


@bulk.command(epilog=EPILOG)
@_bulk_options
@fidelity_option
@restored_options
def upscale(restored_format: str, restored_quality: int | None, **options: Any) -> None:
    """Restore full-size pictures from thumbnail files, as `faitheir upscale` does."""
    _run("upscale", format=restored_format, quality=restored_quality, **options)


@bulk.command(epilog=EPILOG)
@_bulk_options
@fidelity_option
@restored_options
@thumbnail_options("thumbnail-")
@exif_option
def roundtrip(restored_format: str, restored_quality: int | None, **options: Any) -> None:
    """Downscale, restore, and measure the error, as `faitheir roundtrip` does; figures are in the manifest."""
    files = ThumbnailFiles.taken_from(options)
    _run("roundtrip", thumbnails=files, format=restored_format, quality=restored_quality, **options)
