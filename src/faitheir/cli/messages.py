"""What goes to stderr: one line for each thing that a user must know, and what other programs say only when asked."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faitheir.errors import one_line

_LOG = logging.getLogger("faitheir")


class Messages(logging.Handler):
    """Shows what is logged under the name "faitheir" as lines on stderr, and counts what others log.

    With ``verbose`` everything is shown. Python's warnings are logged too, under "faitheir" where they are ours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.verbose = False
        self._shown = self._held_back = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Show or count a record."""
        ours = record.name.split(".")[0] == "faitheir"
        if ours or self.verbose:
            name = "" if ours else f"{record.name}: "
            level = record.levelname.lower()
            self.show(f"{level}: {name}{one_line(record.getMessage())}")
        else:
            self._held_back += 1

    def show(self, text: str) -> None:
        """Show a line; OSError where stderr is gone."""
        self._shown += 1
        tqdm.write(printable(f"faitheir: {text}"), file=sys.stderr)

    def be_verbose(self) -> None:
        """Show everything from now on, and of ours what is logged as information, too."""
        self.verbose = True
        _LOG.setLevel(logging.DEBUG)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Be the handler of this process's logging and warnings; what was held back is counted in one line at the end.

        That line is left out where something else was shown: an error says enough, and so does an interruption, during
        which Python may warn of files that it left open.
        """
        self.verbose, self._shown, self._held_back = False, 0, 0
        level = _LOG.level
        root = logging.getLogger()
        root.addHandler(self)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _log_warning
                yield
        finally:
            root.removeHandler(self)
            _LOG.setLevel(level)
            if self._held_back and not self._shown:
                print("faitheir: other programs wrote messages; --verbose shows them.", file=sys.stderr)


#: The one of this process.
MESSAGES = Messages()


def show_error(text: str) -> None:
    """Say what failed, on one line."""
    _LOG.error("%s", text)


def show_warning(text: str) -> None:
    """Say what a user should know, on one line."""
    _LOG.warning("%s", text)


@contextlib.contextmanager
def messages_about(path: Path) -> Iterator[None]:
    """Begin warnings with a file's name, and take what libraries in C write to stderr for other programs' messages."""
    written: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with _diverted(written):
                yield
        finally:
            for warning in caught:
                _log_warning(about(path, str(warning.message)), warning.category)
            for line in written:
                logging.getLogger("stderr").warning("%s", about(path, line))


def about(path: Path, text: str) -> str:
    """The text, beginning with the file's name."""
    return text if text.startswith(str(path)) else f"{path}: {text}"


#: What a file's name may do to a terminal: control characters but for line breaks, and changes of direction.
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text, with escapes for what a terminal cannot show, or would take for commands: bytes of names, controls."""
    text = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """In place of ``warnings.showwarning``."""
    ours = category.__module__.startswith("faitheir")
    logging.getLogger("faitheir" if ours else category.__name__).warning("%s", message)


@contextlib.contextmanager
def _diverted(lines: list[str]) -> Iterator[None]:
    """Add to ``lines`` what is written to file descriptor 2 meanwhile."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:
        file = open(os.devnull, "w+b")  # noqa: PTH123, SIM115
    with file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
