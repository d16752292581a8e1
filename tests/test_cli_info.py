"""`faitheir info`."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command import call, ok, refused, stripped
from conftest import save_tiny_model
from faitheir.models import DEFAULT_MODEL
from faitheir.pipeline import FaithEIRPipeline
from tiny import model_config

Photo = Callable[..., Path]


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
    assert rows["compression_blocks"] == "0"  # the longest name
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
    path = tmp_path / "a.thumb.avif"
    size = path.stat().st_size
    text = ok("info", path)
    for part in ("5 x 3", "70 x 45", "nano-x16", "the same weights", f"{size:,}", f"{size * 8 / 3150:.4f}"):
        assert part in text
    shutil.rmtree(embedded / DEFAULT_MODEL)
    save_tiny_model(embedded / DEFAULT_MODEL, model_config(name=DEFAULT_MODEL), seed=5)
    assert "unknown (not in this package" in ok("info", path)
    ok("downscale", photo("b.png"), "--model", tiny_model)
    assert "unknown (not in this package" in ok("info", tmp_path / "b.thumb.avif")
    stripped(path)
    text = ok("info", tmp_path)  # of all thumbnails in a folder
    assert "stripped" in text
    assert FaithEIRPipeline.from_pretrained(tiny_model).weights in text


def test_info_goes_on_after_a_failure(tiny_model: Path, tmp_path: Path) -> None:
    result = call("info", tmp_path, "no-such-model", tiny_model)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert "tiny-x16" in result.stdout
