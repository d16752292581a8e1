"""What the commands share: their options, and the group that shows errors as one line and gives the exit status."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from faitheir.cli.jobs import PlanError
from faitheir.cli.messages import MESSAGES, printable, show_error
from faitheir.errors import TrainingStopped, reason

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = """Exit status: 0, all was done; 1, something failed (the other files were done all the same); 2,
nothing was begun, because the options, the inputs or the outputs cannot be as given; 130, interrupted."""


class Commands(click.Group):
    """Shows every error as one line, never as a traceback, and gives it an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        with MESSAGES.attached():
            try:
                status = super().main(*args, **kwargs)
            except click.Abort:
                click.echo("faitheir: interrupted.", err=True)
                status = 130
            except (click.ClickException, PlanError) as error:
                show_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
                status = 2
            except TrainingStopped as error:
                click.echo(printable(f"faitheir: {error}"), err=True)
                status = error.status
            except Exception as error:
                if os.environ.get("FAITHEIR_TRACEBACK"):  # for those who look for a fault in FaithEIR itself
                    raise
                show_error(reason(error))
                status = 1
        sys.exit(status if isinstance(status, int) else 0)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, which takes --verbose as the group does."""
        super().add_command(verbose_option(cmd), name)


def _be_verbose(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        MESSAGES.be_verbose()


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_be_verbose,
    help="Show what is logged, and the messages of other programs and libraries.",
)


def stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown by the help in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


recursive_option = click.option("-r", "--recursive", is_flag=True, help="Look into folders inside folders.")

batch_options = stack(
    click.argument("inputs", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)),
    recursive_option,
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


def compute_options(*, dtype: str) -> Callable[[F], F]:
    """``dtype``: the default. What is made for people is made fast; what is measured must be the same everywhere."""
    return stack(
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


model_options = stack(
    click.option("--scale", type=click.Choice(["16", "32"]), help="Use the embedded model for this scale."),
    click.option("--model", metavar="MODEL", help="An embedded model, a model's folder, or a Hub id owner/name."),
    compute_options(dtype="auto"),
)


fidelity_option = click.option(
    "--fidelity",
    metavar="0..1",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="How to restore, from the same thumbnail: 0 is the most natural picture, 1 the truest, with least made up.",
)
