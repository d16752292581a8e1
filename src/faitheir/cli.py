"""The command line: thin verbs over the package. torch is imported by the commands, never for their help."""

import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from faitheir.errors import ModelError, ThumbnailError, TrainingStopped, one_line, reason
from faitheir.files import (
    RESTORED_MARK,
    SIDE_BY_SIDE_MARK,
    THUMBNAIL_MARK,
    base_name,
    select_photographs,
    select_thumbnails,
)
from faitheir.images import Picture, read_picture, write_picture
from faitheir.jobs import (
    Job,
    Outcome,
    PlanError,
    about,
    check_folders,
    find_inputs,
    plan,
    printable,
    run,
)
from faitheir.thumbnail import Thumbnail, ThumbnailInfo

if TYPE_CHECKING:
    from faitheir.comparison.compare import Measuring
    from faitheir.comparison.systems import Setting
    from faitheir.evaluation.results import SystemResult
    from faitheir.evaluation.roundtrip import Figures
    from faitheir.models import ModelConfig
    from faitheir.pipeline import FaithEIRPipeline

F = TypeVar("F", bound=Callable[..., Any])

_EPILOG = """Exit status: 0, all was done; 1, something failed (the other files were done all the same); 2,
nothing was begun, because the options, the inputs or the outputs cannot be as given; 130, interrupted."""


class _Commands(click.Group):
    """Shows every error as one line, never as a traceback, and gives it an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.Abort:
            click.echo("faitheir: interrupted.", err=True)
            status = 130
        except (click.ClickException, PlanError) as error:
            _show_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
            status = 2
        except TrainingStopped as error:
            click.echo(printable(f"faitheir: {error}"), err=True)
            status = error.status
        except Exception as error:
            if os.environ.get("FAITHEIR_TRACEBACK"):  # for those who look for a fault in FaithEIR itself
                raise
            _show_error(reason(error))
            status = 1
        sys.exit(status if isinstance(status, int) else 0)


def _show_error(text: str) -> None:
    click.echo(printable(f"faitheir: error: {one_line(text)}"), err=True)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="faitheir", message="%(package)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """A photograph to a thumbnail file 16 or 32 times smaller per side, and back from that file alone.

    The detail that comes back is generated: it is plausible, not recorded. Do not use it as evidence, for
    documents, or to identify anyone.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_recursive_option = click.option("-r", "--recursive", is_flag=True, help="Look into folders inside folders.")

_batch_options = _options(
    click.argument("inputs", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)),
    _recursive_option,
    click.option(
        "-o",
        "--output",
        metavar="DIR",
        type=click.Path(readable=False, path_type=Path),
        help="Write into this folder, which is created where it is missing and gets the folder structure of "
        "a folder that is read; otherwise outputs go beside their inputs.",
    ),
    click.option("--overwrite", is_flag=True, help="Do again what exists already, instead of skipping it."),
)


def _compute_options(*, dtype: str) -> Callable[[F], F]:
    """``dtype``: the default. What is made for people is made fast; what is measured must be the same everywhere."""
    return _options(
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Where to compute; auto: a GPU if there is one.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
            default=dtype,
            show_default=True,
            help="Precision; auto: bfloat16 where the device is fast in it.",
        ),
        click.option(
            "--tile",
            metavar="PIXELS",
            type=click.IntRange(min=1),
            help="Side of the tiles a large picture is done in, in pixels of the full-size picture; smaller "
            "tiles take less memory. [default: the model's]",
        ),
        click.option(
            "--base",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="A local folder of SD-Turbo's weights, for turbo models. [default: the Hugging Face Hub]",
        ),
    )


_model_options = _options(
    click.option("--scale", type=click.Choice(["16", "32"]), help="Use the embedded model for this scale."),
    click.option("--model", metavar="MODEL", help="An embedded model, a model's folder, or a Hub id owner/name."),
    _compute_options(dtype="auto"),
)

