"""`faitheir evaluate`, `compare` and `report`: figures, tables and plots of what was restored."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faitheir.cli.messages import printable, show_error, show_warning
from faitheir.cli.options import EPILOG, compute_options, fidelity_option, output_option, stack
from faitheir.errors import PlanError
from faitheir.images import write_picture

if TYPE_CHECKING:
    from faitheir.comparison.methods import Opener
    from faitheir.comparison.produce import Setting
    from faitheir.evaluation.results import SystemResult


_hr_option = click.option(
    "--hr", metavar="DIR", required=True, type=click.Path(path_type=Path), help="Folder with the original photographs."
)

_measure_options = stack(
    click.option(
        "--protocol",
        metavar="NAME",
        default="paper",
        show_default=True,
        help="Measuring protocol: paper, hific-256, luma, or luma-N with a border of N pixels; "
        "docs/reference/metrics.md describes them.",
    ),
    click.option(
        "--metrics", metavar="NAME,...", help="Metrics to measure, such as psnr,ssim,fid. [default: the protocol's]"
    ),
    click.option(
        "--weights",
        metavar="NETWORK=PATH",
        multiple=True,
        help="Local weights file of a metric's network: alexnet, vgg16, inception, musiq (its library downloads them "
        "otherwise), niqe, squeezenet (only local). May be given several times.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Number of patches measured at once."
    ),
    click.option(
        "--thumbnail-format",
        "thumbnail_suffix",
        type=click.Choice(["webp", "png"]),
        default="webp",
        show_default=True,
        help="Format of the thumbnails that models write; both are lossless.",
    ),
    output_option(
        "Folder for results, tables, plots, report and intermediate files; an interrupted run continues from it.",
        default=Path("evaluation"),
        show_default=True,
    ),
)

_table_options = stack(
    click.option(
        "--published",
        metavar="DATASET",
        help="Add published figures for a data set: DIV2K-val, LSDIR-val, CLIC2020 or Kodak.",
    ),
    click.option(
        "--pictures",
        type=click.IntRange(min=1),
        default=24,
        show_default=True,
        help="Maximum number of photographs in the report.",
    ),
)


@click.command(epilog=EPILOG)
@_hr_option
@click.option(
    "--model", metavar="MODEL", help="Model to measure: embedded model, model folder, or Hub id (owner/name)."
)
@click.option(
    "--restored",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with pictures restored by any program, to measure instead of a model; matched by file name.",
)
@click.option(
    "--thumbnails",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="With --restored: folder with the matching thumbnails.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the system in tables. [default: the model's or the folder's name]"
)
@click.option(
    "--scale",
    type=click.IntRange(2, 256),
    help="With --restored: scale of the thumbnails, if they do not tell it.",
)
@_measure_options
@_table_options
@fidelity_option
@compute_options(dtype="float32")
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
    """Measure a model or restored pictures against the originals.

    A model is measured through its thumbnail files. Restored pictures are matched with the originals by file
    name without suffix, and must have the same size. The results are written to DIR/NAME.json, and to tables,
    plots and a report together with the results that are in DIR already.
    """
    if (model is None) == (restored is None):
        raise PlanError("give either --model, or --restored with a folder of restored pictures.")
    if model is None and fidelity:
        raise PlanError("--fidelity is for --model; restored pictures are measured as they are.")
    if model is not None and (thumbnails is not None or scale is not None):
        raise PlanError("--thumbnails and --scale are for --restored; a model makes its thumbnails itself.")

    from faitheir.comparison.compare import compare, write_comparison
    from faitheir.comparison.systems import ModelSystem, Restored
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.results import file_stem, read_results

    folders = ":".join(str(path) for path in (restored, thumbnails) if path is not None)
    opener: Opener = partial(Restored, folders, label=name)
    if model is not None:
        opener = partial(ModelSystem, model, label=name, fidelity=fidelity)
    setting = _setting(scale=scale, **options)
    try:
        rows = _published(published)
        _check_output(output)
        if restored is not None:
            _check_name(output / f"{file_stem(name or restored.name)}.json", str(restored))
        (result,) = compare(hr, [opener], output, setting=setting)
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    click.echo("\n".join(printable(line) for line in _result_lines(result)))
    results, title = read_results(output), f"FaithEIR: {output.absolute().name}"
    rows = _of_scales(rows, results)
    files, problems = write_comparison(output, [*results, *rows], title=title, pictures=pictures)
    _conclude([result], [output / f"{file_stem(result.system)}.json", *files], problems)


def _setting(
    protocol: str, metrics: str | None, weights: tuple[str, ...], thumbnail_suffix: str, **options: Any
) -> "Setting":
    """What `_measure_options` and `compute_options` say."""
    from faitheir.comparison.produce import Setting
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.evaluate import check_request

    files = {}
    for text in weights:
        network, equals, path = text.partition("=")
        if not (equals and network and path):
            raise PlanError(f"--weights {text} is not NETWORK=PATH, such as --weights vgg16=vgg16.pth.")
        files[network] = Path(path)
    names = None if metrics is None else tuple(name.strip() for name in metrics.split(",") if name.strip())
    try:
        check_request(protocol, names, files)
    except EvaluationError as error:
        raise PlanError(str(error)) from None
    return Setting(protocol=protocol, metrics=names, weights=files, suffix=f".{thumbnail_suffix}", **options)


def _published(dataset: str | None) -> "list[SystemResult]":
    """The published rows for a data set; EvaluationError for one that has none."""
    from faitheir.comparison.published import published_for

    return [] if dataset is None else published_for(dataset)


def _of_scales(rows: "list[SystemResult]", results: "Sequence[SystemResult]") -> "list[SystemResult]":
    """The rows at the scales that were measured; all of them where there is none."""
    scales = {result.scale for result in results}
    return [row for row in rows if row.scale in (None, *scales)] or rows


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
        show_warning(problem)
    failed = [(result.system, picture) for result in results for picture in result.pictures if picture.error]
    for system, picture in failed:
        show_error(f"{system}, {picture.picture}: {picture.error}")
    if failed:
        click.get_current_context().exit(1)


@click.command(epilog=EPILOG)
@click.argument("systems", nargs=-1)
@_hr_option
@click.option(
    "--methods",
    metavar="SYSTEM,...",
    multiple=True,
    help="Systems to compare, in addition to the arguments.",
)
@click.option(
    "--scale",
    type=click.IntRange(2, 256),
    help="Scale of the thumbnails of systems that are not models. [default: the target's scale, or 16]",
)
@click.option(
    "--target",
    metavar="NAME",
    help="System whose bytes and metric values the codecs must match. [default: the first model]",
)
@click.option(
    "--ablation",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Compare the trained runs in this folder instead, as in the paper's Tables 2 and 3.",
)
@_measure_options
@_table_options
@compute_options(dtype="float32")
def compare(
    systems: tuple[str, ...],
    hr: Path,
    methods: tuple[str, ...],
    target: str | None,
    published: str | None,
    ablation: Path | None,
    pictures: int,
    output: Path,
    **options: Any,
) -> None:
    """Compare systems on the same photographs, in one table.

    SYSTEMS are separated by spaces or commas; NAME=SYSTEM gives one a name in tables:

    \b
    nano-x16, model:FOLDER          a model, through its thumbnail file
    nano-x16@1, model:FOLDER@1      the same, restored at that fidelity, 0 to 1
    nano-x16[webp:90]               the same, its thumbnail stored lossily: webp, avif
                                    or jpg, and a quality
    bicubic, lanczos                a thumbnail reduced and enlarged by Pillow
    jpeg, jpeg@bytes                jpeg, webp, avif or jpegxl in at most the bytes of the
                                    target's file; resized first where it cannot go so low
    jpeg@bytes-reduced              the same, resized first wherever that is better
    jpeg@0.05bpp                    in at most that many bits per pixel
    jpeg@psnr                       in the fewest bytes that reach the target's value of
                                    psnr, ssim, lpips_alex, lpips_vgg, dists or
                                    squeezenet_distance
    sr:CHECKPOINT                   a super-resolution network over a bicubic thumbnail
    cmd:'PROGRAM {input} {output}'  a program over a folder of bicubic thumbnails
    restored:DIR[:THUMBNAILS]       existing pictures that another program restored

    Pictures, results, tables, plots and a report are written to the folder of -o; an interrupted run continues
    from it. docs/tasks/add-a-system.md has recipes for other people's systems.
    """  # noqa: D301 (click wants the character)
    if (ablation is None) == (not systems and not methods):
        raise PlanError("name the systems to compare (--methods nano-x16,bicubic,jpeg@bytes), or give --ablation.")
    from faitheir.comparison.ablation import ABLATION_METRICS, ablation_runs, ablation_tables, write_ablation
    from faitheir.comparison.compare import compare as run_comparison
    from faitheir.comparison.compare import write_comparison
    from faitheir.comparison.methods import parse_methods
    from faitheir.comparison.tables import tables_of, to_markdown
    from faitheir.errors import EvaluationError
    from faitheir.evaluation.results import file_stem

    setting = _setting(**options)
    try:
        runs = [] if ablation is None else ablation_runs(ablation)
        openers = [run.opener for run in runs] or parse_methods([*methods, *systems])
        if runs and setting.metrics is None:
            setting = replace(setting, metrics=tuple(name for name in ABLATION_METRICS[3] if name != "lpips"))
        rows = _published(published)
        _check_output(output)
        results = run_comparison(
            hr,
            openers,
            output,
            setting=setting,
            target=target,
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
        click.echo(printable("\n".join(map(to_markdown, tables_of(shown, ABLATION_METRICS.get(number), title)))))
    _conclude(results, files, problems)


@click.command(epilog=EPILOG)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option("Folder for tables, plots and the report.", required=True)
@click.option("--metrics", metavar="NAME,...", help="Metrics to show, in this order. [default: all that were measured]")
@click.option(
    "--title", metavar="TEXT", default="FaithEIR: comparison", show_default=True, help="Title of tables and report."
)
@click.option(
    "--crop",
    "crops",
    metavar="PICTURE[@X,Y]",
    multiple=True,
    help="Add a sheet of crops with a row for this photograph, cropped at pixel (X, Y), or at its strongest edges. "
    "May be given several times.",
)
@click.option(
    "--crop-size", type=click.IntRange(16, 1024), default=128, show_default=True, help="Side of the crops, in pixels."
)
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
    """Write tables, plots and a report from existing results.

    RESULTS are JSON files of `faitheir evaluate` and `faitheir compare`, in the order of the tables, and folders of
    them. Photographs and restored pictures are read from where they were when they were measured.
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
