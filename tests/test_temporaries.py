"""What killed processes leave is cleared, what live ones use is not, and one of several processes makes a file."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import names
from faitheir.errors import StorageError, disk_full
from faitheir.storage import claim, clear_temporaries, temporary_folder, write_atomic

pytestmark = pytest.mark.skipif(os.name == "nt", reason="files are locked in the manner of Unix")


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python that has printed a line and then waits for its end."""
    code = f"import sys, time\nfrom faitheir.storage import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            yield child
        finally:
            child.kill()


WAIT = "print('ready', flush=True), time.sleep(60)"
LEFT = {
    "a file": f"import os\nos.fsync = lambda _: ({WAIT})\nwrite_atomic(sys.argv[1] + '/a.png', b'whole')",
    "a folder": "with temporary_folder(sys.argv[1]) as f:"
    f" (f / 'a').mkdir(), (f / 'a' / 'b.png').write_bytes(b'half'), {WAIT}",
    "a claim": f"with claim(sys.argv[1] + '/a.png') as ours: ours or exit(), {WAIT}",
}


@pytest.mark.parametrize("kind", LEFT)
def test_only_what_a_killed_process_left_is_cleared(kind: str, tmp_path: Path) -> None:
    (tmp_path / ".faitheir-other").write_text("the user's")
    with process(LEFT[kind], tmp_path) as child:
        there = names(tmp_path)
        assert len(there) > 1
        clear_temporaries(tmp_path)
        assert names(tmp_path) == there
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert names(tmp_path) == there
        clear_temporaries(tmp_path)
    assert names(tmp_path) == {".faitheir-other"}
    assert {path.name for path in tmp_path.iterdir()} == {".faitheir-other"}


def make_a_folder(folder: Path) -> None:
    with temporary_folder(folder) as inside:
        (inside / "a.png").write_bytes(b"half")


def make_a_claim(folder: Path) -> None:
    with claim(folder / "a.png") as ours:
        assert ours


@pytest.mark.parametrize("make", [lambda folder: write_atomic(folder / "a.png", b"whole"), make_a_folder, make_a_claim])
def test_an_interruption_at_any_time_leaves_nothing(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal after ever more microseconds, until what is made is done before it comes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a slow disk would make thousands of steps

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    microseconds, interrupted, done = 1, 0, 0
    try:
        while done < 30:
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                make(tmp_path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                done += 1
            except KeyboardInterrupt:
                interrupted += 1
            assert names(tmp_path) <= {"a.png"}
            assert len(list(tmp_path.iterdir())) <= 1
            microseconds += 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 10


def test_a_claim_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with process(LEFT["a claim"], tmp_path) as child:
        with claim(path) as ours:
            assert not ours
        with claim(tmp_path / "b.png") as ours:
            assert ours
        child.send_signal(signal.SIGKILL)
        child.wait()
        with claim(path) as ours, claim(path) as twice:
            assert ours
            assert not twice
    assert names(tmp_path) == set()


def test_many_processes_and_one_claim(tmp_path: Path) -> None:
    """While others clear and claim the same, nobody's file vanishes and no two have the claim at once."""
    code = (
        "import os, sys\nfrom faitheir.storage import *\nfolder = sys.argv[1]\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for n in range(150):\n"
        "    clear_temporaries(folder)\n"
        "    with claim(folder + '/a.png') as ours:\n"
        "        if ours:\n"
        "            os.close(os.open(folder + '/held', os.O_CREAT | os.O_EXCL))\n"
        "            write_atomic(folder + '/a.png', b'x' * n)\n"
        "            with temporary_folder(folder) as f: (f / 'x').write_bytes(b'x')\n"
        "            os.unlink(folder + '/held')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.communicate("\n", timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert names(tmp_path) == {"a.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


def test_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is kept from a file, and what is left is cleared after a day."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with claim(tmp_path / "a.png") as ours, claim(tmp_path / "a.png") as twice:
        assert ours
        assert twice
    new, old = tmp_path / ".faitheir-1.tmp", tmp_path / ".faitheir-2.tmp"
    for path in (new, old):
        path.write_bytes(b"")
    os.utime(old, (1e9, 1e9))
    clear_temporaries(tmp_path)
    assert names(tmp_path) == {new.name}
    write_atomic(tmp_path / "a.png", b"whole")
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert names(tmp_path) == {new.name, "a.png"}


@pytest.mark.parametrize(
    ("code", "full", "advice"),
    [
        (errno.ENOSPC, True, "free some space on that disk, or choose another folder"),
        (errno.EDQUOT, True, "free some space on that disk, or choose another folder"),
        (errno.EROFS, True, "choose another folder"),
        (errno.EIO, False, "choose another folder"),
        (errno.ENAMETOOLONG, False, "give it a shorter name"),
    ],
)
def test_advice_fits_the_error(
    code: int, full: bool, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=advice) as caught:
        write_atomic(tmp_path / "a.png", b"whole")
    assert disk_full(caught.value) == full
    assert names(tmp_path) == set()


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="give it a shorter name"):
        write_atomic(tmp_path / ("n" * 300), b"")