_measure_options = _options(
    click.option(
        "--protocol",
        default="paper",
        show_default=True,
        help="paper, hific-256, luma, or luma-N for another border; docs/evaluation.md describes them.",
    ),
    click.option("--metrics", metavar="NAME,...", help="Only these, such as psnr,ssim,fid. [default: the protocol's]"),
    click.option(
        "--weights",
        metavar="NETWORK=PATH",
        multiple=True,
        help="A local file of a metric's network (alexnet, vgg16, inception, musiq, squeezenet), which its library "
        "would fetch otherwise. May be given several times.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Patches measured at once."
    ),
    click.option(
        "--thumbnail-format",
        "thumbnail_suffix",
        type=click.Choice(["webp", "png"]),
        default="webp",
        show_default=True,
        help="Of the thumbnails that are made; both are lossless.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="DIR",
        type=click.Path(readable=False, path_type=Path),
        default=Path("evaluation"),
        show_default=True,
        help="For results, tables, plots, report and what is computed on the way; a run that stopped goes on there.",
    ),
)

_table_options = _options(
    click.option(
        "--published",
        metavar="DATASET",
        help="Show the paper's figures for it (DIV2K-val, LSDIR-val, CLIC2020), too: published, not measured.",
    ),
    click.option(
        "--pictures",
        type=click.IntRange(min=1),
        default=24,
        show_default=True,
        help="At most so many photographs are put into the report.",
    ),
)

