"""The command line: help that does not need torch, plans, and every error as one sentence."""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from command import call, names, ok, refused
from faitheir import files
from faitheir.batches import restored_naming
from faitheir.cli import jobs
from faitheir.errors import PlanError
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail

Photo = Callable[..., Path]


# Help and the program itself.


@pytest.mark.parametrize("command", ["", "downscale", "upscale", "roundtrip", "info", "train"])
def test_help_does_not_import_torch(command: str) -> None:
    code = (
        "import sys; from faitheir.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert 'torch' not in sys.modules; assert 'faitheir.cli' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert "Exit status" in done.stdout


def test_as_a_process(photo: Photo, tiny_model: Path, tmp_path: Path) -> None:
    def process(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "faitheir", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert process("--version").stdout.startswith("faitheir 0.")
    picture = photo("a.png")
    (tmp_path / "b.png").write_bytes(b"no picture at all")
    done = process("downscale", tmp_path, "--model", tiny_model)
    assert done.returncode == 1
    assert done.stdout == "1 done, 1 failed\n"
    assert done.stderr.count("\n") == 1, done.stderr  # no bar where stderr is no terminal
    assert done.stderr.startswith(f"faitheir: error: {tmp_path / 'b.png'} ")
    assert names(tmp_path) == {"a.png", "b.png", "a.thumb.avif"}
    assert process("downscale", picture, "--sclae", "16").returncode == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal of Unix's kind")
def test_bar_with_time_left_in_a_terminal(photo: Photo, tiny_model: Path, tmp_path: Path) -> None:
    import fcntl
    import struct
    import termios

    photo("a.png")
    photo("b.png")
    reader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", "faitheir", "downscale", str(tmp_path), "--model", str(tiny_model)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, check=True)
    os.close(terminal)
    shown = os.read(reader, 100_000).decode(errors="replace")
    os.close(reader)
    assert re.search(r"2/2 \[\d\d:\d\d<\d\d:\d\d", shown), shown
    assert done.stdout == "2 done\n"


def test_no_command_shows_help() -> None:
    assert "downscale" in ok()


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("downscale",),
        ("downscale", "a.jpg", "--scale", "8"),
        ("upscale", "a.png", "--format", "gif"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    refused(*arguments, status=2)


# Plans: nothing is begun.


def test_two_inputs_for_one_output(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    for name in ("photo.jpg", "photo.png", "other.png"):
        photo(name)
    text = refused("downscale", tmp_path, "--model", tiny_model, status=2)
    assert all(name in text for name in ("photo.jpg", "photo.png", "photo.thumb.avif"))
    assert names(tmp_path) == {"photo.jpg", "photo.png", "other.png"}


def test_two_folders_for_one_output(photo: Photo, tmp_path: Path) -> None:
    a, b = photo("a/photo.png"), photo("b/photo.png")
    text = refused("roundtrip", a.parent, b.parent, "-o", tmp_path / "out", status=2)
    assert str(a) in text
    assert str(b) in text
    assert not (tmp_path / "out").exists()


def test_output_that_is_an_input(photo: Photo, tmp_path: Path) -> None:
    thumbnail, restored = photo("a.thumb.avif"), photo("a.restored.png")
    before = restored.read_bytes()
    for arguments in ((thumbnail, restored), (restored, thumbnail)):
        assert str(restored) in refused("upscale", *arguments, "--overwrite", status=2)
    assert restored.read_bytes() == before
    assert names(tmp_path) == {"a.thumb.avif", "a.restored.png"}


@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
def test_folder_without_pictures(command: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    assert str(tmp_path) in refused(command, tmp_path, status=2)
    assert "--recursive" not in refused(command, tmp_path, "-r", status=2)


@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
def test_output_that_cannot_be_written(command: str, photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(command, path, "-o", tmp_path / "file" / "out", status=2)
    assert str(tmp_path / "file") in refused(command, path, "-o", tmp_path / "file", status=2)
    assert names(tmp_path) == {"a.png", "file"}


@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
def test_a_picture_named_for_an_output_folder(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    path, output = photo("a.png"), tmp_path / "b.avif"
    assert "named like a picture" in refused(command, path, "-o", output, status=2)
    assert names(tmp_path) == {"a.png"}
    output.mkdir()  # a folder that is there is what was meant
    ok(command, path, "--model", tiny_model, "-o", output)


def test_output_folder_without_permission(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    assert "permission" in refused("downscale", photo("a.png"), status=2)


def test_output_name_taken_by_a_folder(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    (tmp_path / "a.thumb.avif").mkdir()
    assert "folder" in refused("downscale", photo("a.png"), "--model", tiny_model)
    assert names(tmp_path) == {"a.png"}


# Files that fail.


def bomb(path: Path) -> None:
    """A PNG that says it is 100000 x 100000."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not an image": (lambda path: path.write_text("hello " * 100), "not a picture"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:600]), "damaged or cut short"),
    "zero bytes": (lambda path: path.write_bytes(b""), "zero bytes"),
    "a bomb": (bomb, "100000 x 100000"),
    "missing": (lambda path: path.unlink(), "does not exist"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
@pytest.mark.usefixtures("embedded")
def test_damaged_file(command: str, kind: str, photo: Photo, tmp_path: Path) -> None:
    path = photo("bad.png", 60, 40)
    damage, sentence = DAMAGED[kind]
    damage(path)
    text = refused(command, path)
    assert str(path) in text
    assert sentence in text
    assert names(tmp_path) <= {"bad.png"}
    assert str(path) in refused("info", path)


def test_a_failure_does_not_stop_the_rest(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        photo(name)
    (tmp_path / "b.png").write_bytes(b"")
    result = call("roundtrip", tmp_path, "--model", tiny_model)
    assert result.exit_code == 1
    assert result.stdout.endswith("2 done, 1 failed\n")
    assert "mean of 2 files" in result.stdout
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "b.png") in line
    assert {"a.roundtrip.png", "c.roundtrip.png"} < names(tmp_path)
    assert not any(name.startswith("b.") and name != "b.png" for name in names(tmp_path))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate"),
            "not enough memory",
        ),
        (RuntimeError("an odd\nshape"), "RuntimeError: an odd shape"),
        (OSError(28, "No space left on device", "x.png"), "No space left"),
    ],
)
@pytest.mark.parametrize("command", ["downscale", "roundtrip"])
def test_unexpected_errors(
    command: str,
    error: Exception,
    sentence: str,
    tiny_model: Path,
    photo: Photo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    method = "upscale_thumbnail" if command == "roundtrip" else "downscale_picture"
    monkeypatch.setattr(FaithEIRPipeline, method, fail)
    assert sentence in refused(command, photo("a.png"), "--model", tiny_model, "-o", tmp_path / "out")
    assert names(tmp_path) == {"a.png"}


def test_interrupted(tiny_model: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.png")
    photo("b.png")
    upscale = FaithEIRPipeline.upscale_thumbnail

    def interrupt(pipeline: FaithEIRPipeline, thumbnail: Thumbnail) -> Any:
        if (tmp_path / "a.roundtrip.png").exists():
            raise KeyboardInterrupt
        return upscale(pipeline, thumbnail)

    monkeypatch.setattr(FaithEIRPipeline, "upscale_thumbnail", interrupt)
    result = call("roundtrip", tmp_path, "--model", tiny_model)
    assert result.exit_code == 130
    assert result.stderr == "faitheir: interrupted, 1 done; the same command goes on with the rest.\n"
    assert names(tmp_path) == {"a.png", "b.png", "a.thumb.avif", "a.restored.png", "a.roundtrip.png"}


# Planning, apart from any command.


def test_base_name() -> None:
    cases = {
        "a.thumb.avif": "a",
        "a.jpg": "a",
        "a.b.thumb.avif": "a.b",
        ".thumb.avif": ".thumb",
        "A.THUMB.PNG": "A",
    }
    assert {path: files.base_name(Path(path)) for path in cases} == cases


@pytest.mark.skipif(os.name == "nt", reason="names in the manner of Unix")
def test_names_do_nothing_to_the_terminal(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """Control characters, changes of direction and undecodable bytes are shown as escapes, and kept in outputs."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[31m\xff"))
    folder.mkdir()
    for name in ("a\nb\x07.png", "c\u202egnp.png"):
        photo("x.png").rename(folder / name)
    (folder / "d\x9b.png").write_text("words")

    def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
        # In a process of its own: a name that is no UTF-8 in what pytest captures of this one stops pytest-xdist.
        line = [sys.executable, "-m", "faitheir", "downscale", *map(str, arguments), "--model", str(tiny_model)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    result = command(folder)
    assert result.stdout == "2 done, 1 failed\n"
    assert (
        result.stderr
        == f"faitheir: error: {tmp_path}/\\x1b[31m\\udcff/d\\x9b.png is not a picture of a kind read here; "
        "convert it to PNG or JPEG.\n"
    )
    assert {path.name for path in folder.glob("*.thumb.avif")} == {"a\nb\x07.thumb.avif", "c\u202egnp.thumb.avif"}
    text = command(folder / "c\u202egnp.png", "--overwrite").stdout
    assert "\\x1b[31m\\udcff/c\\u202egnp.thumb.avif" in text


def test_links_are_names_of_their_own(tmp_path: Path, photo: Photo) -> None:
    photo("a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (found,) = jobs.find_inputs([tmp_path], restored_naming("png"), recursive=False)
    assert not isinstance(found, PlanError)
    assert [item.name for item in found] == ["a.png", "b.png"]
