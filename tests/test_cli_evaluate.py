"""`faitheir evaluate` and `faitheir info --complexity`: what they print, what they leave, what they refuse."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from command import call, names, ok, refused
from faitheir.evaluation.complexity import complexity, count_macs
from faitheir.evaluation.results import read_result
from faitheir.images import Picture, read_picture, write_picture
from faitheir.models import KNOWN_CONFIGS, build_model, parameter_table, read_config
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail

pytest.importorskip("matplotlib")

Photo = Callable[..., Path]
CHEAP = ("--metrics", "psnr,thumbnail_psnr", "--device", "cpu")


@pytest.fixture
def hr(photo: Photo, tmp_path: Path) -> Path:
    for name, width, height in (("a.jpg", 70, 45), ("in/b.png", 66, 50), ("c.png", 41, 37)):
        photo(f"hr/{name}", width, height, seed=width)
    return tmp_path / "hr"


def test_a_model_through_its_thumbnails(hr: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = ok("evaluate", "--hr", hr, "--model", tiny_model, "-o", out, *CHEAP)
    result = read_result(out / "tiny-x16.json")
    assert re.search(rf"PSNR +{result.summary['psnr']:.2f} dB", text)
    assert f"written: {out / 'tiny-x16.json'}" in text
    assert {"results.md", "results.tex", "results.csv", "pictures.csv", "report.html"} <= names(out)
    assert result.kind == "model"
    assert [picture.picture for picture in result.pictures] == ["a", "c", "in/b"]
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model)
    assert result.about["model_weights"] == pipeline.weights
    for picture in result.pictures:
        thumbnail = Thumbnail.open(out / "tiny-x16" / "thumbnails" / f"{picture.picture}.webp")
        restored = read_picture(out / "tiny-x16" / "restored" / f"{picture.picture}.png")
        np.testing.assert_array_equal(restored.rgb, pipeline.upscale_thumbnail(thumbnail).rgb)
        assert picture.values["bytes"] == Path(str(picture.thumbnail)).stat().st_size
        assert picture.values.keys() >= {"seconds_down", "seconds_up", "bits_per_pixel"}
    # Again: nothing is made anew.
    before = (out / "tiny-x16" / "restored" / "a.png").stat().st_mtime_ns
    ok("evaluate", "--hr", hr, "--model", tiny_model, "-o", out, *CHEAP)
    assert (out / "tiny-x16" / "restored" / "a.png").stat().st_mtime_ns == before
    assert read_result(out / "tiny-x16.json") == result


def test_restored_by_others_beside_a_model(hr: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ok("evaluate", "--hr", hr, "--model", tiny_model, "-o", out, *CHEAP, "--thumbnail-format", "png")
    made = out / "tiny-x16"
    text = ok("evaluate", "--hr", hr, "--restored", made / "restored", "--name", "other's", "-o", out, *CHEAP)
    assert "missing: no thumbnails are stored" in text
    table = (out / "results.md").read_text()
    assert "tiny-x16" in table
    assert "other's" in table
    ours, others = read_result(out / "tiny-x16.json"), [*out.glob("other-s-*.json")]
    assert read_result(others[0]).summary["psnr"] == ours.summary["psnr"]
    with_thumbnails = ("--restored", made / "restored", "--thumbnails", made / "thumbnails")
    ok("evaluate", "--hr", hr, *with_thumbnails, "--name", "small", "-o", out, *CHEAP, "--protocol", "luma")
    small = read_result(out / "small.json")
    assert small.summary["thumbnail_psnr"] == ours.summary["thumbnail_psnr"]
    assert (small.scale, small.protocol) == (16, "luma")
    assert small.summary["psnr"] != ours.summary["psnr"]
    # Without thumbnails, the scale is the one that is given.
    told = ("--restored", made / "restored", "--name", "told", "--metrics", "lattice", "--scale", 16)
    ok("evaluate", "--hr", hr, *told, "-o", out, "--device", "cpu")
    assert read_result(out / "told.json").scale == 16
    assert "lattice" in read_result(out / "told.json").summary
    # A folder of the same name is another system.
    write_picture(made / "x.png", Picture(np.zeros((9, 9, 3), np.uint8)))
    ok("evaluate", "--hr", hr, "--restored", made / "restored", "-o", out, *CHEAP)
    (tmp_path / "vqir").mkdir()
    (made / "restored").rename(tmp_path / "vqir" / "restored")
    text = refused("evaluate", "--hr", hr, "--restored", tmp_path / "vqir" / "restored", "-o", out, *CHEAP, status=2)
    assert "--name" in text


def test_one_corrupt_picture_among_many(hr: Path, tiny_model: Path, tmp_path: Path) -> None:
    (hr / "a.jpg").write_bytes((hr / "a.jpg").read_bytes()[:500])
    result = call("evaluate", "--hr", hr, "--model", tiny_model, "-o", tmp_path / "out", *CHEAP)
    assert result.exit_code == 1
    assert result.stderr.count("faitheir: error: ") == 1
    assert str(hr / "a.jpg") in result.stderr
    assert "Traceback" not in result.output
    stored = read_result(tmp_path / "out" / "tiny-x16.json")
    assert [picture.error is None for picture in stored.pictures] == [False, True, True]
    assert "2 of 3 pictures" in stored.warnings["psnr"]
    assert "2 of 3 pictures" in result.stdout


def test_what_cannot_be_begun(hr: Path, photo: Photo, tiny_model: Path, tmp_path: Path) -> None:
    def sentence(*arguments: object, status: int = 2) -> str:
        return refused("evaluate", "--hr", hr, "-o", tmp_path / "out", *arguments, status=status)

    restored = tmp_path / "restored"
    (tmp_path / "empty").mkdir()
    assert "either --model, or --restored" in sentence()
    assert "either --model, or --restored" in sentence("--model", tiny_model, "--restored", hr)
    assert "--thumbnails and --scale" in sentence("--model", tiny_model, "--scale", 16)
    assert "Unknown metric 'psrn'" in sentence("--restored", hr, "--metrics", "psrn")
    assert "Unknown protocol" in sentence("--restored", hr, "--protocol", "mine")
    assert "NETWORK=PATH" in sentence("--restored", hr, "--weights", "vgg16")
    assert "unknown network 'vgg'" in sentence("--restored", hr, "--weights", "vgg=x.pth")
    assert "no pictures" in sentence("--restored", tmp_path / "empty")
    photo("restored/a.png", 70, 45)
    text = sentence("--restored", restored)
    assert str(hr / "c.png") in text
    assert str(hr / "in" / "b.png") in text
    photo("restored/c.png", 41, 36)
    photo("restored/in/b.png", 66, 50)
    assert "41 x 36" in sentence("--restored", restored)
    photo("restored/c.jpg", 41, 37)
    assert "c.jpg" in sentence("--restored", restored)
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in refused(
        "evaluate", "--hr", hr, "--restored", hr, "-o", tmp_path / "file" / "x", status=2
    )
    assert "Unknown model" in sentence("--model", "no-such-model", status=1)
    assert "no pictures" in refused("evaluate", "--hr", tmp_path / "empty", "--restored", hr, status=2)
    assert not list((tmp_path / "out").glob("*.json"))


# info --complexity


def test_multiply_accumulates_are_those_of_the_layers(tiny_model: Path) -> None:
    """Counted a second time, by hooks on every convolution and linear layer, and with attention's two products."""
    config = read_config(tiny_model)
    model = build_model(config).eval()
    counts: list[int] = []

    def convolution(module: torch.nn.Conv2d, _: object, out: torch.Tensor) -> None:
        counts.append(out.numel() * module.weight[0].numel())

    def linear(module: torch.nn.Linear, _: object, out: torch.Tensor) -> None:
        counts.append(out.numel() * module.in_features)

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
    with torch.inference_mode():
        y = model.project(torch.rand(1, 3, 64, 96))
        down = sum(counts)
        counts.clear()
        model.upscale(y)
    macs = count_macs(config, (96, 64))
    # What hooks do not see: the matrix of the transform, and attention's products.
    assert down <= macs[0] < 1.1 * down
    assert sum(counts) <= macs[1] < 1.2 * sum(counts)
    assert count_macs(config, (95, 49)) == macs  # padded
    assert count_macs(config, (192, 128))[0] == pytest.approx(4 * macs[0], rel=0.01)


