"""The command line, called in this process."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from faitheir.cli import main


def call(*arguments: object) -> Result:
    """Run a command in this process; the stack of an unexpected error is the test's failure."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def ok(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object, status: int = 1) -> str:
    """The one sentence with which a command fails."""
    result = call(*arguments)
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("faitheir: error: ")
    assert "Traceback" not in result.output
    return lines[0].removeprefix("faitheir: error: ")


def names(folder: Path) -> set[str]:
    """All files in a folder, by their path in it, hidden ones included."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stripped(path: Path) -> Path:
    """The same picture, saved by a program that keeps no metadata."""
    Image.fromarray(np.array(Image.open(path))).save(path)
    return path
