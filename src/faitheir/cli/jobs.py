"""Batches of files: folder by folder a plan, in which conflicts are found before any work, then file after file.

Nothing here knows models or imports torch. Several processes may work on one batch: each file is done by one of them.
"""

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

from faitheir.batches import Naming, check_conflicts
from faitheir.cli.messages import messages_about, printable
from faitheir.errors import (
    DeviceError,
    FaithEIRError,
    MissingDependencyError,
    PlanError,
    disk_full,
    reason,
    why,
)
from faitheir.files import picture_folders
from faitheir.storage import claim, clear_temporaries

#: Seconds between two looks at a file that another process works on.
_WAIT = 0.2
#: Jobs that are made at a time: the first of a large folder begins soon.
_PARTS = 256


@dataclass(frozen=True)
class Input:
    """A file to work on: its folder, its name, and the folder its outputs get inside of the output folder."""

    folder: Path
    name: str
    place: Path = Path()

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.folder / self.name

    def __str__(self) -> str:
        return str(self.path)


#: Size, inode and time of each output of a job, None for one that is missing, empty or no file.
_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Job:
    """A file, or one frame of it, to work on, and the files that come of it, all in one folder."""

    source: Path
    outputs: tuple[Path, ...]
    frame: int | None = None
    alternatives: int = 1
    """So many of the first outputs are names of which one is used."""
    before: _State = ()
    """The outputs that were there and are to be replaced."""

    def done(self) -> bool:
        """Whether every output is there and new. They are written whole, so none is opened."""
        before = self.before or (None,) * len(self.outputs)
        new = [now is not None and now != then for now, then in zip(_state(self.outputs), before, strict=True)]
        return any(new[: self.alternatives]) and all(new[self.alternatives :])

    def keep_only(self, path: Path) -> None:
        """Remove what an earlier run left under the names that are alternatives to ``path``."""
        for other in self.outputs[: self.alternatives]:
            if other.name != path.name:
                other.unlink(missing_ok=True)


@dataclass(frozen=True)
class Group:
    """Jobs whose outputs are known to conflict with no others."""

    jobs: Sequence[Job] = ()
    skipped: int = 0
    """How many more there are, whose outputs exist."""
    folders: frozenset[Path] = frozenset()
    """Where outputs go, of these jobs and of later ones; each comes once."""
    problem: PlanError | None = None
    """Why nothing of it can be done."""


@dataclass
class Outcome:
    """What became of a batch: how many files were done, here and by other processes, and what failed, and why."""

    done: int = 0
    elsewhere: int = 0
    skipped: int = 0
    failures: list[tuple[Path | None, str]] = field(default_factory=list)
    single: bool = False
    """Whether it was about one file."""
    disk_full: bool = False
    """Whether it ended early because of that."""
    overwrites: bool = False
    """Whether outputs that exist are made anew."""


def find_inputs(paths: Sequence[Path], naming: Naming, *, recursive: bool) -> Iterator[list[Input] | PlanError]:
    """The files among ``paths``, whatever they are, and in the folders the pictures that ``naming`` takes.

    Of one folder, the folders inside come one by one as they are found, so that work begins before all are listed; of
    several paths everything comes at once, and every file once. Raises PlanError for a folder in which there is nothing
    to take; for one inside that cannot be listed it is yielded.
    """
    if len(paths) == 1 and paths[0].is_dir():
        yield from _inputs_below(paths[0], recursive, naming)
        return
    found: dict[tuple[str, str], Input] = {}
    real = cache(os.path.realpath)
    for path in paths:
        alone = [[Input(path.parent, path.name)]]
        for group in _inputs_below(path, recursive, naming) if path.is_dir() else alone:
            if isinstance(group, PlanError):
                raise group
            for item in group:
                found.setdefault((real(item.folder), item.name), item)
    yield list(found.values())