def test_complexity_of_a_model(tiny_model: Path) -> None:
    text = ok("info", "--complexity", tiny_model, "--size", "96x64", "--device", "cpu")
    lines = text.splitlines()
    assert lines[0] == "One picture of 96 x 64 pixels; cpu, float32; the best of two runs."
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells[0] == "tiny-x16"
    down, up, parameters, macs_down, macs_up, peak = (float(cell.replace(",", "")) for cell in cells[1:])
    config = read_config(tiny_model)
    assert parameters == pytest.approx(sum(parameter_table(config).values()) / 1e6, abs=0.005)
    assert (macs_down, macs_up) == pytest.approx([n / 1e9 for n in count_macs(config, (96, 64))], abs=0.05)
    assert 0 < down < 30 > up > 0
    assert 50 < peak < 4000
    assert "MACs" in text


def test_complexity_of_a_known_model_without_weights() -> None:
    """With random ones; and however large the process that asks, the peak is the model's."""
    ballast = np.ones(200_000_000)
    found = complexity("t-irn-x16", (64, 64), repeat=1)
    assert found.random_weights
    assert found.parameters == sum(parameter_table(KNOWN_CONFIGS["t-irn-x16"]).values())
    assert ballast.nbytes / 2**20 > 1500 > found.peak_mib >= found.loaded_mib > 50


def test_complexities_that_cannot_be_measured(tiny_model: Path) -> None:
    for size in ("96", "96x", "x64", "axb", "0x64"):
        assert "WIDTHxHEIGHT" in refused("info", "--complexity", tiny_model, "--size", size, status=2)
    assert "name the models" in refused("info", "--complexity", status=2)
    assert "--size is for --complexity" in refused("info", tiny_model, "--size", "96x64", status=2)
    assert "Unknown model" in refused("info", "--complexity", "no-such-model", "--size", "96x64")
    text = refused("info", "--complexity", tiny_model, "--size", "96x64", "--tile", "16", "--device", "cpu")
    assert "tile is 16 pixels" in text
