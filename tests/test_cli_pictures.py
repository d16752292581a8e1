"""`faitheir downscale`, `upscale` and `roundtrip`: names, models, and what is printed."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from command import call, names, ok, refused, stripped
from conftest import save_tiny_model
from faitheir import devices
from faitheir.models import WEIGHTS_FILE
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail
from tiny import model_config

Photo = Callable[..., Path]


# Round trips and names.


def test_down_and_up_beside_the_input(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    source = photo("photo.jpg", 70, 45)
    assert "70 x 45 -> 5 x 3" in run("downscale", source)
    thumbnail = Thumbnail.open(tmp_path / "photo.thumb.avif")
    assert thumbnail.info is not None
    assert (thumbnail.info.scale, thumbnail.size) == (16, (70, 45))
    assert "5 x 3 -> 70 x 45" in run("upscale", tmp_path / "photo.thumb.avif")
    assert Image.open(tmp_path / "photo.restored.png").size == (70, 45)
    assert names(tmp_path) == {"photo.jpg", "photo.thumb.avif", "photo.restored.png"}


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
    assert names(out) == {"a.thumb.avif", "trip/day 1/b.thumb.avif"}
    run("upscale", out, "-r", "-o", tmp_path / "back")
    assert names(tmp_path / "back") == {"a.restored.png", "trip/day 1/b.restored.png"}


def test_folder_is_not_searched_deeper_unasked(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    photo("in/a.png")
    photo("in/trip/b.png")
    run("downscale", tmp_path / "in")
    assert names(tmp_path) == {"in/a.png", "in/trip/b.png", "in/a.thumb.avif"}


def test_folders_pass_over_our_outputs(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    photo("photo.jpg")
    for _ in range(2):
        run("downscale", tmp_path, "--overwrite")
        run("upscale", tmp_path, "--overwrite")
        run("roundtrip", tmp_path, "--overwrite")
    assert names(tmp_path) == {
        "photo.jpg",
        "photo.thumb.avif",
        "photo.restored.png",
        "photo.roundtrip.png",
    }


def test_an_output_that_is_named_is_taken(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("photo.thumb.avif", 40, 40))
    assert Image.open(tmp_path / "photo.thumb.thumb.avif").size == (3, 3)


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
    before = (tmp_path / "a.thumb.avif").stat().st_mtime_ns
    text = run("downscale", tmp_path)
    assert text == "2 done, 1 skipped, exist already; --overwrite to redo\n"
    assert (tmp_path / "a.thumb.avif").stat().st_mtime_ns == before
    assert run("downscale", tmp_path, "--overwrite") == "3 done\n"
    assert (tmp_path / "a.thumb.avif").stat().st_mtime_ns != before
    monkeypatch.setattr(FaithEIRPipeline, "from_pretrained", None)  # nothing is loaded for nothing
    assert run("downscale", tmp_path) == "3 skipped, exist already; --overwrite to redo\n"


def test_same_file_twice_is_done_once(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png")
    assert "70 x 45" in run("downscale", path, tmp_path, tmp_path / ".." / tmp_path.name / "a.png")


def test_pictures_keep_their_alpha(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("roundtrip", photo("a.png", mode="RGBA"))
    assert Image.open(tmp_path / "a.thumb.avif").mode == "RGBA"
    assert Image.open(tmp_path / "a.restored.png").mode == "RGBA"
    assert Image.open(tmp_path / "a.roundtrip.png").mode == "RGB"


# Models.


@pytest.mark.usefixtures("embedded")
def test_scale_names_the_embedded_model(photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png", 70, 45)
    for arguments, size in (((), (5, 3)), (("--scale", 16), (5, 3)), (("--scale", 32), (3, 2))):
        ok("downscale", path, "--overwrite", *arguments)
        assert Image.open(tmp_path / "a.thumb.avif").size == size


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
    assert "scale 32" in refused("upscale", tmp_path / "b.thumb.avif", "--scale", 16, "--overwrite")
    sentence = refused("upscale", tmp_path / "b.thumb.avif", "--model", "nano-x16", "--overwrite")
    assert "32" in sentence
    assert "nano-x16" in sentence


@pytest.mark.usefixtures("embedded")
def test_thumbnail_of_a_model_that_is_not_here(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("a.png"))
    thumbnail = tmp_path / "a.thumb.avif"
    text = refused("upscale", thumbnail)
    assert Thumbnail.open(thumbnail).info.weights in text  # type: ignore[union-attr]
    assert "give the folder or the Hub id" in text
    assert names(tmp_path) == {"a.png", "a.thumb.avif"}


@pytest.mark.usefixtures("embedded")
def test_metadata_does_not_choose_folders(
    photo: Photo, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)  # where the folder tiny-x16 is
    ok("downscale", photo("a.png"), "--model", tiny_model)
    assert "give the folder or the Hub id" in refused("upscale", tmp_path / "a.thumb.avif")


@pytest.mark.usefixtures("embedded")
def test_stripped_metadata(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    run("downscale", photo("a.png", 70, 45))
    thumbnail = stripped(tmp_path / "a.thumb.avif")
    for arguments, size in (((), (80, 48)), (("--scale", 16), (80, 48)), (("--scale", 32), (160, 96))):
        ok("upscale", thumbnail, "--overwrite", *arguments)
        assert Image.open(tmp_path / "a.restored.png").size == size


def test_thumbnail_of_other_weights(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "models" / "other", model_config(name="tiny-x16"), seed=1)
    ok("downscale", photo("a.png"), "--model", other)
    result = call("upscale", tmp_path / "a.thumb.avif", "--model", tiny_model)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"faitheir: warning: {tmp_path / 'a.thumb.avif'}: ")
    assert "tiny-x16" in line
    assert Image.open(tmp_path / "a.restored.png").size == (70, 45)


def test_warnings_of_other_packages_are_not_shown(
    tiny_model: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one line of ours, and --verbose shows them; where something fails or interrupts, that is said alone."""
    original = FaithEIRPipeline.downscale_picture
    interrupted = False

    def warn(*arguments: Any, **options: Any) -> Any:
        warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
        os.write(2, b"TIFFReadDirectory: Warning, Unknown field.\n")
        logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded: 5")
        if interrupted:
            raise KeyboardInterrupt
        return original(*arguments, **options)

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
    interrupted = True
    assert call(*command).stderr == "faitheir: interrupted, 0 done; with --overwrite all are done anew.\n"


