"""Batches under bad conditions: full disks, killed runs, several processes, folders that conflict, short memory."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from command import call, names, ok, refused
from faitheir.batches import Naming, restored_naming
from faitheir.cli.jobs import find_inputs, plan
from faitheir.files import base_name
from faitheir.pipeline import FaithEIRPipeline
from faitheir.storage import TEMPORARY_PREFIX, TEMPORARY_SUFFIX

Photo = Callable[..., Path]


def planned(folder: Path, *, output: Path | None = None) -> Any:
    naming = Naming((".thumb.avif",))
    return plan(find_inputs([folder], naming, recursive=True), naming, output=output)


@pytest.mark.parametrize("command", ["downscale", "roundtrip"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_batch(
    command: str, code: int, tiny_model: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        photo(f"{name}.png")
    computed, flush = [], os.fsync
    original = FaithEIRPipeline.downscale_picture

    def count(pipeline: Any, picture: Any, **options: Any) -> Any:
        computed.append(picture)
        return original(pipeline, picture, **options)

    def full(descriptor: int) -> None:
        if len(computed) > 1:
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(FaithEIRPipeline, "downscale_picture", count)
    monkeypatch.setattr(os, "fsync", full)
    result = call(command, tmp_path, "--model", tiny_model)
    assert result.exit_code == 1
    assert len(computed) == 2
    (line,) = result.stderr.splitlines()
    assert os.strerror(code) in line
    assert result.stdout.endswith("1 done, 1 failed, the rest not begun\n")
    assert {path.name.split(".")[0] for path in tmp_path.glob("*.*.*")} == {"a"}
    monkeypatch.setattr(os, "fsync", flush)
    assert ok(command, tmp_path, "--model", tiny_model).endswith(
        "3 done, 1 skipped, exist already; --overwrite to redo\n"
    )


def test_an_empty_output_is_not_done(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    photo("a.png")
    (tmp_path / "a.thumb.avif").touch()
    assert "skipped" not in ok("downscale", tmp_path, "--model", tiny_model)
    assert (tmp_path / "a.thumb.avif").stat().st_size > 0


def test_what_a_killed_run_left_is_cleared(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """Even where nothing is left to do."""
    photo("in/a.png")
    left = tmp_path / "out" / f"{TEMPORARY_PREFIX}1{TEMPORARY_SUFFIX}"
    for _ in range(2):
        left.parent.mkdir(exist_ok=True)
        left.touch()
        ok("downscale", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model)
        assert names(tmp_path / "out") == {"a.thumb.avif"}


def started(*command: object, **options: Any) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    arguments = [sys.executable, "-m", "faitheir", *map(str, command)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_outputs(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is done and the next one begun."""
    while not (any(folder.glob("*.thumb.*")) and any(folder.glob(f"{TEMPORARY_PREFIX}*"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


@pytest.mark.skipif(os.name == "nt", reason="signals in the manner of Unix")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_signal_ends_the_batch(name: str, options: list[str], tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """The file it is at leaves nothing, what is done is whole, one line says how to go on."""
    number, out = signal.Signals[name], tmp_path / "out"
    for index in range(60):
        photo(f"in/{index}.png", 300, 200)
    command = ("downscale", tmp_path / "in", "-o", out, "--model", tiny_model)
    with started(*command, *options) as process:
        wait_for_outputs(out, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    done = {path.name for path in out.iterdir()}
    assert 0 < len(done) < 60
    assert all(re.fullmatch(r"\d+\.thumb\.avif", name) for name in done), done
    goes_on = "with --overwrite all are done anew" if options else "the same command goes on with the rest"
    said = re.fullmatch(rf"faitheir: interrupted, (\d+) done; {goes_on}\.\n", errors)
    assert said, errors
    assert len(done) - int(said[1]) in (0, 1)  # one may be in place and not be counted yet
    assert f"{60 - len(done)} done, {len(done)} skipped" in ok(*command)


@pytest.mark.skipif(os.name == "nt", reason="signals in the manner of Unix")
def test_a_signal_that_is_ignored_ends_nothing(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """As with nohup."""
    for index in range(20):
        photo(f"in/{index}.png", 300, 200)
    command = ("downscale", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_model)
    with started(*command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        wait_for_outputs(tmp_path / "out", process)
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=60) == ("20 done\n", "")


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_two_processes_share_a_folder(options: list[str], tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """Every file is done once, both wait for the whole, and both say so."""
    count = 12
    for number in range(count):
        photo(f"in/{number}.png", 300, 200)
    folders = ("-o", tmp_path / "out", "--model", tiny_model)
    if options:
        ok("downscale", tmp_path / "in", *folders)
    command = [sys.executable, "-m", "faitheir", "downscale", str(tmp_path / "in"), *map(str, folders), *options]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    done = [int(found.group(1)) for text in texts if (found := re.search(r"(\d+) done(,|$)", text))]
    if not options:
        assert sum(done) == count, texts
    assert names(tmp_path / "out") == {f"{number}.thumb.avif" for number in range(count)}


def test_a_file_that_another_process_failed_at_is_tried(
    tiny_model: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is seen once, and then free again, with no output."""
    from collections.abc import Iterator
    from contextlib import contextmanager

    from faitheir.cli import jobs

    seen: list[Path] = []
    claim = jobs.claim

    @contextmanager
    def busy_at_first(path: Path) -> Iterator[bool]:
        with claim(path) as ours:
            yield ours and path in seen
        seen.append(path)

    monkeypatch.setattr(jobs, "claim", busy_at_first)
    photo("a.png")
    photo("b.png")
    assert ok("downscale", tmp_path, "--model", tiny_model) == "2 done\n"


def test_a_name_that_is_too_long_is_one_failure(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    photo("a.png")
    photo("n" * 248 + ".png")
    result = call("downscale", tmp_path, "--model", tiny_model)
    assert result.stdout == "1 done, 1 failed\n"
    (line,) = result.stderr.splitlines()
    assert line.endswith("give it a shorter name.")


def test_work_begins_before_all_folders_are_listed(photo: Photo, tmp_path: Path) -> None:
    photo("in/a/1.png")
    (tmp_path / "in/b").mkdir()
    groups = planned(tmp_path / "in")
    assert [job.source.name for job in next(groups).jobs] == ["1.png"]
    photo("in/b/2.png")
    assert [job.source.name for job in next(groups).jobs] == ["2.png"]
    assert next(groups, None) is None


def test_a_large_folder_comes_in_parts(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number:03}.png").touch()
    found = [job.source.name for group in planned(tmp_path) for job in group.jobs]
    assert found == sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "599.jpg").touch()  # the conflict is at the end, and found before anything is begun
    (group,) = planned(tmp_path)
    assert "599.jpg and" in str(group.problem)


def test_a_conflict_in_a_later_folder_is_its_failure(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png", "b/2.jpg", "c/3.png"):
        photo(f"in/{name}")
    result = call("downscale", tmp_path / "in", "-r", "-o", tmp_path / "out", "--model", tiny_model)
    assert result.exit_code == 1
    assert result.stdout == "2 done, 1 failed\n"
    assert "2.jpg and" in result.stderr
    assert names(tmp_path / "out") == {"a/1.thumb.avif", "c/3.thumb.avif"}


def test_a_folder_that_cannot_be_listed(
    tiny_model: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        photo(f"in/{name}")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith(("in/b", "in/c") if everything else "in/b"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    everything = False
    monkeypatch.setattr(os, "scandir", refuse)  # root may list anything
    result = call("downscale", tmp_path / "in", "-r", "--model", tiny_model)
    assert result.exit_code == 1
    assert result.stdout == "2 done, 1 failed\n"
    assert "in/b cannot be listed (Permission denied)" in result.stderr
    assert (tmp_path / "in/c/3.thumb.avif").exists()
    everything = True
    (tmp_path / "in/a/1.png").unlink()
    assert "cannot be listed" in refused("downscale", tmp_path / "in", "-r", "--model", tiny_model, status=2)


def test_thumbnails_anywhere_are_taken_before_pictures(photo: Photo, tmp_path: Path) -> None:
    """That one folder has only photographs does not make them thumbnails."""

    def found() -> list[str]:
        groups = find_inputs([tmp_path], restored_naming("png"), recursive=True)
        return [item.name for group in groups if isinstance(group, list) for item in group]

    photo("a/1.png")
    photo("c/3.restored.png")
    assert found() == ["1.png"]
    photo("b/2.thumb.avif")
    assert found() == ["2.thumb.avif"]
    assert base_name("b/2.thumb.avif") == "2"


def test_short_of_memory(tiny_model: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    ok("downscale", photo("a.png", 70, 45), "--model", tiny_model)
    monkeypatch.setattr(FaithEIRPipeline, "downscale_picture", fail)
    monkeypatch.setattr(FaithEIRPipeline, "upscale_thumbnail", fail)
    text = refused("downscale", tmp_path / "a.png", "--overwrite", "--model", tiny_model)
    assert "there is not enough memory for 70 x 45 pixels; a smaller --tile" in text
    text = refused("upscale", tmp_path / "a.thumb.avif", "--model", tiny_model)
    assert "there is not enough memory for 70 x 45 pixels; a smaller --tile" in text


@pytest.mark.parametrize("command", ["downscale", "roundtrip"])
def test_frames(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """The first, said in one line; or each, under a number."""
    frames = [Image.open(photo(f"{name}.png", 70, 45, seed=seed)) for seed, name in enumerate("xyz")]
    (tmp_path / "in").mkdir()
    frames[0].save(tmp_path / "in/a.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "in/b.tiff", save_all=True, append_images=frames[1:2])
    frames[0].save(tmp_path / "in/c.png")
    command_line = (command, tmp_path / "in", "--model", tiny_model, "-o")
    result = call(*command_line, tmp_path / "first")
    assert result.exit_code == 0
    assert sorted(line.split(": ")[2] for line in result.stderr.splitlines()) == [
        str(tmp_path / "in/a.png"),
        str(tmp_path / "in/b.tiff"),
    ]
    assert "--all-frames" in result.stderr
    result = call(*command_line, tmp_path / "all", "--all-frames")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "6 done" in result.stdout
    made = {path.name for path in (tmp_path / "all").glob("*.thumb.avif")}
    assert made == {f"{name}.thumb.avif" for name in ("a.001", "a.002", "a.003", "b.001", "b.002", "c")}

    def pixels(path: Path) -> bytes:
        return Image.open(path).convert("RGB").tobytes()

    assert pixels(tmp_path / "all/a.001.thumb.avif") == pixels(tmp_path / "first/a.thumb.avif")
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "one.png")
        call("downscale", tmp_path / "one.png", "--model", tiny_model, "--overwrite")
        assert pixels(tmp_path / f"all/a.00{number + 1}.thumb.avif") == pixels(tmp_path / "one.thumb.avif")


def test_a_limit_on_pixels(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png", 70, 45)
    for command in ("downscale", "roundtrip"):
        assert "3149" in refused(command, path, "--model", tiny_model, "--max-pixels", 70 * 45 - 1).replace(",", "")
        ok(command, path, "--model", tiny_model, "--max-pixels", 70 * 45)
        (tmp_path / "a.thumb.avif").unlink()
    ok("downscale", path, "--model", tiny_model)
    small = tmp_path / "a.thumb.avif"
    assert "3149" in refused("upscale", small, "--model", tiny_model, "--max-pixels", 3149, "--overwrite").replace(
        ",", ""
    )
    ok("upscale", small, "--model", tiny_model, "--max-pixels", 3150, "--overwrite")
