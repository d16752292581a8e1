"""What the commands share: their options, and the group that shows errors as one line and gives the exit status."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from faitheir.batches import RestoredFormat
from faitheir.cli.messages import MESSAGES, show_error
from faitheir.errors import PlanError, Stopped, reason
from faitheir.images import DEFAULT_MAX_PIXELS, ExifMode, is_picture_path

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = """Exit status: 0: everything was done; 1: something failed, and the rest was done; 2: nothing was started,
because options, inputs or outputs are invalid or conflicting; 130, 143
and 129: interrupted by Ctrl-C, SIGTERM and SIGHUP."""


class _Signals:
    """SIGTERM, and SIGHUP where there is one, interrupt as Ctrl-C does. A second one has its usual effect.

    Those that are ignored (as nohup has it) or handled already are left alone.
    """

    number: int = signal.SIGINT
    """What interrupted."""

    def __enter__(self) -> None:
        """Listen, where signals can be listened to: in the main thread."""
        self.number = signal.SIGINT
        self._taken: list[int] = []
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
                if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                    signal.signal(number, self._interrupt)
                    self._taken.append(number)

    def _interrupt(self, number: int, _: Any) -> None:
        self.__exit__()
        self.number = number
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        """Listen no longer."""
        while self._taken:
            signal.signal(self._taken.pop(), signal.SIG_DFL)


_SIGNALS = _Signals()


class Commands(click.Group):
    """Shows every error as one line, never as a traceback, and gives it an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        with MESSAGES.attached():
            try:
                with _SIGNALS:
                    status = super().main(*args, **kwargs)
            except (click.ClickException, PlanError) as error:
                show_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
                status = 2
            except (Stopped, click.Abort) as error:
                stopped = error if isinstance(error, Stopped) else _stopped(error.__cause__)
                with contextlib.suppress(OSError):  # SIGHUP: the terminal may be gone
                    MESSAGES.show(str(stopped))
                status = stopped.status
            except Exception as error:
                if os.environ.get("FAITHEIR_TRACEBACK"):  # for those who look for a fault in FaithEIR itself
                    raise
                show_error(reason(error))
                status = 1
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; Stopped where it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _stopped(error) from None

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, which takes --verbose as the group does."""
        super().add_command(verbose_option(cmd), name)


def _stopped(error: BaseException | None) -> Stopped:
    """What to say of an interruption: its notes, too."""
    return Stopped(", ".join(["interrupted", *getattr(error, "__notes__", [])]) + ".", _SIGNALS.number)


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


class _OutputFolder(click.Path):
    """A folder to write into. A name like a picture's would else silently become a folder's."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, readable=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if is_picture_path(path) and not path.is_dir():
            self.fail(f"{path} is named like a picture; give a folder: outputs are named after inputs.", param, ctx)
        return path


def output_option(text: str, **options: Any) -> Callable[[F], F]:
    """``-o DIR``, with the help ``text``."""
    return click.option("-o", "--output", metavar="DIR", type=_OutputFolder(), help=text, **options)


recursive_option = click.option("-r", "--recursive", is_flag=True, help="Include the folders inside folders.")

batch_options = stack(
    click.argument("inputs", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path)),
    recursive_option,
    output_option(
        "Write into this folder, in the folder structure of the inputs; it is created if it is missing. "
        "[default: beside each input]"
    ),
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist instead of skipping them."),
)


def compute_options(*, dtype: str) -> Callable[[F], F]:
    """``dtype``: the default. What is made for people is made fast; what is measured must be the same everywhere."""
    return stack(
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda", "mps"]),
            default="auto",
            show_default=True,
            help="Device to compute on; auto: a GPU if there is one, else the CPU.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
            default=dtype,
            show_default=True,
            help="Precision; auto: bfloat16 on devices that are fast in it, else float32.",
        ),
        click.option(
            "--tile",
            metavar="PIXELS",
            type=click.IntRange(min=1),
            help="Side of the tiles in which large pictures are processed, in pixels of the full-size picture; smaller "
            "tiles need less memory. [default: 512 for turbo models, else 2048]",
        ),
        click.option(
            "--base",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Local folder with SD-Turbo's weights, for turbo models. [default: the Hugging Face Hub]",
        ),
    )


model_options = stack(
    click.option(
        "--scale",
        type=click.Choice(["16", "32"]),
        help="Scale of the default model: nano-x16 or nano-x32. [default: 16]",
    ),
    click.option(
        "--model", metavar="MODEL", help="Model to use instead: embedded model, model folder, or Hub id (owner/name)."
    ),
    compute_options(dtype="auto"),
)


runtime_option = click.option(
    "--runtime",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    show_default=True,
    help="What computes; openvino: faster for many pictures on the CPU, but it converts the model first, once; it "
    "needs the extra [openvino].",
)


def max_pixels_option(default: int = DEFAULT_MAX_PIXELS) -> Callable[[F], F]:
    """``default``: lower for what comes from others."""
    return click.option(
        "--max-pixels",
        metavar="N",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Largest picture that is read or restored, in pixels; larger ones fail.",
    )


fidelity_option = click.option(
    "--fidelity",
    metavar="0..1",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Trade-off in the restored picture: 0: most natural detail, 1: lowest error.",
)

exif_option = click.option(
    "--exif",
    type=click.Choice(get_args(ExifMode)),
    default="safe",
    show_default=True,
    help="EXIF data that the thumbnail keeps; safe: date, camera, lens, exposure, author and copyright, but neither "
    "position nor serial numbers.",
)

restored_options = stack(
    click.option(
        "--format",
        "restored_format",
        type=click.Choice(get_args(RestoredFormat)),
        default="png",
        show_default=True,
        help="Output format.",
    ),
    click.option(
        "--quality",
        "restored_quality",
        metavar="1..100",
        type=click.IntRange(1, 100),
        help="Quality of jpg and webp output. [default: 95 for jpg, lossless for webp]",
    ),
)
