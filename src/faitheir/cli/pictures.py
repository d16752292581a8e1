"""`faitheir downscale`, `upscale` and `roundtrip`: batches of pictures through a model."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faitheir.batches import (
    RestoredFormat,
    ThumbnailFiles,
    check_quality,
    memory_for,
    open_pipelines,
    pipeline_to_restore,
    restored_naming,
    restored_size,
    round_trip_naming,
    thumbnail_naming,
)
from faitheir.cli.jobs import Group, Job, find_inputs, plan, run
from faitheir.cli.messages import about, show_error
from faitheir.cli.options import (
    EPILOG,
    batch_options,
    exif_option,
    fidelity_option,
    max_pixels_option,
    model_options,
    restored_options,
    runtime_option,
)
from faitheir.cli.thumbnails import exif_note, thumbnail_options
from faitheir.images import ExifMode, Picture, frame_count, read_picture, write_picture
from faitheir.thumbnail import Thumbnail

if TYPE_CHECKING:
    from faitheir.evaluation.roundtrip import RoundTrip
    from faitheir.pipeline import FaithEIRPipeline


_all_frames_option = click.option(
    "--all-frames",
    is_flag=True,
    help="Process every frame or page of animated and multi-page files; photo.gif gives photo.001.thumb.avif and "
    "so on. [default: the first]",
)


def _batch(
    groups: Iterable[Group],
    prepare: Callable[[], Callable[[Job], str]],
    conclude: Callable[[], str | None] = lambda: None,
    *,
    show_each: bool = False,
) -> None:
    """Do the jobs with the work that ``prepare`` gives, and say what became of them; failures come last."""
    outcome = run(groups, prepare, show_each=show_each)
    if (conclusion := conclude()) is not None:
        click.echo(conclusion)
    tried = outcome.done or outcome.failures or outcome.elsewhere
    counts = [f"{outcome.done} done"] if tried else []
    counts += [f"{outcome.elsewhere} done by another process"] if outcome.elsewhere else []
    counts += [f"{len(outcome.failures)} failed"] if outcome.failures else []
    counts += ["the rest not begun"] if outcome.disk_full else []
    counts += [f"{outcome.skipped} skipped, exist already; --overwrite to redo"] if outcome.skipped else []
    if not outcome.single or outcome.skipped or outcome.elsewhere:
        click.echo(", ".join(counts))
    for path, text in outcome.failures:
        show_error(text if path is None else about(path, text))
    if outcome.failures:
        click.get_current_context().exit(1)


@click.command(epilog=EPILOG)
@batch_options
@model_options
@runtime_option
@max_pixels_option()
@_all_frames_option
@thumbnail_options()
@exif_option
def downscale(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    all_frames: bool,
    exif: ExifMode,
    **options: Any,
) -> None:
    """Make thumbnail files from photographs.

    INPUTS are pictures and folders. photo.jpg becomes photo.thumb.avif, an ordinary picture file that
    `faitheir upscale` restores. In folders, hidden files and files named like outputs (NAME.thumb.avif,
    NAME.restored.png, NAME.roundtrip.png) are skipped. Several processes may share a folder.

    With --bytes or --bpp the format that gives the best quality is chosen for each photograph.
    """
    files = ThumbnailFiles.taken_from(options)
    naming = thumbnail_naming(files)
    found = find_inputs(inputs, naming, recursive=recursive)
    frames = frame_count if all_frames else None
    groups = plan(found, naming, output=output, overwrite=overwrite, frames=frames)

    def prepare() -> Callable[[Job], str]:
        pipelines = open_pipelines(**options)
        pipelines.for_thumbnail()  # what is wrong with it is no file's fault

        def work(job: Job) -> str:
            picture = read_picture(job.source, max_pixels=options["max_pixels"], frame=job.frame)

            def made(pipeline: "FaithEIRPipeline") -> tuple[Thumbnail, Path]:
                thumbnail = pipeline.downscale_picture(picture, exif=exif)
                return thumbnail, files.save(thumbnail, job.outputs[0])

            with memory_for(picture.width, picture.height):
                thumbnail, target = files.first_that_fits(pipelines, options["scale"], made)
            job.keep_only(target)
            sizes = f"{_size(picture)} -> {_size(thumbnail.picture)}, {target.stat().st_size:,} bytes"
            return f"{target}  {sizes}{exif_note(thumbnail, target)}"

        return work

    _batch(groups, prepare)


@click.command(epilog=EPILOG)
@batch_options
@model_options
@runtime_option
@max_pixels_option()
@fidelity_option
@restored_options
def upscale(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    restored_format: RestoredFormat,
    restored_quality: int | None,
    **options: Any,
) -> None:
    """Restore full-size pictures from thumbnail files.

    INPUTS are thumbnails and folders. photo.thumb.avif becomes photo.restored.png. In folders, files named
    like thumbnails (NAME.thumb.avif) are restored; if there are none, every picture is. Several processes may
    share a folder.

    The model that made a thumbnail restores it, unless --model names another. A thumbnail without metadata
    is restored by the default model, to its own size times the scale.
    """
    check_quality(restored_format, restored_quality)
    naming = restored_naming(restored_format)
    groups = plan(find_inputs(inputs, naming, recursive=recursive), naming, output=output, overwrite=overwrite)

    def prepare() -> Callable[[Job], str]:
        pipelines = open_pipelines(**options)
        if pipelines.model is not None:
            pipelines.for_thumbnail()  # what is wrong with it is no file's fault

        def work(job: Job) -> str:
            (target,) = job.outputs
            thumbnail = Thumbnail.open(job.source, max_pixels=pipelines.options["max_pixels"])
            pipeline = pipeline_to_restore(pipelines, thumbnail, options["scale"])
            with memory_for(*restored_size(pipeline, thumbnail)):
                picture = pipeline.upscale_thumbnail(thumbnail)
                write_picture(target, picture, quality=restored_quality)
            return f"{target}  {_size(thumbnail.picture)} -> {_size(picture)}, {target.stat().st_size:,} bytes"

        return work

    _batch(groups, prepare)


def _figure_lines(figures: Mapping[str, float]) -> list[str]:
    ssim = figures.get("ssim", math.nan)
    return [
        f"  bits per pixel  {figures['bits_per_pixel']:.4f}",
        f"  restored        PSNR {figures['psnr']:.2f} dB   SSIM "
        + ("not defined below 11 x 11 pixels" if math.isnan(ssim) else f"{ssim:.4f}"),
        f"  bicubic         PSNR {figures['psnr_bicubic']:.2f} dB, down and up at the same scale",
        f"  thumbnail       PSNR {figures['psnr_thumbnail']:.2f} dB against the bicubic thumbnail",
        f"  seconds         {figures['seconds_down']:.2f} down   {figures['seconds_up']:.2f} up",
    ]


@click.command(epilog=EPILOG)
@batch_options
@model_options
@runtime_option
@max_pixels_option()
@_all_frames_option
@fidelity_option
@restored_options
@thumbnail_options("thumbnail-")
@exif_option
def roundtrip(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    all_frames: bool,
    exif: ExifMode,
    restored_format: RestoredFormat,
    restored_quality: int | None,
    **options: Any,
) -> None:
    """Downscale, restore, and measure the error.

    INPUTS are pictures and folders. photo.jpg gives photo.thumb.avif, photo.restored.png and
    photo.roundtrip.png, which shows the original, the enlarged thumbnail and the restored picture side by
    side. Everything is measured from the files. In folders, hidden files and files named like outputs are
    skipped.
    """
    check_quality(restored_format, restored_quality)
    files = ThumbnailFiles.taken_from(options)
    naming = round_trip_naming(files, restored_format)
    found = find_inputs(inputs, naming, recursive=recursive)
    frames = frame_count if all_frames else None
    groups = plan(found, naming, output=output, overwrite=overwrite, frames=frames)
    measured: list[dict[str, float]] = []

    def prepare() -> Callable[[Job], str]:
        from faitheir.evaluation.roundtrip import round_trip

        pipelines = open_pipelines(**options)
        pipelines.for_thumbnail()  # what is wrong with it is no file's fault

        def work(job: Job) -> str:
            picture = read_picture(job.source, max_pixels=options["max_pixels"], frame=job.frame)
            *_, restored_path, sheet_path = job.outputs

            def made(pipeline: "FaithEIRPipeline") -> "RoundTrip":
                outputs = (job.outputs[0], restored_path, sheet_path)
                return round_trip(pipeline, picture, outputs, quality=restored_quality, encode=files.encode, exif=exif)

            with memory_for(picture.width, picture.height):
                figures, thumbnail, restored, thumbnail_path = files.first_that_fits(pipelines, options["scale"], made)
            job.keep_only(thumbnail_path)
            measured.append(figures)
            rows = (
                ("original", picture, job.source, ""),
                ("thumbnail", thumbnail.picture, thumbnail_path, exif_note(thumbnail, thumbnail_path)),
                ("restored", restored, restored_path, ""),
            )
            lines = [f"  {n:<14}{_size(p):>16} {q.stat().st_size:>14,} bytes{note}   {q}" for n, p, q, note in rows]
            return "\n".join([str(job.source), *lines, *_figure_lines(figures)])

        return work

    def conclude() -> str | None:
        from faitheir.evaluation.results import means

        if len(measured) < 2:
            return None
        return "\n".join([f"mean of {len(measured)} files", *_figure_lines(means(measured))])

    _batch(groups, prepare, conclude, show_each=True)


def _size(picture: Picture) -> str:
    return f"{picture.width} x {picture.height}"