def _inputs_below(root: Path, recursive: bool, naming: Naming) -> Iterator[list[Input] | PlanError]:
    errors: list[OSError] = []
    found = False
    others: list[list[Input]] = []  # if nothing is wanted
    for folder, names in picture_folders(root, recursive=recursive, onerror=errors.append):
        place = folder.relative_to(root)
        if group := [Input(folder, name, place) for name in names if naming.wanted(name)]:
            found = True
            yield group
        elif naming.otherwise is not None and not found:
            others.append([Input(folder, name, place) for name in names if naming.otherwise(name)])
    problems = [PlanError(f"{e.filename} cannot be listed ({why(e)}); check its permissions.") for e in errors]
    if not found and not any(others):
        hint = "" if recursive else "; use --recursive to look into the folders in it"
        raise problems[0] if problems else PlanError(f"{root} has no pictures to work on{hint}.")
    if not found:
        yield from (group for group in others if group)
    yield from problems


def plan(
    inputs: Iterable[list[Input] | PlanError],
    naming: Naming,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    frames: Callable[[Path], int] | None = None,
) -> Iterator[Group]:
    """What is to be written.

    ``naming`` gives the names of the files that come of an input; they go beside it, or inside ``output``. What exists
    is skipped, unless ``overwrite``. ``frames``: how many a file has; each then becomes a job, and the base names of
    several are numbered. A problem with a whole group of inputs is that two would write one file, an input would be
    written, or a folder cannot be written to.
    """
    for group in inputs:
        try:
            if isinstance(group, PlanError):
                raise group
            parts = _parts(group, naming, output, frames)
            _check_conflicts(parts, group)
            folders = {part.folder for part in parts}
            checked = False
            for start in range(0, len(parts), _PARTS):
                jobs = [part.job(naming.alternatives) for part in parts[start : start + _PARTS]]
                if overwrite:
                    pending = [replace(job, before=_state(job.outputs)) for job in jobs]
                else:
                    pending = [job for job in jobs if not job.done()]
                if pending and not checked:
                    _check_folders(folders)
                    checked = True
                yield Group(pending, len(jobs) - len(pending), frozenset(folders) if start == 0 else frozenset())
        except PlanError as error:
            yield Group(problem=error)


def run(
    groups: Iterable[Group],
    prepare: Callable[[], Callable[[Job], str]],
    *,
    show_each: bool = False,
) -> Outcome:
    """Do the jobs one after another; a file that fails does not stop the rest, a full disk does.

    ``prepare`` gives the work, once there is something to do. What that returns is printed for a single file, or with
    ``show_each``. A bar with the time left is shown for several where stderr is a terminal. A file that another process
    works on is left to it, and waited for at the end. Raises DeviceError and MissingDependencyError, which no file is
    free of, and PlanError where the first group has a problem; that of a later one counts as a failure. A
    KeyboardInterrupt gets a note of how many are done.
    """
    outcome = Outcome()
    try:
        _do(groups, prepare, show_each, outcome)
    except KeyboardInterrupt as error:
        rest = "with --overwrite all are done anew" if outcome.overwrites else "the same command goes on with the rest"
        error.add_note(f"{outcome.done} done; {rest}")
        raise
    return outcome


def _do(
    groups: Iterable[Group], prepare: Callable[[], Callable[[Job], str]], show_each: bool, outcome: Outcome
) -> None:
    """See `run`."""
    work: Callable[[Job], str] | None = None
    busy: list[Job] = []
    listed = _Ahead(groups)
    first = listed.first
    outcome.single = single = len(first) == 1 and len(first[0].jobs) + first[0].skipped <= 1
    with tqdm(unit="file", dynamic_ncols=True, miniters=1, disable=True if single else None) as bar:

        def attempt(job: Job) -> bool:
            """Whether it is over with, and not left to another process."""
            assert work is not None
            text = None
            try:
                job.outputs[0].parent.mkdir(parents=True, exist_ok=True)
                with messages_about(job.source), claim(job.outputs[0]) as ours:
                    if not ours:
                        return False
                    if job.done():
                        outcome.elsewhere += 1
                    else:
                        text = work(job)
                        outcome.done += 1
            except (DeviceError, MissingDependencyError):
                raise
            except Exception as error:  # of any kind: it is this file's failure, and the rest goes on
                outcome.failures.append((job.source, reason(error, "; a smaller --tile needs less")))
                outcome.disk_full = disk_full(error)
            if text is not None and (single or show_each):
                tqdm.write(printable(text))
                sys.stdout.flush()  # a log of a long batch shows each file as it is done
            listed.go_on()
            bar.total = listed.total
            bar.update()
            return True

        for number, group in enumerate(listed):
            if group.problem is not None:
                if number == 0:
                    raise group.problem
                outcome.failures.append((None, str(group.problem)))
                continue
            outcome.skipped += group.skipped
            for folder in group.folders:
                clear_temporaries(folder)
            if group.jobs and work is None:
                work = prepare()
            for job in group.jobs:
                outcome.overwrites = bool(job.before)
                if not attempt(job):
                    busy.append(job)
                if outcome.disk_full:
                    return
        while busy and not outcome.disk_full:
            left = [job for job in busy if not attempt(job)]
            if len(left) == len(busy):
                time.sleep(_WAIT)
            busy = left


