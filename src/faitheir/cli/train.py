"""`faitheir train` and `faitheir data`: training, and photographs prepared for it."""

import os
import tomllib
from pathlib import Path
from typing import Any

import click

from faitheir.cli.options import EPILOG, Commands, output_option
from faitheir.errors import PlanError


@click.command(epilog=EPILOG)
@click.argument(
    "configs", metavar="CONFIG.toml...", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a setting in every CONFIG, such as data.crop=128 or run=runs/other. May be given several times.",
)
@click.option(
    "--init", metavar="MODEL", help="Model to start from: embedded model, model folder, or Hub id (owner/name)."
)
@click.option("--only", metavar="NAME", help="Stage or variant of the recipe to train alone.")
@click.option(
    "--resume",
    metavar="auto|CHECKPOINT",
    help="Continue from this checkpoint; auto: from the run's last checkpoint, if there is one.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the number of parameters and steps, take one step, print its memory, and write nothing.",
)
def train(
    configs: tuple[Path, ...],
    settings: tuple[str, ...],
    init: str | None,
    only: str | None,
    resume: str | None,
    dry_run: bool,
) -> None:
    """Train a model from a recipe, and print its folder.

    The stages of a recipe are trained one after the other, and so are several recipes: each starts from the model
    that the one before has finished. On several GPUs: accelerate launch --multi_gpu -m faitheir train CONFIG.toml.
    """
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (equals and key.strip()):
            raise PlanError(f"--set {setting} is not KEY=VALUE, such as --set data.crop=128.")
        overrides[key.strip()] = toml_value(value.strip())

    from faitheir.training.config import load_recipe
    from faitheir.training.loop import train_stages

    first = overrides if init is None else {**overrides, "init": init}
    stages = [
        run for path in configs for run in load_recipe(path, first if path is configs[0] else overrides, only=only)
    ]
    finished = train_stages(stages, resume=resume, dry_run=dry_run, log=click.echo)
    if finished is not None and os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        click.echo(finished)


@click.group(cls=Commands, epilog=EPILOG)
def data() -> None:
    """Prepare photographs for training."""


@data.command(epilog=EPILOG)
@click.argument("source", type=click.Path(readable=False))
@output_option("Folder for the shards.", required=True)
@click.option(
    "--crop",
    metavar="PIXELS",
    type=click.IntRange(min=1),
    help="Pack random square crops of this side, in pixels, instead of whole files.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="With --crop: number of crops from each photograph.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["webp", "png", "jpg"]),
    default="webp",
    show_default=True,
    help="With --crop: format of the crops; webp and png are lossless, jpg has quality 95.",
)
@click.option(
    "--shard-mb",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Maximum size of a shard, in megabytes.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed for shuffling and cropping."
)
@click.option("--overwrite", is_flag=True, help="Replace shards that exist.")
def pack(
    source: str, output: Path, crop: int | None, crops: int, suffix: Any, shard_mb: int, seed: int, overwrite: bool
) -> None:
    """Shuffle photographs and pack them into WebDataset shards (tar files).

    SOURCE is a folder of photographs or of shards, or a pattern that matches shards. Files are packed unchanged, or
    as random square crops with --crop. Unreadable files are skipped and listed in DIR/unreadable.txt.
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


def toml_value(text: str) -> Any:
    """The value that a line of TOML would give, or the text itself: names and paths need no quotes."""
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text
