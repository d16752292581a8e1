"""The command line: plans, batches, every error as one sentence, and help that does not need torch."""

import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from command import call, names, ok, refused
from conftest import save_tiny_model
from faitheir import devices, files
from faitheir.cli import jobs
from faitheir.cli.train import toml_value
from faitheir.models import WEIGHTS_FILE
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail
from tiny import model_config

Photo = Callable[..., Path]


@pytest.fixture
def run(tiny_model: Path) -> Callable[..., str]:
    """A command with the tiny model that has to succeed; its stdout."""
    return lambda command, *arguments: ok(command, *arguments, "--model", tiny_model)


def stripped(path: Path) -> Path:
    """The same picture, saved by a program that keeps no metadata."""
    Image.fromarray(np.array(Image.open(path))).save(path)
    return path


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
    assert names(tmp_path) == {"a.png", "b.png", "a.thumb.png"}
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


# Round trips and names.


def test_down_and_up_beside_the_input(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    source = photo("photo.jpg", 70, 45)
    assert "70 x 45 -> 5 x 3" in run("downscale", source)
    thumbnail = Thumbnail.open(tmp_path / "photo.thumb.png")
    assert thumbnail.info is not None
    assert (thumbnail.info.scale, thumbnail.size) == (16, (70, 45))
    assert "5 x 3 -> 70 x 45" in run("upscale", tmp_path / "photo.thumb.png")
    assert Image.open(tmp_path / "photo.restored.png").size == (70, 45)
    assert names(tmp_path) == {"photo.jpg", "photo.thumb.png", "photo.restored.png"}


def test_formats(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("photo.png"), "--format", "webp")
    thumbnail = tmp_path / "photo.thumb.webp"
    for suffix in ("png", "jpg", "webp", "tiff"):
        run("upscale", thumbnail, "--format", suffix)
        assert Image.open(tmp_path / f"photo.restored.{suffix}").size == (70, 45)
    sizes = []
    for quality in (10, 95):
        run("upscale", thumbnail, "--format", "jpg", "--quality", quality, "--overwrite")
        sizes.append((tmp_path / "photo.restored.jpg").stat().st_size)
    assert sizes[0] < sizes[1]
    assert "lossless" in refused("upscale", thumbnail, "--quality", 50, status=2)


def test_folder_structure_is_mirrored(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    photo("in/a.png")
    photo("in/trip/day 1/b.JPG")
    photo("in/.hidden/c.png")
    photo("in/._d.png")
    (tmp_path / "in/notes.txt").write_text("not a picture")
    out = tmp_path / "out" / "deep"
    assert run("downscale", tmp_path / "in", "-r", "-o", out) == "2 done\n"
    assert names(out) == {"a.thumb.png", "trip/day 1/b.thumb.png"}
    run("upscale", out, "-r", "-o", tmp_path / "back")
    assert names(tmp_path / "back") == {"a.restored.png", "trip/day 1/b.restored.png"}


def test_folder_is_not_searched_deeper_unasked(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    photo("in/a.png")
    photo("in/trip/b.png")
    run("downscale", tmp_path / "in")
    assert names(tmp_path) == {"in/a.png", "in/trip/b.png", "in/a.thumb.png"}


def test_folders_pass_over_our_outputs(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    photo("photo.jpg")
    for _ in range(2):
        run("downscale", tmp_path, "--overwrite")
        run("upscale", tmp_path, "--overwrite")
        run("roundtrip", tmp_path, "--overwrite")
    assert names(tmp_path) == {
        "photo.jpg",
        "photo.thumb.png",
        "photo.restored.png",
        "photo.roundtrip.png",
    }


def test_an_output_that_is_named_is_taken(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("photo.thumb.png", 40, 40))
    assert Image.open(tmp_path / "photo.thumb.thumb.png").size == (3, 3)


def test_upscale_takes_every_picture_where_no_thumbnail_is(
    run: Callable[..., str], photo: Photo, tmp_path: Path
) -> None:
    photo("small.png", 3, 2)
    photo("old.restored.png", 3, 2)
    run("upscale", tmp_path)
    assert names(tmp_path) == {"small.png", "old.restored.png", "small.restored.png"}
    assert Image.open(tmp_path / "small.restored.png").size == (48, 32)


def test_exists_already(run: Callable[..., str], photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        photo(name)
    run("downscale", tmp_path / "a.png")
    before = (tmp_path / "a.thumb.png").stat().st_mtime_ns
    text = run("downscale", tmp_path)
    assert text == "2 done, 1 skipped, exist already; --overwrite to redo\n"
    assert (tmp_path / "a.thumb.png").stat().st_mtime_ns == before
    assert run("downscale", tmp_path, "--overwrite") == "3 done\n"
    assert (tmp_path / "a.thumb.png").stat().st_mtime_ns != before
    monkeypatch.setattr(FaithEIRPipeline, "from_pretrained", None)  # nothing is loaded for nothing
    assert run("downscale", tmp_path) == "3 skipped, exist already; --overwrite to redo\n"


def test_same_file_twice_is_done_once(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png")
    assert "70 x 45" in run("downscale", path, tmp_path, tmp_path / ".." / tmp_path.name / "a.png")


def test_pictures_keep_their_alpha(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("roundtrip", photo("a.png", mode="RGBA"))
    assert Image.open(tmp_path / "a.thumb.png").mode == "RGBA"
    assert Image.open(tmp_path / "a.restored.png").mode == "RGBA"
    assert Image.open(tmp_path / "a.roundtrip.png").mode == "RGB"


# Plans: nothing is begun.


def test_two_inputs_for_one_output(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    for name in ("photo.jpg", "photo.png", "other.png"):
        photo(name)
    text = refused("downscale", tmp_path, "--model", tiny_model, status=2)
    assert all(name in text for name in ("photo.jpg", "photo.png", "photo.thumb.png"))
    assert names(tmp_path) == {"photo.jpg", "photo.png", "other.png"}


def test_two_folders_for_one_output(photo: Photo, tmp_path: Path) -> None:
    a, b = photo("a/photo.png"), photo("b/photo.png")
    text = refused("roundtrip", a.parent, b.parent, "-o", tmp_path / "out", status=2)
    assert str(a) in text
    assert str(b) in text
    assert not (tmp_path / "out").exists()


def test_output_that_is_an_input(photo: Photo, tmp_path: Path) -> None:
    thumbnail, restored = photo("a.thumb.png"), photo("a.restored.png")
    before = restored.read_bytes()
    for arguments in ((thumbnail, restored), (restored, thumbnail)):
        assert str(restored) in refused("upscale", *arguments, "--overwrite", status=2)
    assert restored.read_bytes() == before
    assert names(tmp_path) == {"a.thumb.png", "a.restored.png"}


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


def test_output_folder_without_permission(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    assert "permission" in refused("downscale", photo("a.png"), status=2)


def test_output_name_taken_by_a_folder(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    (tmp_path / "a.thumb.png").mkdir()
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
    def fail(*_: object) -> None:
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
    assert result.stderr.strip() == "faitheir: interrupted."
    assert names(tmp_path) == {"a.png", "b.png", "a.thumb.png", "a.restored.png", "a.roundtrip.png"}


# Models.


@pytest.mark.usefixtures("embedded")
def test_scale_names_the_embedded_model(photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png", 70, 45)
    for arguments, size in (((), (5, 3)), (("--scale", 16), (5, 3)), (("--scale", 32), (3, 2))):
        ok("downscale", path, "--overwrite", *arguments)
        assert Image.open(tmp_path / "a.thumb.png").size == size


def test_scale_and_model_that_disagree(tiny_model: Path, photo: Photo) -> None:
    path = photo("a.png")
    text = refused("downscale", path, "--model", tiny_model, "--scale", 32, status=2)
    assert "scale 16" in text
    ok("downscale", path, "--model", tiny_model, "--scale", 16)


@pytest.mark.usefixtures("nothing_embedded")
def test_a_known_model_without_weights(photo: Photo) -> None:
    assert "nano-x32" in refused("downscale", photo("a.png"), "--scale", 32)


@pytest.mark.usefixtures("embedded")
def test_thumbnails_name_their_models(photo: Photo, tmp_path: Path) -> None:
    ok("downscale", photo("a.png", 70, 45), "--scale", 16)
    ok("downscale", photo("b.png", 45, 70), "--scale", 32)
    ok("upscale", tmp_path)
    assert Image.open(tmp_path / "a.restored.png").size == (70, 45)
    assert Image.open(tmp_path / "b.restored.png").size == (45, 70)
    assert "scale 32" in refused("upscale", tmp_path / "b.thumb.png", "--scale", 16, "--overwrite")
    sentence = refused("upscale", tmp_path / "b.thumb.png", "--model", "nano-x16", "--overwrite")
    assert "32" in sentence
    assert "nano-x16" in sentence


@pytest.mark.usefixtures("embedded")
def test_thumbnail_of_a_model_that_is_not_here(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("a.png"))
    thumbnail = tmp_path / "a.thumb.png"
    text = refused("upscale", thumbnail)
    assert "'tiny-x16'" in text
    assert "give the folder or the Hub id" in text
    assert names(tmp_path) == {"a.png", "a.thumb.png"}


@pytest.mark.usefixtures("embedded")
def test_metadata_does_not_choose_folders(
    photo: Photo, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)  # where the folder tiny-x16 is
    ok("downscale", photo("a.png"), "--model", tiny_model)
    assert "give the folder or the Hub id" in refused("upscale", tmp_path / "a.thumb.png")


@pytest.mark.usefixtures("embedded")
def test_stripped_metadata(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("a.png", 70, 45))
    thumbnail = stripped(tmp_path / "a.thumb.png")
    for arguments, size in (((), (80, 48)), (("--scale", 16), (80, 48)), (("--scale", 32), (160, 96))):
        ok("upscale", thumbnail, "--overwrite", *arguments)
        assert Image.open(tmp_path / "a.restored.png").size == size


def test_thumbnail_of_other_weights(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "models" / "other", model_config(name="tiny-x16"), seed=1)
    ok("downscale", photo("a.png"), "--model", other)
    result = call("upscale", tmp_path / "a.thumb.png", "--model", tiny_model)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"faitheir: warning: {tmp_path / 'a.thumb.png'}: ")
    assert "tiny-x16" in line
    assert Image.open(tmp_path / "a.restored.png").size == (70, 45)


def test_warnings_of_other_packages_are_not_shown(
    tiny_model: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one line of ours, and --verbose shows them; where something failed, that is said alone."""
    original = FaithEIRPipeline.downscale_picture

    def warn(*arguments: Any) -> Any:
        warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
        os.write(2, b"TIFFReadDirectory: Warning, Unknown field.\n")
        logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded: 5")
        return original(*arguments)

    monkeypatch.setattr(FaithEIRPipeline, "downscale_picture", warn)
    path = photo("a.png")
    command = ("downscale", path, "--model", tiny_model, "--overwrite")
    assert call(*command).stderr == "faitheir: other programs wrote messages; --verbose shows them.\n"
    assert call("-v", *command).stderr == call(*command, "--verbose").stderr
    shown = call("-v", *command).stderr
    for text in ("Corrupt EXIF data", "Unknown field.", "More samples per pixel"):
        assert shown.count(text) == 1
    assert shown.count(str(path)) == 2
    damaged = photo("damaged.png")
    damaged.write_bytes(b"")
    assert "zero bytes" in refused("downscale", path, damaged, "--model", tiny_model, "--overwrite")


def test_thumbnail_whose_metadata_lies(run: Callable[..., str], photo: Photo, tmp_path: Path, tiny_model: Path) -> None:
    run("downscale", photo("a.png", 70, 45))
    path = tmp_path / "a.thumb.png"
    image = Image.open(path)
    claims = json.loads(image.text["FaithEIR"]) | {"width": 1_000_000}  # type: ignore[attr-defined]
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("FaithEIR", json.dumps(claims))
    image.save(path, pnginfo=metadata)
    assert "1000000" in refused("upscale", path, "--model", tiny_model)
    assert names(tmp_path) == {"a.png", "a.thumb.png"}


@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
def test_unknown_model(command: str, photo: Photo, tmp_path: Path) -> None:
    assert "nano-x61" in refused(command, photo("a.png"), "--model", "nano-x61", "-o", tmp_path / "out")
    assert "nano-x61" in refused("info", "nano-x61")
    assert names(tmp_path) == {"a.png"}
    assert not (tmp_path / "out").exists()


def broken_model(tiny_model: Path, folder: Path, kind: str) -> Path:
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    if kind == "misspelt key":
        config["codec"]["sclae"] = config["codec"].pop("scale")
    elif kind == "weights that do not fit":
        config["codec"]["growth"] = 6
    elif kind == "pickle":
        (folder / WEIGHTS_FILE).unlink()
        torch.save({}, folder / "pytorch_model.bin")
    elif kind == "pickle named safetensors":
        torch.save({}, folder / WEIGHTS_FILE)
    elif kind == "no weights":
        (folder / WEIGHTS_FILE).unlink()
    elif kind == "no config":
        (folder / "config.json").unlink()
    if kind != "no config":
        (folder / "config.json").write_text("{" if kind == "broken config" else json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("misspelt key", "did you mean 'scale'"),
        ("weights that do not fit", "do not fit"),
        ("pickle", "pytorch_model.bin"),
        ("pickle named safetensors", WEIGHTS_FILE),
        ("no weights", WEIGHTS_FILE),
        ("no config", "config.json"),
        ("broken config", "config.json"),
    ],
)
def test_broken_model(kind: str, sentence: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    folder = broken_model(tiny_model, tmp_path / "model", kind)
    path = photo("in/a.png")
    for command in ("downscale", "upscale", "roundtrip"):
        assert sentence in refused(command, path, "--model", folder)
    assert str(folder) in refused("info", folder)
    assert names(tmp_path / "in") == {"a.png"}


def test_no_network(photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    text = refused("downscale", photo("in/a.png"), "--model", "someone/some-model")
    assert "someone/some-model" in text
    assert "network" in text
    assert names(tmp_path / "in") == {"a.png"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["downscale", "upscale", "roundtrip"])
def test_no_gpu(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    photo("a.png")
    photo("b.png")
    text = refused(command, tmp_path, "--model", tiny_model, "--device", "cuda")
    assert "cuda" in text
    assert names(tmp_path) == {"a.png", "b.png"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("embedded")
def test_no_gpu_is_said_once(photo: Photo, tmp_path: Path) -> None:
    photo("a.thumb.png")
    photo("b.thumb.png")
    assert "cuda" in refused("upscale", tmp_path, "--device", "cuda")


@pytest.mark.parametrize("native", [False, True])
def test_pictures_are_made_in_bfloat16_where_that_is_fast(
    run: Callable[..., str], photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda _: native)
    path = photo("a.png")
    run("downscale", path)
    small = tmp_path / "a.thumb.png"
    made = {}
    for name, options in (("default", ()), ("half", ("--dtype", "bfloat16")), ("full", ("--dtype", "float32"))):
        run("upscale", small, "-o", tmp_path / name, "--device", "cpu", *options)
        (restored,) = (tmp_path / name).iterdir()
        made[name] = np.array(Image.open(restored))
    assert np.array_equal(made["default"], made["half" if native else "full"])
    assert not np.array_equal(made["half"], made["full"])


def test_tile_and_dtype(run: Callable[..., str], photo: Photo, tmp_path: Path, tiny_model: Path) -> None:
    path = photo("a.png", 700, 300)
    run("downscale", path, "--tile", 256, "--dtype", "bfloat16", "--device", "cpu")
    run("upscale", tmp_path / "a.thumb.png", "--tile", 256, "--dtype", "auto", "--device", "auto")
    assert Image.open(tmp_path / "a.restored.png").size == (700, 300)
    assert "tile" in refused("downscale", path, "--model", tiny_model, "--tile", 16, "--overwrite")


# roundtrip


def test_roundtrip(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    from faitheir.evaluation.metrics import psnr, ssim

    source = photo("photo.png", 100, 60)
    text = run("roundtrip", source, "-o", tmp_path / "out", "--format", "jpg")
    out = tmp_path / "out"
    assert names(out) == {"photo.thumb.png", "photo.restored.jpg", "photo.roundtrip.png"}
    a, b = (np.array(Image.open(path).convert("RGB")) for path in (source, out / "photo.restored.jpg"))
    assert f"PSNR {psnr(a, b):.2f} dB" in text
    assert f"SSIM {ssim(a, b):.4f}" in text
    size = (out / "photo.thumb.png").stat().st_size
    assert f"{size * 8 / 6000:.4f}" in text
    for part in ("100 x 60", "7 x 4", f"{source.stat().st_size:,} bytes", f"{size:,} bytes", "down", "up"):
        assert part in text
    row = np.array(Image.open(out / "photo.roundtrip.png"))
    assert row.shape == (60, 3 * 100 + 16, 3)
    assert (row[:, :100] == a).all()
    assert (row[:, -100:] == b).all()
    small = np.array(Image.open(out / "photo.thumb.png").convert("RGB"))
    assert (row[:, 108:208] == small.repeat(16, 0).repeat(16, 1)[:60, :100]).all()


def test_roundtrip_skips_only_what_is_whole(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    source = photo("photo.png")
    run("roundtrip", source)
    assert "1 skipped" in run("roundtrip", source)
    (tmp_path / "photo.restored.png").unlink()
    assert "PSNR" in run("roundtrip", source)
    assert (tmp_path / "photo.restored.png").exists()


def test_roundtrip_of_a_single_pixel(run: Callable[..., str], photo: Photo) -> None:
    assert "not defined" in run("roundtrip", photo("dot.png", 1, 1))


@pytest.mark.parametrize("size", [(1500, 20), (6, 5000)])
def test_side_by_side_is_bounded(size: tuple[int, int], run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("roundtrip", photo("photo.png", *size))
    width, height = Image.open(tmp_path / "photo.roundtrip.png").size
    assert 4000 < max(width, height) <= 4096


# info


@pytest.mark.usefixtures("embedded")
def test_info_lists_models() -> None:
    lines = ok("info").splitlines()
    assert [line.split()[0] for line in lines] == [
        "irn-x16",
        "nano-x16",
        "nano-x32",
        "t-irn-x16",
        "turbo-x16",
        "turbo-x32",
    ]
    assert "default" in lines[1]
    assert "not in this package" in lines[3]


def test_info_of_a_model(tiny_model: Path) -> None:
    text = ok("info", tiny_model)
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model)
    total = sum(parameter.numel() for parameter in pipeline.model.parameters())
    for part in (pipeline.weights, "tiny-x16", str(tiny_model), f"({total:,})", f"{total / 1e6:.3f} M"):
        assert part in text
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split(maxsplit=1)) == 2)
    assert (rows["scale"], rows["transform"], rows["backbone"]) == ("16", "lrt", "nano")
    assert rows["pse_hidden"] == "[8]"


@pytest.mark.usefixtures("nothing_embedded")
def test_info_of_a_known_model() -> None:
    text = ok("info", "nano-x16", "nano-x32")
    assert text.count("not in this package") == 2
    assert text.count("Total") == 2


def test_info_of_turbo() -> None:
    if not all(importlib.util.find_spec(package) for package in ("diffusers", "peft")):
        assert "faitheir[turbo]" in refused("info", "turbo-x16")
    else:
        assert "(985,0" in ok("info", "turbo-x16")


def test_info_of_thumbnails(embedded: Path, photo: Photo, tmp_path: Path, tiny_model: Path) -> None:
    ok("downscale", photo("a.png", 70, 45))
    path = tmp_path / "a.thumb.png"
    size = path.stat().st_size
    text = ok("info", path)
    for part in ("5 x 3", "70 x 45", "nano-x16", "the same weights", f"{size:,}", f"{size * 8 / 3150:.4f}"):
        assert part in text
    shutil.rmtree(embedded / "nano-x16")
    save_tiny_model(embedded / "nano-x16", model_config(name="nano-x16"), seed=5)
    assert "unknown (not in this package" in ok("info", path)
    ok("downscale", photo("b.png"), "--model", tiny_model)
    assert "unknown (not in this package" in ok("info", tmp_path / "b.thumb.png")
    stripped(path)
    text = ok("info", tmp_path)  # of all thumbnails in a folder
    assert "stripped" in text
    assert FaithEIRPipeline.from_pretrained(tiny_model).weights in text


def test_info_goes_on_after_a_failure(tiny_model: Path, tmp_path: Path) -> None:
    result = call("info", tmp_path, "no-such-model", tiny_model)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert "tiny-x16" in result.stdout


# train


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"7"', "7"),
        ("runs/other", "runs/other"),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_toml_value(text: str, value: object) -> None:
    assert toml_value(text) == value


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faitheir.training.loop as loop

    calls = []

    def record(config: Any, *, resume: str | None, dry_run: bool, log: Callable[[str], None]) -> Path:
        calls.append((config, resume))
        assert not dry_run
        log("step 1")
        return tmp_path / "run" / "model"

    monkeypatch.setattr(loop, "train", record)
    path = tmp_path / "config.toml"
    path.write_text('steps = 10\n[model]\nname = "tiny"\n[data]\ntrain = "photos"\n')
    text = ok(
        "train",
        path,
        "--set",
        "data.crop=128",
        "--set",
        "run=runs/x",
        "--set",
        "optimizer.lr = 1e-3",
        "--resume",
        "auto",
    )
    assert text == f"step 1\n{tmp_path / 'run' / 'model'}\n"
    ((config, resume),) = calls
    assert (config.data.crop, config.run, config.optimizer.lr, config.steps, resume) == (
        128,
        "runs/x",
        1e-3,
        10,
        "auto",
    )


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        ('setps = 10\n[model]\n[data]\ntrain = "x"', [], "did you mean 'steps'"),
        ('[model]\n[data]\ntrain = "x"', ["data.corp=128"], "did you mean 'crop'"),
        ('[model]\n[data]\ntrain = "x"', ["data.crop=large"], "crop"),
        ("[model", [], "TOML"),
        (None, [], "cannot be read"),
    ],
)
def test_wrong_training_config(content: str | None, settings: list[str], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_text(content)
    text = refused("train", path, *(part for setting in settings for part in ("--set", setting)))
    assert sentence in text
    assert "config.toml" in text


def test_set_without_a_value(tmp_path: Path) -> None:
    assert "KEY=VALUE" in refused("train", tmp_path / "config.toml", "--set", "steps", status=2)


# Planning, apart from any command.


def test_base_name() -> None:
    cases = {
        "a.thumb.png": "a",
        "a.jpg": "a",
        "a.b.thumb.webp": "a.b",
        ".thumb.png": ".thumb",
        "A.THUMB.PNG": "A",
    }
    assert {path: files.base_name(Path(path)) for path in cases} == cases


def test_links_are_names_of_their_own(tmp_path: Path, photo: Photo) -> None:
    photo("a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (found,) = jobs.find_inputs([tmp_path], recursive=False, wanted=files.is_photograph)
    assert not isinstance(found, jobs.PlanError)
    assert [item.name for item in found] == ["a.png", "b.png"]