_restored_options = _options(
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

_fidelity_option = click.option(
    "--fidelity",
    metavar="0..1",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="How to restore, from the same thumbnail: 0 is the most natural picture, 1 the truest, with least made up.",
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
        _show_error(about(path, text))
    if outcome.failures:
        click.get_current_context().exit(1)


@main.command(epilog=_EPILOG)
@_batch_options
@_model_options
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


@main.command(epilog=_EPILOG)
@_batch_options
@_model_options
@_fidelity_option
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


@main.command(epilog=_EPILOG)
@_batch_options
@_model_options
@_fidelity_option
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


@main.command(epilog=_EPILOG)
@click.option(
    "--hr", metavar="DIR", required=True, type=click.Path(path_type=Path), help="The originals, as photographs."
)
@click.option("--model", metavar="MODEL", help="Measure this: an embedded model, a model's folder, or a Hub id.")
@click.option(
    "--restored",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Measure these instead: what any program restored, by the names of the originals.",
)
@click.option(
    "--thumbnails", metavar="DIR", type=click.Path(path_type=Path), help="With --restored: what it came from."
)
@click.option("--name", help="What tables call the system. [default: the model's name, or the folder's]")
@click.option(
    "--scale",
    type=click.IntRange(2, 256),
    help="With --restored: that of the thumbnails, where it cannot be told from them.",
)
@_measure_options
@_table_options
@_fidelity_option
@_compute_options(dtype="float32")
def evaluate(
    hr: Path,
    model: str | None,
    restored: Path | None,
    thumbnails: Path | None,
    name: str | None,
    scale: int | None,
    published: str | None,
    pictures: int,
    output: Path,
    fidelity: float,
    **options: Any,
) -> None:
    """Measure a model, or what any program restored, against the originals.

    A model is measured through its thumbnail files. Restored pictures pair with the originals by their names
    without suffix, and must be of their size. Results go to DIR/NAME.json, and into tables, plots and a report
    with the other systems measured there before.
    """
    if (model is None) == (restored is None):
        raise PlanError("give either --model, or --restored with a folder of restored pictures.")
    if model is None and fidelity:
        raise PlanError("--fidelity is for --model; restored pictures are measured as they are.")
    if model is not None and (thumbnails is not None or scale is not None):
        raise PlanError("--thumbnails and --scale are for --restored; a model makes its thumbnails itself.")

    from faitheir.comparison.compare import compare, write_comparison
    from faitheir.comparison.methods import Spec
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.results import file_stem, read_results

    folders = ":".join(str(path) for path in (restored, thumbnails) if path is not None)
    if model is not None:
        spec = Spec("model", model, label=name, fidelity=fidelity)
    else:
        spec = Spec("restored", folders, label=name)
    setting, measuring = _measuring(**options)
    try:
        rows = _published(published)
        _check_output(output)
        if restored is not None:
            _check_name(output / f"{file_stem(name or restored.name)}.json", str(restored))
        (result,) = compare(hr, [spec], output, setting=setting, scale=scale, measuring=measuring)
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    click.echo("\n".join(printable(line) for line in _result_lines(result)))
    results, title = read_results(output), f"FaithEIR: {output.absolute().name}"
    rows = _of_scales(rows, results)
    files, problems = write_comparison(output, [*results, *rows], title=title, pictures=pictures)
    _conclude([result], [output / f"{file_stem(result.system)}.json", *files], problems)


def _measuring(
    protocol: str, metrics: str | None, weights: tuple[str, ...], batch: int, thumbnail_suffix: str, **compute: Any
) -> "tuple[Setting, Measuring]":
    """What `_measure_options` and `_compute_options` say."""
    from faitheir.comparison.compare import Measuring
    from faitheir.comparison.systems import Setting
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.evaluate import check_request

    files = {}
    for text in weights:
        network, equals, path = text.partition("=")
        if not (equals and network and path):
            raise PlanError(f"--weights {text} is not NETWORK=PATH, such as --weights vgg16=vgg16.pth.")
        files[network] = Path(path)
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    try:
        check_request(protocol, names, files)
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    setting = Setting(protocol=protocol, weights=files, suffix=f".{thumbnail_suffix}", **compute)
    return setting, Measuring(names, batch)


def _published(dataset: str | None) -> "list[SystemResult]":
    """The paper's rows for a data set; EvaluationError for one that it has not."""
    from faitheir.comparison.published import published_results

    return [] if dataset is None else published_results(1, dataset=dataset)


def _of_scales(rows: "list[SystemResult]", results: "Sequence[SystemResult]") -> "list[SystemResult]":
    """The rows at the scales that were measured; all of them where there is none."""
    scales = {result.scale for result in results}
    return [row for row in rows if row.scale in scales] or rows


def _check_name(path: Path, folder: str) -> None:
    """PlanError where the result of another folder of that name would be replaced."""
    from faitheir.evaluation.results import read_result

    if path.is_file() and (other := read_result(path).about.get("folder", folder)) != folder:
        raise PlanError(f"{path} is the result of {other}; give {folder} another name with --name.")


def _check_output(output: Path) -> None:
    """PlanError where nothing could be written; creates the folder otherwise."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"{output} cannot be written to ({error.strerror}); choose another with -o.") from None


def _result_lines(result: "SystemResult") -> Iterable[str]:
    """A system's means, with what must be known to read them."""
    from faitheir.evaluation.metrics import METRICS

    yield f"{result.system}: means of {len(result.pictures)} pictures, protocol {result.protocol}"
    for key, metric in METRICS.items():
        if key in result.summary:
            value = f"{result.summary[key]:,.{metric.digits}f} {metric.unit}".strip()
        elif key in result.missing:
            value = f"missing: {result.missing[key]}"
        else:
            continue
        caution = f"   ({result.warnings[key]})" if key in result.warnings else ""
        yield f"  {metric.label:<20} {value}{caution}"


def _conclude(results: "Sequence[SystemResult]", files: Sequence[Path], problems: Sequence[str]) -> None:
    """Say where everything is and what failed; exit with 1 where a picture did."""
    for path in files:
        click.echo(printable(f"written: {path}"))
    for problem in problems:
        click.echo(printable(f"faitheir: warning: {one_line(problem)}"), err=True)
    failed = [(result.system, picture) for result in results for picture in result.pictures if picture.error]
    for system, picture in failed:
        _show_error(f"{system}, {picture.picture}: {picture.error}")
    if failed:
        click.get_current_context().exit(1)


@main.command(epilog=_EPILOG)
@click.argument("systems", nargs=-1)
@click.option(
    "--hr", metavar="DIR", required=True, type=click.Path(path_type=Path), help="The originals, as photographs."
)
@click.option(
    "--methods",
    metavar="SYSTEM,...",
    multiple=True,
    help="Systems to compare, as the arguments are; the two add up.",
)
@click.option(
    "--scale",
    type=click.IntRange(2, 256),
    help="Of thumbnails that are not a model's. [default: the target's, or 16]",
)
@click.option(
    "--target", metavar="NAME", help="The system whose bytes and values codecs are held to. [default: the first model]"
)
@click.option(
    "--ablation",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Compare the trained runs in this folder instead, as the paper's Tables 2 and 3 do.",
)
@_measure_options
@_table_options
@_compute_options(dtype="float32")
def compare(
    systems: tuple[str, ...],
    hr: Path,
    methods: tuple[str, ...],
    scale: int | None,
    target: str | None,
    published: str | None,
    ablation: Path | None,
    pictures: int,
    output: Path,
    **options: Any,
) -> None:
    """Compare systems over the same photographs, under one protocol, in one table.

    SYSTEMS, separated by spaces or commas; NAME= before one is what tables are to call it:

    \b
    nano-x16, model:FOLDER          a model, through its thumbnail file
    nano-x16@1, model:FOLDER@1      the same, restored at that fidelity, 0 to 1
    bicubic, lanczos                a thumbnail made and enlarged by Pillow
    jpeg, jpeg@bytes                jpeg, webp, avif or jpegxl in at most the bytes of the
                                    target's file; reduced first where it cannot go so low
    jpeg@bytes-reduced              the same, reduced first wherever that is better
    jpeg@psnr                       in the fewest bytes that reach the target's value of
                                    psnr, ssim, lpips_alex, lpips_vgg, dists or
                                    squeezenet_distance
    sr:CHECKPOINT                   a super-resolution network over a bicubic thumbnail
    cmd:'PROGRAM {input} {output}'  a program over a folder of bicubic thumbnails
    restored:DIR[:THUMBNAILS]       what another program left already

    All files that are made, results, tables, plots and a report go into the folder of -o; a run that stopped
    goes on there. docs/peers.md has recipes for other people's systems.
    """  # noqa: D301 (click wants the character)
    if (ablation is None) == (not systems and not methods):
        raise PlanError("name the systems to compare (--methods nano-x16,bicubic,jpeg@bytes), or give --ablation.")
    from faitheir.comparison.ablation import ABLATION_METRICS, ablation_runs, ablation_tables, write_ablation
    from faitheir.comparison.compare import compare as run_comparison
    from faitheir.comparison.compare import write_comparison
    from faitheir.comparison.methods import parse_methods
    from faitheir.comparison.tables import tabulate, to_markdown
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.results import file_stem

    setting, measuring = _measuring(**options)
    try:
        runs = [] if ablation is None else ablation_runs(ablation)
        specs = [run.spec for run in runs] or parse_methods([*methods, *systems])
        if runs and measuring.metrics is None:
            measuring = replace(measuring, metrics=[name for name in ABLATION_METRICS[3] if name != "lpips"])
        rows = _published(published)
        _check_output(output)
        results = run_comparison(
            hr,
            specs,
            output,
            setting=setting,
            scale=scale,
            target=target,
            measuring=measuring,
            done=lambda result: click.echo(printable(f"measured: {result.system}")),
        )
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    rows = _of_scales(rows, results)
    title = f"FaithEIR: {hr.absolute().name}"
    files, problems = write_comparison(output, [*results, *rows], title=title, pictures=pictures)
    tables = ablation_tables(runs, results) if runs else {}
    files = [output / f"{file_stem(result.system)}.json" for result in results] + files + write_ablation(output, tables)
    for number, shown in (tables or {0: [*results, *rows]}).items():
        click.echo(printable(to_markdown(tabulate(shown, ABLATION_METRICS.get(number), title))))
    _conclude(results, files, problems)


@main.command(epilog=_EPILOG)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    required=True,
    type=click.Path(readable=False, path_type=Path),
    help="For tables, plots and the report.",
)
@click.option("--metrics", metavar="NAME,...", help="Only these, in this order. [default: all that were measured]")
@click.option("--title", default="FaithEIR: comparison", show_default=True)
@click.option(
    "--crop",
    "crops",
    metavar="PICTURE[@X,Y]",
    multiple=True,
    help="Draw a sheet of crops, too, with a row for this photograph: its part from (X, Y), or the one with the "
    "strongest edges. May be given several times.",
)
@click.option("--crop-size", type=click.IntRange(16, 1024), default=128, show_default=True, help="In pixels.")
@_table_options
def report(
    results: tuple[Path, ...],
    output: Path,
    metrics: str | None,
    title: str,
    crops: tuple[str, ...],
    crop_size: int,
    published: str | None,
    pictures: int,
) -> None:
    """Write tables, plots and the report of what was measured before, without measuring anything.

    RESULTS are the JSON files of `faitheir evaluate` and `faitheir compare`, in the order of the tables, and
    folders of them. The photographs and what came back of them are read from where they were then.
    """
    from faitheir.comparison.compare import write_comparison
    from faitheir.comparison.sheets import crop_sheet
    from faitheir.comparison.tables import metrics_of
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.results import read_result

    try:
        sources: dict[Path, Path] = {}
        for path in results:
            for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
                sources.setdefault(file.resolve(), file)  # one that is named to come first may be in a folder, too
        found = [read_result(file) for file in sources.values()]
        if not found:
            raise PlanError(f"{results[0]} has no results (*.json) in it; give the folder of -o of `faitheir compare`.")
        rows = [*found, *_of_scales(_published(published), found)]
        names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
        metrics_of(rows, names)
        _check_output(output)
        places = dict(_crop_place(text) for text in crops)
        sheet = crop_sheet(found, places, size=crop_size) if places else None
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    files, problems = write_comparison(output, rows, metrics=names, title=title, pictures=pictures)
    if sheet is not None:
        files.append(output / "crops.png")
        write_picture(files[-1], sheet)
    _conclude([], files, problems)


def _crop_place(text: str) -> tuple[str, tuple[int, int] | None]:
    """The photograph and the place that --crop names; a name may have an @ in it."""
    name, at, place = text.rpartition("@")
    numbers = place.split(",")
    if at and len(numbers) == 2 and all(number.strip().isdecimal() for number in numbers):
        return name, (int(numbers[0]), int(numbers[1]))
    return text, None


@main.command(epilog=_EPILOG)
@click.argument("targets", nargs=-1)
@_recursive_option
@click.option(
    "--complexity",
    is_flag=True,
    help="Measure models instead: seconds down and up, parameters, multiply-accumulates, peak memory.",
)
@click.option("--size", metavar="WxH", help="With --complexity: of the picture, in pixels. [default: 2040x1356]")
@_compute_options(dtype="float32")
def info(targets: tuple[str, ...], recursive: bool, complexity: bool, size: str | None, **options: Any) -> None:
    """Describe models and thumbnails, or list the models known.

    TARGETS are names of models, Hub ids owner/name, folders of a model, thumbnail files, and folders of
    thumbnails; without any, the known models are listed. A known model whose weights are not here, such as
    turbo-x16, is described without downloading anything.

    With --complexity TARGETS are models, each measured in a process of its own; --device, --dtype, --tile and
    --base are for that.
    """
    if complexity:
        _measure_complexity(targets, size or "2040x1356", options)
        return
    if size is not None:
        raise PlanError("--size is for --complexity.")
    if not targets:
        click.echo(_list_models())
    failed = False
    for index, target in enumerate(targets):
        try:
            for part in _describe(target, recursive):
                click.echo(printable(part))
        except Exception as error:  # one target's failure does not stop the rest
            _show_error(about(Path(target), reason(error)))
            failed = True
        if index < len(targets) - 1:
            click.echo()
    if failed:
        click.get_current_context().exit(1)


def _measure_complexity(targets: Sequence[str], size: str, options: dict[str, Any]) -> None:
    """Print a row for each model, in the form of the paper's Table 4."""
    width, times, height = size.lower().partition("x")
    if not (times and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise PlanError(f"--size {size} is not WIDTHxHEIGHT, such as 2040x1356.")
    if not targets:
        raise PlanError("name the models to measure, such as nano-x16.")

    from faitheir.evaluation.complexity import complexity

    rows, notes = [], []
    for target in targets:
        found = complexity(target, (int(width), int(height)), **options)
        rows.append(
            f"| {found.model} | {found.seconds_down:.4f} | {found.seconds_up:.4f} | {found.parameters / 1e6:,.2f} | "
            f"{found.macs_down / 1e9:,.1f} | {found.macs_up / 1e9:,.1f} | {found.peak_mib:,.0f} |"
        )
        if found.random_weights:
            notes.append(f"{found.model}: its weights are not here; random ones took their place.")
    where = (
        "allocated on the GPU" if found.device not in ("cpu", "mps") else "of the process, Python and torch included"
    )
    click.echo(f"One picture of {width} x {height} pixels; {found.device}, {found.dtype}; the best of two runs.\n")
    click.echo("| model | down, s | up, s | parameters, M | MACs down, G | MACs up, G | peak memory, MiB |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    click.echo("\n".join(printable(row) for row in rows))
    click.echo(
        f"\nMACs: of convolutions, matrix products and attention, for the whole picture at once, without the overlap "
        f"of tiles. Peak memory: {where}."
    )
    for note in notes:
        click.echo(printable(note))


def _list_models() -> str:
    from faitheir.models import DEFAULT_MODEL, KNOWN_CONFIGS, embedded_models, find_model, read_config

    embedded = embedded_models()
    configs = KNOWN_CONFIGS | {name: read_config(find_model(name)) for name in embedded}
    lines = []
    for name, config in sorted(configs.items()):
        where = "embedded in this package" if name in embedded else "known, its weights are not in this package"
        default = ", the default" if name == DEFAULT_MODEL else ""
        lines.append(f"{name:<12}  scale {config.codec.scale:<3}  {config.backbone.kind:<6}  {where}{default}")
    return "\n".join(lines)


def _describe(target: str, recursive: bool) -> Iterable[str]:
    from faitheir.models import (
        CONFIG_FILE,
        KNOWN_CONFIGS,
        WEIGHTS_FILE,
        check_state,
        embedded_models,
        find_model,
        meta_model,
        read_config,
        read_weights,
        weights_hash,
    )

    path = Path(target)
    embedded = target in embedded_models()
    if not embedded and path.is_file():
        yield _describe_thumbnail(path)
    elif not embedded and path.is_dir() and not (path / CONFIG_FILE).exists():
        try:
            found = find_inputs([path], recursive=recursive, select=select_thumbnails)
        except PlanError:
            raise ModelError(f"{path} has neither a model ({CONFIG_FILE}) nor pictures in it.") from None
        yield "\n\n".join(_describe_thumbnail(item.path) for item in found)
    elif not embedded and not path.is_dir() and target in KNOWN_CONFIGS:
        yield _describe_model(KNOWN_CONFIGS[target], "known configuration, its weights are not in this package")
    else:
        folder = find_model(target)
        config = read_config(folder)
        state = read_weights(folder)
        check_state(meta_model(config), state, str(folder / WEIGHTS_FILE))
        yield _describe_model(config, str(folder), weights_hash(state))


def _describe_model(config: "ModelConfig", where: str, weights: str | None = None) -> str:
    from faitheir.config import to_dict
    from faitheir.models import parameter_table

    rows = [("model", config.name), ("found", where)]
    rows += [("weights", weights)] if weights else []
    for options in (to_dict(config.codec), to_dict(config.backbone)):
        # Whole configurations inside (turbo's networks) are in config.json for those who want them.
        shown = {"backbone" if k == "kind" else k: v for k, v in options.items() if not isinstance(v, dict)}
        rows += [(name, v if isinstance(v, str) else json.dumps(v)) for name, v in shown.items()]
    lines = [f"{name:<18}{value}" for name, value in rows]
    table = parameter_table(config)
    table |= {"Total": sum(table.values())}
    lines += ["", f"{'Parameters':<30}"]
    lines += [f"  {name:<28}{count / 1e6:>10.3f} M  ({count:,})" for name, count in table.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_thumbnail(path: Path) -> str:
    from faitheir.models import embedded_models, find_model, read_weights, weights_hash

    thumbnail = Thumbnail.open(path)
    size = path.stat().st_size
    rows = [("thumbnail", str(path)), ("size", f"{_size(thumbnail.picture)} pixels"), ("bytes", f"{size:,}")]
    if (made := thumbnail.info) is None:
        rows.append(("metadata", "none of FaithEIR's: stripped, or another program's picture"))
    else:
        if made.model not in embedded_models():
            here = "not in this package; restore with --model"
        elif weights_hash(read_weights(find_model(made.model))) == made.weights:
            here = "in this package, with the same weights"
        else:
            here = "in this package, but with other weights: it will not restore this faithfully"
        rows += [
            ("original size", f"{made.width} x {made.height} pixels"),
            ("scale", str(made.scale)),
            ("bits per pixel", f"{size * 8 / (made.width * made.height):.4f}"),
            ("model", f"{made.model} ({here})"),
            ("weights", made.weights),
            ("format version", str(made.format_version)),
        ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows)


@main.command(epilog=_EPILOG)
@click.argument(
    "configs", metavar="CONFIG.toml...", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting, such as data.crop=128 or run=runs/other; a value is read as TOML where "
    "it can be. May be given several times; counts for every CONFIG.",
)
@click.option(
    "--init", metavar="MODEL", help="Start from this model: an embedded one, a folder, or a Hub id owner/name."
)
@click.option(
    "--resume",
    metavar="auto|CHECKPOINT",
    help="auto: go on from the last checkpoint in the run's folder, if there is one; or from the one given.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what would be trained, memory and steps, take one step, write nothing."
)
def train(
    configs: tuple[Path, ...], settings: tuple[str, ...], init: str | None, resume: str | None, dry_run: bool
) -> None:
    """Train as CONFIG.toml says, and print the finished model's folder.

    Several configurations are stages: each starts from the model that the one before left. On several GPUs:
    accelerate launch -m faitheir.training CONFIG.toml.
    """
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (equals and key.strip()):
            raise PlanError(f"--set {setting} is not KEY=VALUE, such as --set data.crop=128.")
        overrides[key.strip()] = _toml_value(value.strip())

    from faitheir.training.config import load_train_config
    from faitheir.training.loop import train_stages

    stages = [load_train_config(path, overrides) for path in configs]
    if init is not None:
        stages[0] = replace(stages[0], init=init)
    finished = train_stages(stages, resume=resume, dry_run=dry_run, log=click.echo)
    if finished is not None and os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        click.echo(finished)


@main.group(epilog=_EPILOG)
def data() -> None:
    """Prepare photographs for training."""


@data.command(epilog=_EPILOG)
@click.argument("source", type=click.Path(readable=False))
@click.option(
    "-o", "--output", metavar="DIR", required=True, type=click.Path(readable=False, path_type=Path), help="For shards."
)
@click.option("--crop", metavar="PIXELS", type=click.IntRange(min=1), help="Pack random squares of this side instead.")
@click.option("--crops", type=click.IntRange(min=1), default=1, show_default=True, help="Squares from each photograph.")
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["webp", "png", "jpg"]),
    default="webp",
    show_default=True,
    help="Of squares: webp and png lossless, jpg at quality 95.",
)
@click.option(
    "--shard-mb", type=click.IntRange(min=1), default=500, show_default=True, help="Megabytes that a shard holds."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, and the squares.")
@click.option("--overwrite", is_flag=True, help="Replace shards that are there.")
def pack(
    source: str, output: Path, crop: int | None, crops: int, suffix: Any, shard_mb: int, seed: int, overwrite: bool
) -> None:
    """Pack photographs into WebDataset shards (tar files), shuffled.

    SOURCE is a folder of photographs or shards, or a pattern of shards. The files go in as they are, or as random
    squares with --crop. What cannot be read is left out and listed in DIR/unreadable.txt.
    """
    from tqdm import tqdm

    from faitheir.training.pack import pack as pack_photographs

    report = pack_photographs(
        source,
        output,
        crop=crop,
        crops=crops,
        format=suffix,
        shard_bytes=shard_mb * 1_000_000,
        seed=seed,
        overwrite=overwrite,
        progress=lambda photographs: iter(tqdm(photographs, unit="photo", disable=None)),
    )
    click.echo(f"{report.members:,} pictures, {report.bytes:,} bytes, in {len(report.shards)} shard(s) in {output}")
    if report.unreadable:
        click.echo(f"{len(report.unreadable)} left out; {output / 'unreadable.txt'} says which and why")


def _toml_value(text: str) -> Any:
    """The value that a line of TOML would give, or the text itself: names and paths need no quotes."""
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text
