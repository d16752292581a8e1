"""`faitheir export`: a model as ONNX files, for programs without PyTorch."""

from pathlib import Path
from typing import Any

import click

from faitheir.cli.messages import printable
from faitheir.cli.options import EPILOG, fidelity_option, output_option
from faitheir.errors import PlanError


@click.command(epilog=EPILOG)
@click.argument("model")
@output_option("Write into this folder; it is created if it is missing.", required=True)
@click.option(
    "--half",
    type=click.Choice(["down", "up", "both"]),
    default="both",
    show_default=True,
    help="down: photograph to thumbnail, up: thumbnail to picture, or both, in a file each.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    default=("fp32",),
    help="How weights are stored; the files compute in float32. May be given several times, for a file each. "
    "[default: fp32]",
)
@fidelity_option
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def export(model: str, output: Path, half: str, precision: tuple[Any, ...], fidelity: float, overwrite: bool) -> None:
    """Write a model as ONNX files, which run without PyTorch.

    MODEL is an embedded model, a model folder, or a Hub id (owner/name). The files take pictures of any size. Each has
    a description beside it, in JSON: how to cut pictures into tiles, and the hash that thumbnails carry. Every file is
    compared with the model in PyTorch before it is written.
    """
    from faitheir.export.files import HALVES, export, file_name
    from faitheir.pipeline import FaithEIRPipeline

    pipeline = FaithEIRPipeline.from_pretrained(model)
    halves = [name for name in HALVES if half in (name, "both")]
    precisions = list(dict.fromkeys(precision))
    for path in (output / file_name(pipeline.name, name, p, fidelity) for name in halves for p in precisions):
        if path.exists() and not overwrite:
            raise PlanError(f"{path} exists; choose another folder, or give --overwrite.")
    for file in export(pipeline, output, halves=halves, precisions=precisions, fidelity=fidelity):
        size, mean, most = file.about["bytes"] / 1e6, file.mean_difference, file.max_difference
        difference = f"differs from PyTorch by {mean:.2g} levels of 255 on average, {most:.2g} at most"
        click.echo(printable(f"{file.path}: {size:.1f} MB; {difference}"))
