"""`faitheir info`: what models and thumbnails are, and what models cost."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faitheir.batches import restored_naming
from faitheir.cli.jobs import find_inputs
from faitheir.cli.messages import about, messages_about, printable, show_error
from faitheir.cli.options import EPILOG, compute_options, recursive_option
from faitheir.errors import ModelError, PlanError, reason
from faitheir.thumbnail import Thumbnail

if TYPE_CHECKING:
    from faitheir.models import ModelConfig


@click.command(epilog=EPILOG)
@click.argument("targets", nargs=-1)
@recursive_option
@click.option(
    "--complexity",
    is_flag=True,
    help="Measure models: seconds to downscale and upscale, parameters, multiply-accumulates (MACs), peak memory.",
)
@click.option("--size", metavar="WxH", help="With --complexity: size of the picture, in pixels. [default: 2040x1356]")
@compute_options(dtype="float32")
def info(targets: tuple[str, ...], recursive: bool, complexity: bool, size: str | None, **options: Any) -> None:
    """Describe models and thumbnails, or list the known models.

    TARGETS are model names, Hub ids (owner/name), model folders, thumbnail files, and folders of thumbnails.
    Without TARGETS the known models are listed. A known model whose weights are not installed, such as
    turbo-x16, is described without a download.

    With --complexity each model is measured in a process of its own; --device, --dtype, --tile and --base
    are for that only.
    """
    if complexity:
        _measure_complexity(targets, size or "2040x1356", options)
        return
    if size is not None:
        raise PlanError("--size is for --complexity.")
    if not targets:
        click.echo(_list_models())
    failed, first = False, True
    for target in targets:
        for item in _items(target, recursive):
            if not first:
                click.echo()
            first = False
            try:
                with messages_about(Path(item)):
                    description = _describe(item)
            except Exception as error:  # one item's failure does not stop the rest
                show_error(about(Path(item), reason(error)))
                failed = True
            else:
                click.echo(printable(description))
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


def _items(target: str, recursive: bool) -> Iterator[str]:
    """The target, or the thumbnails in it where it is a folder of such."""
    from faitheir.models import CONFIG_FILE, embedded_models

    path = Path(target)
    if target in embedded_models() or not path.is_dir() or (path / CONFIG_FILE).exists():
        yield target
        return
    try:
        for group in find_inputs([path], restored_naming("png"), recursive=recursive):
            if isinstance(group, PlanError):
                raise group
            yield from (str(item.path) for item in group)
    except PlanError:
        yield target


def _describe(target: str) -> str:
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
        stored_hash,
    )

    path = Path(target)
    if target not in embedded_models():
        if path.is_dir() and not (path / CONFIG_FILE).exists():
            raise ModelError(f"{path} has neither a model ({CONFIG_FILE}) nor pictures in it.")
        if path.is_file():
            return _describe_thumbnail(path)
        if not path.is_dir() and target in KNOWN_CONFIGS:
            return _describe_model(KNOWN_CONFIGS[target], "known configuration, its weights are not in this package")
    folder = find_model(target)
    config = read_config(folder)
    check_state(meta_model(config), read_weights(folder), str(folder / WEIGHTS_FILE))
    return _describe_model(config, str(folder), stored_hash(folder))


def _describe_model(config: "ModelConfig", where: str, weights: str | None = None) -> str:
    from faitheir.config import to_dict
    from faitheir.models import parameter_table

    rows = [("model", config.name), ("found", where)]
    rows += [("weights", weights)] if weights else []
    for options in (to_dict(config.codec), to_dict(config.backbone)):
        # Whole configurations inside (turbo's networks) are in config.json for those who want them.
        shown = {"backbone" if k == "kind" else k: v for k, v in options.items() if not isinstance(v, dict)}
        rows += [(name, v if isinstance(v, str) else json.dumps(v)) for name, v in shown.items()]
    lines = _columns(rows)
    table = parameter_table(config)
    table |= {"Total": sum(table.values())}
    lines += ["", f"{'Parameters':<30}"]
    lines += [f"  {name:<28}{count / 1e6:>10.3f} M  ({count:,})" for name, count in table.items()]
    return "\n".join(line.rstrip() for line in lines)


def _describe_thumbnail(path: Path) -> str:
    from faitheir.models import find_model, model_for, stored_hash

    thumbnail = Thumbnail.open(path)
    picture, size = thumbnail.picture, path.stat().st_size
    rows = [("thumbnail", str(path)), ("size", f"{picture.width} x {picture.height} pixels"), ("bytes", f"{size:,}")]
    if (made := thumbnail.info) is None:
        rows.append(("metadata", "none of FaithEIR's: stripped, or another program's picture"))
    else:
        try:
            model = model_for(made)
        except ModelError:
            model, here = made.model or "unknown", "not in this package; restore with --model"
        else:
            same = stored_hash(find_model(model)) == made.weights
            here = (
                "in this package, with the same weights"
                if same
                else ("in this package, but with other weights: it will not restore this faithfully")
            )
        rows += [
            ("original size", f"{made.width} x {made.height} pixels"),
            ("scale", str(made.scale)),
            ("bits per pixel", f"{size * 8 / (made.width * made.height):.4f}"),
            ("model", f"{model} ({here})"),
            ("weights", made.weights),
        ]
    return "\n".join(_columns(rows))


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    """One line for each name and value; values begin below each other."""
    width = max(18, *(len(name) + 2 for name, _ in rows))
    return [f"{name:<{width}}{value}" for name, value in rows]
