"""`faitheir downscale`, `upscale` and `roundtrip`: batches of pictures through a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faitheir.cli.jobs import Job, Outcome, PlanError, about, check_folders, find_inputs, plan, run
from faitheir.cli.options import EPILOG, batch_options, fidelity_option, model_options, show_error, stack
from faitheir.errors import ModelError, ThumbnailError
from faitheir.files import (
    RESTORED_MARK,
    SIDE_BY_SIDE_MARK,
    THUMBNAIL_MARK,
    base_name,
    select_photographs,
    select_thumbnails,
)
from faitheir.images import Picture, read_picture, write_picture
from faitheir.thumbnail import Thumbnail, ThumbnailInfo

if TYPE_CHECKING:
    from faitheir.evaluation.roundtrip import Figures
    from faitheir.pipeline import FaithEIRPipeline


_restored_options = stack(
    click.option(
        "--format",
        "suffix",
        type=click.Choice(["png", "jpg", "webp", "tiff"]),
        default="png",
        show_default=True,
        help="Of restored pictures.",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Of restored jpg and webp pictures. [default: 95 for jpg, lossless for webp]",
    ),
)


@dataclass
class _Models:
    """The pipelines that the options ask for, each opened once."""

    scale: str | None
    model: str | None
    device: str
    dtype: str
    tile: int | None
    base: Path | None
    fidelity: float = 0.0
    _opened: dict[str, "FaithEIRPipeline"] = field(default_factory=dict)

    def chosen(self) -> "FaithEIRPipeline":
        """The one that --model or --scale names, or the default."""
        from faitheir.models import DEFAULT_MODEL, find_model, read_config

        if self.scale is None or self.model is None:
            return self._open(self.model or (f"nano-x{self.scale}" if self.scale else DEFAULT_MODEL))
        scale = read_config(find_model(self.model)).codec.scale
        if scale != int(self.scale):
            raise PlanError(f"the model '{self.model}' is for scale {scale}, not --scale {self.scale}; leave one out.")
        return self._open(self.model)

    def for_thumbnail(self, info: ThumbnailInfo | None) -> "FaithEIRPipeline":
        """The one that --model names, or else the thumbnail, or else `chosen`."""
        from faitheir.models import embedded_models

        if info is None or self.model is not None:
            return self.chosen()
        if self.scale not in (None, str(info.scale)):
            raise ThumbnailError(f"the thumbnail was made at scale {info.scale}; leave --scale {self.scale} out.")
        # Only these: a file's metadata must not choose what is read from this disk or from the network.
        if info.model not in embedded_models():
            raise ModelError(
                f"the thumbnail was made by the model '{info.model}', which is not in this package; "
                "give that model's folder or Hub id with --model."
            )
        return self._open(info.model)

    def _open(self, source: str) -> "FaithEIRPipeline":
        from faitheir.devices import keep_freed_memory
        from faitheir.pipeline import FaithEIRPipeline

        if source not in self._opened:
            keep_freed_memory()
            self._opened[source] = FaithEIRPipeline.from_pretrained(
                source,
                base=self.base,
                device=self.device,
                dtype=self.dtype,
                tile=self.tile,
                fidelity=self.fidelity,
            )
        return self._opened[source]


def _batch(
    jobs: Sequence[Job],
    overwrite: bool,
    prepare: Callable[[], Callable[[Job], str | None]],
    conclude: Callable[[], str | None] = lambda: None,
) -> None:
    """Do the jobs whose outputs are not there, with the work that ``prepare`` gives; failures come last."""
    pending = [job for job in jobs if overwrite or not job.done]
    check_folders(pending)
    outcome = run(pending, prepare()) if pending else Outcome()  # no model is loaded for nothing
    if (conclusion := conclude()) is not None:
        click.echo(conclusion)
    skipped = len(jobs) - len(pending)
    counts = [f"{outcome.done} done"] if pending else []
    counts += [f"{len(outcome.failures)} failed"] if outcome.failures else []
    counts += [f"{skipped} skipped, exist already; --overwrite to redo"] if skipped else []
    if len(jobs) > 1 or skipped:
        click.echo(", ".join(counts))
    for path, text in outcome.failures:
        show_error(about(path, text))
    if outcome.failures:
        click.get_current_context().exit(1)


@click.command(epilog=EPILOG)
@batch_options
@model_options
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "webp"]),
    default="png",
    show_default=True,
    help="Of thumbnails.",
)
def downscale(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    suffix: str,
    **options: Any,
) -> None:
    """Make thumbnail files of photographs.

    INPUTS are pictures and folders. photo.jpg gives photo.thumb.png, an ordinary picture that holds what
    `faitheir upscale` needs. In folders, files named like outputs (NAME.thumb.png, NAME.restored.png,
    NAME.roundtrip.png) and hidden ones are passed over.
    """
    found = find_inputs(inputs, recursive=recursive, select=select_photographs)
    jobs = plan(found, lambda path: [f"{path.stem}{THUMBNAIL_MARK}.{suffix}"], output)

    def prepare() -> Callable[[Job], str | None]:
        pipeline = _Models(**options).chosen()

        def work(job: Job) -> str | None:
            picture = read_picture(job.source)
            thumbnail = pipeline.downscale_picture(picture)
            target = job.outputs[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            thumbnail.save(target)
            sizes = f"{_size(picture)} -> {_size(thumbnail.picture)}, {target.stat().st_size:,} bytes"
            return f"{target}  {sizes}" if len(jobs) == 1 else None

        return work

    _batch(jobs, overwrite, prepare)


@click.command(epilog=EPILOG)
@batch_options
@model_options
@fidelity_option
@_restored_options
def upscale(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    suffix: str,
    quality: int | None,
    **options: Any,
) -> None:
    """Restore full-size pictures from thumbnail files.

    INPUTS are thumbnails and folders. photo.thumb.png gives photo.restored.png. In folders, the files
    NAME.thumb.png and NAME.thumb.webp are taken; where there are none, every picture.

    A thumbnail names the model that made it, and that one is used unless --model names another. Where this
    was stripped from the file, the size is that of the thumbnail times the scale.
    """
    _check_quality(suffix, quality)
    found = find_inputs(inputs, recursive=recursive, select=select_thumbnails)
    jobs = plan(found, lambda path: [f"{base_name(path)}{RESTORED_MARK}.{suffix}"], output)

    def prepare() -> Callable[[Job], str | None]:
        models = _Models(**options)
        if models.model is not None:
            models.chosen()  # what is wrong with it is no file's fault

        def work(job: Job) -> str | None:
            thumbnail = Thumbnail.open(job.source)
            picture = models.for_thumbnail(thumbnail.info).upscale_thumbnail(thumbnail)
            target = job.outputs[0]
            target.parent.mkdir(parents=True, exist_ok=True)
            write_picture(target, picture, quality=quality)
            sizes = f"{_size(thumbnail.picture)} -> {_size(picture)}, {target.stat().st_size:,} bytes"
            return f"{target}  {sizes}" if len(jobs) == 1 else None

        return work

    _batch(jobs, overwrite, prepare)


def _figure_lines(figures: "Figures") -> list[str]:
    ssim = "not defined below 11 x 11 pixels" if math.isnan(figures.ssim) else f"{figures.ssim:.4f}"
    return [
        f"  bits per pixel  {figures.bits_per_pixel:.4f}",
        f"  restored        PSNR {figures.psnr:.2f} dB   SSIM {ssim}",
        f"  bicubic         PSNR {figures.psnr_bicubic:.2f} dB, down and up at the same scale",
        f"  thumbnail       PSNR {figures.psnr_thumbnail:.2f} dB against the bicubic thumbnail",
        f"  seconds         {figures.seconds_down:.2f} down   {figures.seconds_up:.2f} up",
    ]


@click.command(epilog=EPILOG)
@batch_options
@model_options
@fidelity_option
@_restored_options
def roundtrip(
    inputs: tuple[Path, ...],
    recursive: bool,
    output: Path | None,
    overwrite: bool,
    suffix: str,
    quality: int | None,
    **options: Any,
) -> None:
    """Downscale, restore from the file, and measure how close it comes.

    INPUTS are pictures and folders. photo.jpg gives photo.thumb.png, photo.restored.png and, to look at,
    photo.roundtrip.png: the original, the thumbnail enlarged, and the restored picture side by side. In
    folders, files named like these and hidden ones are passed over.
    """
    _check_quality(suffix, quality)
    found = find_inputs(inputs, recursive=recursive, select=select_photographs)
    endings = (f"{THUMBNAIL_MARK}.png", f"{RESTORED_MARK}.{suffix}", f"{SIDE_BY_SIDE_MARK}.png")
    jobs = plan(found, lambda path: [f"{path.stem}{ending}" for ending in endings], output)
    measured: list[Figures] = []

    def prepare() -> Callable[[Job], str | None]:
        from faitheir.evaluation.roundtrip import round_trip

        pipeline = _Models(**options).chosen()

        def work(job: Job) -> str:
            picture = read_picture(job.source)
            thumbnail_path, restored_path, sheet_path = job.outputs
            thumbnail_path.parent.mkdir(parents=True, exist_ok=True)
            figures, thumbnail, restored = round_trip(
                pipeline, picture, (thumbnail_path, restored_path, sheet_path), quality=quality
            )
            measured.append(figures)
            rows = (
                ("original", picture, job.source),
                ("thumbnail", thumbnail, thumbnail_path),
                ("restored", restored, restored_path),
            )
            lines = [f"  {n:<14}{_size(p):>16} {q.stat().st_size:>14,} bytes   {q}" for n, p, q in rows]
            return "\n".join([str(job.source), *lines, *_figure_lines(figures)])

        return work

    def conclude() -> str | None:
        from faitheir.evaluation.roundtrip import Figures

        if len(measured) < 2:
            return None
        return "\n".join([f"mean of {len(measured)} files", *_figure_lines(Figures.mean(measured))])

    _batch(jobs, overwrite, prepare, conclude)


def _check_quality(suffix: str, quality: int | None) -> None:
    if quality is not None and suffix not in ("jpg", "webp"):
        raise PlanError(f"--quality is for jpg and webp, and {suffix} is lossless; leave it out or choose --format.")


def _size(picture: Picture) -> str:
    return f"{picture.width} x {picture.height}"