def test_thumbnail_whose_metadata_lies(run: Callable[..., str], photo: Photo, tmp_path: Path, tiny_model: Path) -> None:
    run("downscale", photo("a.png", 70, 45), "--format", "png")
    path = tmp_path / "a.thumb.png"
    claims = {"format_version": 1, "scale": 16, "width": 1_000_000, "height": 45, "model": "m", "weights": "0" * 16}
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("FaithEIR", json.dumps(claims))
    Image.open(path).convert("RGB").save(path, pnginfo=metadata)
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
    photo("a.thumb.avif")
    photo("b.thumb.avif")
    assert "cuda" in refused("upscale", tmp_path, "--device", "cuda")


@pytest.mark.parametrize("native", [False, True])
def test_pictures_are_made_in_bfloat16_where_that_is_fast(
    run: Callable[..., str], photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda _: native)
    path = photo("a.png")
    run("downscale", path)
    small = tmp_path / "a.thumb.avif"
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
    run("upscale", tmp_path / "a.thumb.avif", "--tile", 256, "--dtype", "auto", "--device", "auto")
    assert Image.open(tmp_path / "a.restored.png").size == (700, 300)
    assert "tile" in refused("downscale", path, "--model", tiny_model, "--tile", 16, "--overwrite")


# roundtrip


def test_roundtrip(run: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    from faitheir.evaluation.metrics import psnr, ssim

    source = photo("photo.png", 100, 60)
    text = run("roundtrip", source, "-o", tmp_path / "out", "--format", "jpg")
    out = tmp_path / "out"
    assert names(out) == {"photo.thumb.avif", "photo.restored.jpg", "photo.roundtrip.png"}
    a, b = (np.array(Image.open(path).convert("RGB")) for path in (source, out / "photo.restored.jpg"))
    assert f"PSNR {psnr(a, b):.2f} dB" in text
    assert f"SSIM {ssim(a, b):.4f}" in text
    size = (out / "photo.thumb.avif").stat().st_size
    assert f"{size * 8 / 6000:.4f}" in text
    for part in ("100 x 60", "7 x 4", f"{source.stat().st_size:,} bytes", f"{size:,} bytes", "down", "up"):
        assert part in text
    row = np.array(Image.open(out / "photo.roundtrip.png"))
    assert row.shape == (60, 3 * 100 + 16, 3)
    assert (row[:, :100] == a).all()
    assert (row[:, -100:] == b).all()
    small = np.array(Image.open(out / "photo.thumb.avif").convert("RGB"))
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