class _Ahead:
    """The groups: two at once, the others found by a thread while these are worked on; and how many jobs were found.

    A batch of up to two groups needs no thread: where memory is short, Python may wait for ever for one to start.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = iter(groups)
        self.first = list(islice(self._groups, 2))
        self.total = sum(len(group.jobs) for group in self.first)
        self._found: SimpleQueue[Group | BaseException | None] = SimpleQueue()
        self._begun = len(self.first) < 2

    def go_on(self) -> None:
        """Begin to find the others; before a first file is done, that would only delay it."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._list, daemon=True).start()

    def _list(self) -> None:
        try:
            for group in self._groups:
                self.total += len(group.jobs)
                self._found.put(group)
            self._found.put(None)
        except BaseException as error:
            self._found.put(error)

    def __iter__(self) -> Iterator[Group]:
        yield from self.first
        if len(self.first) < 2:
            return
        self.go_on()
        while (item := self._found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


@dataclass(frozen=True)
class _Part:
    """A job before its paths are made, which takes longer than all else that is done for it here."""

    source: Input
    folder: Path
    names: Sequence[str]
    frame: int | None

    def job(self, alternatives: int) -> Job:
        outputs = tuple(self.folder / name for name in self.names)
        return Job(self.source.path, outputs, self.frame, alternatives)


def _parts(
    group: Sequence[Input],
    naming: Naming,
    output: Path | None,
    frames: Callable[[Path], int] | None,
) -> list[_Part]:
    folders: dict[Path, Path] = {}
    parts = []
    for item in group:
        folder = item.folder
        if output is not None:
            folder = folders.get(item.place) or folders.setdefault(item.place, output / item.place)
        name, count = naming.base(item.name), 1
        if frames is not None:
            with suppress(FaithEIRError):  # the job will say what is wrong with the file
                count = frames(item.path)
        if count == 1:
            parts.append(_Part(item, folder, naming.names(name), None))
        for frame in range(count if count > 1 else 0):
            numbered = f"{name}.{frame + 1:0{max(3, len(str(count)))}}"
            parts.append(_Part(item, folder, naming.names(numbered), frame))
    return parts


def _check_conflicts(parts: Sequence[_Part], inputs: Sequence[Input]) -> None:
    """PlanError where two inputs would write one file, or an input would be written.

    A link is not followed, since it is replaced when it is written to; but folders are known by their real paths.
    """
    real = cache(os.path.realpath)
    sources = {(real(item.folder), item.name) for item in inputs}
    written = ((part.source, (real(part.folder), name), part.folder / name) for part in parts for name in part.names)
    check_conflicts(written, sources.__contains__, how=" with -o")


def _check_folders(folders: Iterable[Path]) -> None:
    """PlanError unless the outputs can be written where they are to go; creates nothing yet."""
    for folder in sorted(folders):
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise PlanError(f"{folder} cannot be written to: {existing} is not a folder; choose another with -o.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PlanError(f"{folder} cannot be written to: permission is missing; choose another with -o.")


def _state(paths: Sequence[Path]) -> _State:
    return tuple(_file_state(path) for path in paths)


def _file_state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (a third of the time, and there may be a million)
    except OSError:
        return None
    return (found.st_size, found.st_ino, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) and found.st_size else None
