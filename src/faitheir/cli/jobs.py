"""Batches of files: first a plan, in which every conflict is found before any work, then file after file.

Nothing here knows models or imports torch.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from faitheir.errors import DeviceError, FaithEIRError, ImageError, MissingDependencyError, one_line, reason
from faitheir.files import picture_files


class PlanError(FaithEIRError):
    """What was asked for cannot be begun: inputs, outputs or options contradict each other."""


@dataclass(frozen=True)
class Input:
    """A file to work on, and the folder its outputs get inside of the output folder."""

    path: Path
    folder: Path = Path()


@dataclass(frozen=True)
class Job:
    """A file to work on, and the files that come of it."""

    source: Path
    outputs: tuple[Path, ...]

    @property
    def done(self) -> bool:
        """Whether every output is there already: they are written whole, so nothing needs to be opened."""
        return all(path.is_file() for path in self.outputs)


@dataclass
class Outcome:
    """What became of a batch: how many files were done, and those that failed, with the reason."""

    done: int = 0
    failures: list[tuple[Path, str]] = field(default_factory=list)


def find_inputs(
    paths: Iterable[Path], *, recursive: bool, select: Callable[[Sequence[Path]], list[Path]]
) -> list[Input]:
    """The files among ``paths``, whatever they are, and what ``select`` takes of the pictures in the folders.

    Every file once. Raises PlanError for a folder in which there is nothing to take.
    """
    found: dict[Path, Input] = {}
    for path in paths:
        if not path.is_dir():
            found.setdefault(_identity(path), Input(path))
            continue
        selected = select(_pictures(path, recursive))
        if not selected:
            hint = "" if recursive else "; use --recursive to look into the folders in it"
            raise PlanError(f"{path} has no pictures to work on{hint}.")
        for picture in selected:
            found.setdefault(_identity(picture), Input(picture, picture.parent.relative_to(path)))
    return list(found.values())


def plan(inputs: Sequence[Input], names: Callable[[Path], Sequence[str]], output: Path | None = None) -> list[Job]:
    """What is to be written: ``names`` gives the file names for an input, beside it or inside ``output``.

    Raises PlanError where two inputs would write one file, or an input would be written.
    """
    sources = {_identity(item.path) for item in inputs}
    writers: dict[Path, Path] = {}
    jobs = []
    for item in inputs:
        folder = item.path.parent if output is None else output / item.folder
        job = Job(item.path, tuple(folder / name for name in names(item.path)))
        for path in job.outputs:
            other = writers.setdefault(_identity(path), item.path)
            if other is not item.path:
                raise PlanError(
                    f"{other} and {item.path} would both be written to {path}; rename one of them, "
                    "or do them one at a time into two folders with -o."
                )
            if _identity(path) in sources:
                raise PlanError(
                    f"{path} is an input, and the output of {item.path} would replace it; "
                    "leave it out, or name another folder with -o."
                )
        jobs.append(job)
    return jobs


def check_folders(jobs: Iterable[Job]) -> None:
    """PlanError unless the outputs can be written where they are to go; creates nothing yet."""
    for folder in sorted({path.parent for job in jobs for path in job.outputs}):
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise PlanError(f"{folder} cannot be written to: {existing} is not a folder; choose another with -o.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PlanError(f"{folder} cannot be written to: permission is missing; choose another with -o.")


def run(jobs: Sequence[Job], work: Callable[[Job], str | None]) -> Outcome:
    """Do the jobs one after another; a file that fails does not stop the rest.

    What ``work`` returns is printed; its warnings go to stderr. A bar with the time left is shown for several
    files where stderr is a terminal. Raises DeviceError and MissingDependencyError, which no file is free of.
    """
    outcome = Outcome()
    with tqdm(jobs, unit="file", dynamic_ncols=True, disable=None if len(jobs) > 1 else True) as bar:
        for job in bar:
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    text = work(job)
                outcome.done += 1
            except (DeviceError, MissingDependencyError):
                raise
            except Exception as error:  # of any kind: it is this file's failure, and the rest goes on
                outcome.failures.append((job.source, reason(error, "; a smaller --tile needs less")))
                text = None
            for warning in caught:
                # Those of other packages (Pillow's on odd files, torch's) tell a user nothing to act on.
                if warning.category.__module__.startswith("faitheir"):
                    message = about(job.source, one_line(warning.message))
                    tqdm.write(printable(f"faitheir: warning: {message}"), file=sys.stderr)
            if text is not None:
                tqdm.write(printable(text))
                sys.stdout.flush()  # a log of a long batch shows each file as it is done
    return outcome


def about(path: Path, text: str) -> str:
    """The text, beginning with the file's name."""
    return text if text.startswith(str(path)) else f"{path}: {text}"


def printable(text: str) -> str:
    """The text with what stdout cannot show escaped, such as undecodable bytes in a file's name."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _pictures(folder: Path, recursive: bool) -> list[Path]:
    try:
        return picture_files(folder, recursive=recursive)
    except ImageError as error:
        raise PlanError(str(error)) from None


def _identity(path: Path) -> Path:
    """One spelling of a path. A link is not followed: it is replaced when written, not written through."""
    return path.parent.resolve() / path.name
