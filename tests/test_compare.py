"""Systems side by side: what they leave on disk, what they are matched to, and what stops only one picture."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from command import call
from conftest import save_tiny_model
from faitheir.backbones.pixels import PixelsConfig
from faitheir.comparison.compare import compare, write_comparison
from faitheir.comparison.curves import line_of, series
from faitheir.comparison.methods import parse_methods
from faitheir.comparison.peers import Command, SuperResolution, match_outputs
from faitheir.comparison.produce import Setting
from faitheir.comparison.systems import CodecSystem, ModelSystem, Resampling
from faitheir.comparison.tables import tabulate
from faitheir.errors import EvaluationError, FaithEIRError, MissingDependencyError, ModelError
from faitheir.evaluation.metrics import psnr
from faitheir.evaluation.results import SystemResult, file_stem, read_result
from faitheir.images import UInt8Array, bicubic_thumbnail, read_picture, resize_bicubic
from faitheir.models import ModelConfig
from faitheir.nn.codec import CodecConfig
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail
from tiny import model_config

Photo = Callable[..., Path]
COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"


@pytest.fixture
def hr(tmp_path: Path, photo: Photo) -> Path:
    """Three photographs, one of them in a folder of its own, of sizes that 16 does not divide."""
    folder = tmp_path / "hr"
    (folder / "cups").mkdir(parents=True)
    Image.open(COFFEE).resize((150, 100), Image.Resampling.LANCZOS).save(folder / "cups" / "coffee.png")
    photo("hr/a.png", 90, 70)
    photo("hr/b.jpg", 64, 81, quality=95, seed=1)
    return folder


def run(hr: Path, out: Path, *systems: str, target: str | None = None, **setting: Any) -> dict[str, SystemResult]:
    options = Setting(metrics=("psnr",), progress=False, **setting)
    results = compare(hr, parse_methods(systems), out, setting=options, target=target)
    return {result.system: result for result in results}


def by_picture(result: SystemResult, key: str) -> dict[str, float]:
    return {picture.picture: picture.values[key] for picture in result.pictures}


def rgb(path: str | Path | None) -> UInt8Array:
    assert path is not None
    return read_picture(path).rgb


# What systems are called.


def named(*texts: str) -> list[tuple[type, str, dict[str, Any]]]:
    return [(opener.func, *opener.args, opener.keywords) for opener in parse_methods(texts)]  # type: ignore[misc]


def test_systems_by_name() -> None:
    assert named("nano-x16,bicubic", "Ours=model:runs/x@0.5, jpeg@bytes", "cmd:prog, {input} {output}") == [
        (ModelSystem, "nano-x16", {"label": None, "fidelity": 0.0, "stored": None}),
        (Resampling, "bicubic", {"label": None}),
        (ModelSystem, "runs/x", {"label": "Ours", "fidelity": 0.5, "stored": None}),
        (CodecSystem, "jpeg", {"label": None, "way": "bytes"}),
        (Command, "prog, {input} {output}", {"label": None}),
    ]
    assert named("avif@bytes-reduced", "S=sr:a=b.pth") == [
        (CodecSystem, "avif", {"label": None, "way": "bytes-reduced"}),
        (SuperResolution, "a=b.pth", {"label": "S"}),
    ]
    assert named("nano-x16@1[webp:90],avif@0.05bpp,model:a[b][jpg:7]") == [
        (ModelSystem, "nano-x16", {"label": None, "fidelity": 1.0, "stored": ("webp", 90)}),
        (CodecSystem, "avif", {"label": None, "way": "0.05bpp"}),
        (ModelSystem, "a[b]", {"label": None, "fidelity": 0.0, "stored": ("jpg", 7)}),
    ]
    assert [(kind, name) for kind, name, _ in named("webp, irn")] == [(CodecSystem, "webp"), (ModelSystem, "irn-x16")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nano-x61", "Unknown system 'nano-x61'"),
        ("jpeg@fid", "cannot be matched to 'fid'"),
        ("jpeg@fastbpp", "cannot be matched to 'fastbpp'"),
        ("nano-x16[png:3]", "Unknown system"),
        ("jpeg@musiq", "cannot be matched to 'musiq'"),
        ("sr:", "nothing after 'sr:'"),
        ("", "no systems"),
        ("png@bytes", "Unknown system"),
    ],
)
def test_systems_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        parse_methods([text])


def refuse(text: str, kind: type[FaithEIRError] = EvaluationError, **setting: Any) -> str:
    """The sentence with which a system is refused before any work."""
    with pytest.raises(kind) as caught:
        parse_methods([text])[0](Setting(**setting))
    return str(caught.value)


def test_what_is_not_there_is_said_before_any_work(tmp_path: Path) -> None:
    assert "{output}" in refuse("cmd:python {input}")
    assert "no-such-program" in refuse("cmd:no-such-program {input} {output}")
    assert "is not a command" in refuse("cmd:python 'x {input} {output}")
    assert "no such checkpoint" in refuse(f"sr:{tmp_path}/x.pth", ModelError)
    assert "is not a folder" in refuse(f"restored:{tmp_path}/x")
    assert "train it" in refuse("t-irn", ModelError)
    assert "squeezenet1_0" in refuse("jpeg@squeezenet_distance", ModelError)


@pytest.mark.parametrize(
    ("systems", "options", "sentence"),
    [
        (("bicubic", "jpeg@bytes"), {}, "compare a model, too"),
        (("bicubic", "bicubic"), {}, "two systems are called 'bicubic'"),
        (("bicubic", "jpeg@bytes"), {"target": "nano"}, "choose from the systems compared: bicubic"),
    ],
)
def test_comparisons_that_cannot_be(
    systems: tuple[str, ...], options: dict[str, Any], sentence: str, hr: Path, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        run(hr, tmp_path / "out", *systems, **options)
    assert not (tmp_path / "out").exists()


# Resampling.


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_bicubic_through_the_thumbnail_file(suffix: str, hr: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(hr, out, "bicubic", suffix=suffix, scale=8)["bicubic"]
    assert (result.kind, result.scale, result.protocol) == ("resampling", 8, "paper")
    assert [p.picture for p in result.pictures] == ["a", "b", "cups/coffee"]
    for picture in result.pictures:
        original, thumbnail, restored = rgb(picture.original), rgb(picture.thumbnail), rgb(picture.restored)
        assert (thumbnail == bicubic_thumbnail(original, 8)).all()
        height, width = original.shape[:2]
        assert (
            restored == resize_bicubic(thumbnail, (thumbnail.shape[1] * 8, thumbnail.shape[0] * 8))[:height, :width]
        ).all()
        stored = out / "bicubic" / "thumbnails" / f"{picture.picture}{suffix}"
        again = Thumbnail.open(stored).encode(suffix[1:], lossless=True)  # type: ignore[arg-type]
        assert picture.values["bytes"] == stored.stat().st_size == len(again)
        assert picture.values["psnr"] == pytest.approx(psnr(original, restored))


def test_lanczos_is_not_bicubic(hr: Path, tmp_path: Path) -> None:
    results = run(hr, tmp_path / "out", "bicubic", "lanczos", scale=4)
    assert results["lanczos"].summary["psnr"] > results["bicubic"].summary["psnr"]
    picture = results["lanczos"].pictures[2]
    padded = np.pad(rgb(picture.original), ((0, 0), (0, 2), (0, 0)), mode="edge")
    small = np.asarray(Image.fromarray(padded).resize((38, 25), Image.Resampling.LANCZOS))
    assert (rgb(picture.thumbnail) == small).all()
    large = np.asarray(Image.fromarray(small).resize((152, 100), Image.Resampling.LANCZOS))[:, :150]
    assert (rgb(picture.restored) == large).all()


# Codecs, matched to a model.


def test_codecs_are_held_to_the_target(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    systems = ("webp@bytes", f"tiny=model:{tiny_model}", "webp@bytes-reduced", "jpeg@psnr", "bicubic")
    results = run(hr, out, *systems)
    assert list(results) == [
        "WebP at equal bytes",
        "tiny",
        "WebP, reduced at equal bytes",
        "JPEG at equal PSNR",
        "bicubic",
    ]
    ours = results["tiny"]
    assert ours.about["model"] == "tiny-x16"
    budget, reached = by_picture(ours, "bytes"), by_picture(ours, "psnr")
    at_bytes, reduced = results["WebP at equal bytes"], results["WebP, reduced at equal bytes"]
    for row in (at_bytes, reduced):
        assert (row.kind, row.scale) == ("codec", 16)
        assert (row.about["codec"], row.about["held_to"], row.about["target"]) == ("webp", "bytes", "tiny")
        assert all(size <= budget[name] for name, size in by_picture(row, "bytes").items())
        assert all(picture.thumbnail is None for picture in row.pictures)
    assert reduced.summary["psnr"] >= at_bytes.summary["psnr"]
    assert "at most the bytes of tiny's file" in at_bytes.note
    at_value = results["JPEG at equal PSNR"]
    assert at_value.about["held_to"] == "psnr"
    assert all(value >= reached[name] for name, value in by_picture(at_value, "psnr").items())
    for picture in at_value.pictures:
        stored = out / file_stem("JPEG at equal PSNR") / "coded" / f"{picture.picture}.jpg"
        assert stored.read_bytes()[:3] == b"\xff\xd8\xff"
        assert picture.values["bytes"] == stored.stat().st_size
    # what was returned is what is on disk
    assert read_result(out / "tiny.json").summary == ours.summary


def test_codecs_at_a_rate_need_no_target(hr: Path, tmp_path: Path) -> None:
    rates = (2, 3, 5)
    results = run(hr, tmp_path / "out", *(f"jpeg@{rate}bpp" for rate in rates), "bicubic", scale=8)
    assert list(results) == ["JPEG at 2 bpp", "JPEG at 3 bpp", "JPEG at 5 bpp", "bicubic"]
    points = [result for result in results.values() if result.kind == "codec"]
    for rate, result in zip(rates, points, strict=True):
        assert all(0.7 * rate < value <= rate for value in by_picture(result, "bits_per_pixel").values())
        assert f"in at most {rate:g} bits per pixel" in result.note
    assert sorted(result.summary["psnr"] for result in points) == [result.summary["psnr"] for result in points]
    (line,) = {line_of(result) for result in points}
    assert len(series(list(results.values()), "psnr")[line]) == 3


def test_a_models_thumbnails_may_be_lossy(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    results = run(hr, out, f"model:{tiny_model}", *(f"model:{tiny_model}[webp:{quality}]" for quality in (10, 90)))
    assert list(results) == ["tiny-x16", "tiny-x16[webp:10]", "tiny-x16[webp:90]"]
    whole, low, high = results.values()
    assert low.summary["bytes"] < high.summary["bytes"] < whole.summary["bytes"]
    assert low.about["curve"] == high.about["curve"] == "tiny-x16 webp"
    thumbnail = rgb(low.pictures[0].thumbnail)
    assert (thumbnail != rgb(whole.pictures[0].thumbnail)).any()
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model)
    back = pipeline.upscale_thumbnail(Thumbnail.open(str(low.pictures[0].thumbnail)))
    assert (rgb(low.pictures[0].restored) == back.rgb).all()  # from what the file holds
    table = tabulate(list(results.values()), ["psnr", "bits_per_pixel"])
    assert [[row[0].text for row in rows] for _, rows in table.blocks] == [
        ["tiny-x16"],
        ["tiny-x16[webp:10]", "tiny-x16[webp:90]"],
    ]
    assert "points of rate-distortion curves" in table.blocks[1][0]


def test_how_many_were_reduced_is_said(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    Image.open(COFFEE).save(hr / "large.png")
    result = run(hr, tmp_path / "out", f"model:{tiny_model}", "webp@bytes")["WebP at equal bytes"]
    budget = by_picture(read_result(tmp_path / "out" / "tiny-x16.json"), "bytes")
    codec = parse_methods(["webp@bytes"])[0](Setting())._codec
    needed = sum(
        len(codec.encode(rgb(picture.original), codec.qualities[0])) > budget[picture.picture]
        for picture in result.pictures
    )
    assert 0 < needed < 4
    assert f"; {needed} of 4 pictures were reduced first" in result.note
    assert "libwebp" in result.note


def test_a_target_by_name(hr: Path, tmp_path: Path) -> None:
    results = run(hr, tmp_path / "out", "bicubic", "lanczos", "webp@bytes", target="lanczos", scale=8)
    assert results["WebP at equal bytes"].about["target"] == "lanczos"
    budget = by_picture(results["lanczos"], "bytes")
    assert all(size <= budget[name] for name, size in by_picture(results["WebP at equal bytes"], "bytes").items())


def test_irn_is_a_model_like_any(hr: Path, tmp_path: Path) -> None:
    config = ModelConfig(
        "tiny-irn",
        CodecConfig(
            4, transform="haar", pyramid=True, block="inv", inv_blocks=1, growth=4, prior="zeros", embedder="none"
        ),
        PixelsConfig(),
    )
    folder = save_tiny_model(tmp_path / "model", config)
    results = run(hr, tmp_path / "out", f"model:{folder}", "bicubic")
    assert results["tiny-irn"].scale == results["bicubic"].scale == 4
    assert results["tiny-irn"].about["model_dtype"] == "float32"


# Going on.


def stamps(out: Path) -> dict[str, int]:
    kinds = ("restored", "thumbnails", "coded")
    return {p.as_posix(): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and {*p.parts} & {*kinds}}


def test_a_run_goes_on(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    systems = (f"model:{tiny_model}", "webp@bytes")
    first = run(hr, out, *systems)
    before = stamps(out)
    assert len(before) == 12
    assert run(hr, out, *systems) == first  # with the times that were measured then
    assert stamps(out) == before
    lost = out / file_stem("WebP at equal bytes") / "restored" / "a.png"
    lost.unlink()
    run(hr, out, *systems)
    after = stamps(out)
    assert {path for path in after if after[path] != before[path]} == {
        lost.as_posix(),
        (lost.parents[1] / "coded" / "a.webp").as_posix(),
    }


@pytest.mark.skipif(os.name == "nt", reason="a locked file is not told from an abandoned one")
def test_results_among_the_photographs_are_no_photographs(hr: Path) -> None:
    for _ in range(2):
        results = run(hr, hr / "compared", "bicubic", "jpeg@0.5bpp")
        assert [p.picture for p in results["bicubic"].pictures] == ["a", "b", "cups/coffee"]
    with pytest.raises(FaithEIRError, match="holds the photographs; give the results another folder"):
        run(hr, hr, "bicubic")


def test_what_a_killed_run_left_is_cleared(hr: Path, tmp_path: Path) -> None:
    places = tmp_path / "out" / "bicubic", tmp_path / "out" / "bicubic" / "restored"
    code = "import os, sys\nfrom faitheir.storage import *\nwith temporary_folder(sys.argv[1]) as f: "
    for place in places:
        place.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", code + "(f / 'input').mkdir(), os._exit(9)", place])
        assert len(list(place.glob(".faitheir-*"))) == 1
    run(hr, tmp_path / "out", "bicubic")
    assert not [path for place in places for path in place.glob(".faitheir-*")]


def test_files_are_bound_to_what_they_were_held_to(hr: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = run(hr, out, "bicubic", "webp@bytes", target="bicubic", scale=16)["WebP at equal bytes"]
    large = run(hr, out, "bicubic", "webp@bytes", target="bicubic", scale=4)["WebP at equal bytes"]
    assert large.summary["bytes"] > 2 * small.summary["bytes"]
    assert large.summary["psnr"] > small.summary["psnr"]


# Super-resolution.


def compact(path: Path, *, scale: int = 4, detail: bool = False) -> Path:
    """A small Real-ESRGAN network of the compact kind; without detail it repeats pixels."""
    pytest.importorskip("spandrel")
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    network = Compact(num_feat=8, num_conv=2, upscale=scale)
    if not detail:
        for parameter in network.parameters():
            parameter.data.zero_()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"params": state}, path)
    return path


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_super_resolution_over_a_bicubic_thumbnail(name: str, hr: Path, tmp_path: Path) -> None:
    result = run(hr, tmp_path / "out", f"sr:{compact(tmp_path / name)}", scale=16)["sr net"]
    assert (result.kind, result.scale) == ("super-resolution", 16)
    assert "16x" in result.note
    for picture in result.pictures:
        original, thumbnail = rgb(picture.original), rgb(picture.thumbnail)
        assert (thumbnail == bicubic_thumbnail(original, 16)).all()
        repeated = thumbnail.repeat(16, 0).repeat(16, 1)[: original.shape[0], : original.shape[1]]
        assert (rgb(picture.restored) == repeated).all()


def test_a_scale_that_is_no_power_of_the_networks(hr: Path, tmp_path: Path) -> None:
    """Twice 4 is 16, and brought back to 8."""
    result = run(hr, tmp_path / "out", f"sr:{compact(tmp_path / 'net.safetensors')}", scale=8)["sr net"]
    for picture in result.pictures:
        thumbnail, restored = rgb(picture.thumbnail), rgb(picture.restored)
        repeated = thumbnail.repeat(16, 0).repeat(16, 1)
        wanted = resize_bicubic(repeated, (thumbnail.shape[1] * 8, thumbnail.shape[0] * 8))
        assert (restored == wanted[: restored.shape[0], : restored.shape[1]]).all()


def test_tiles_of_super_resolution_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faitheir.comparison import peers

    (tmp_path / "hr").mkdir()
    Image.open(COFFEE).save(tmp_path / "hr" / "coffee.png")
    system = f"sr:{compact(tmp_path / 'net.safetensors', detail=True)}"
    whole = run(tmp_path / "hr", tmp_path / "whole", system, scale=16)["sr net"]
    monkeypatch.setattr(peers, "_TILE", 32)
    monkeypatch.setattr(peers, "_OVERLAP", 16)  # a quarter of it is how far the network sees
    tiled = run(tmp_path / "hr", tmp_path / "tiled", system, scale=16)["sr net"]
    a, b = (rgb(result.pictures[0].restored).astype(int) for result in (whole, tiled))
    assert np.abs(a - b).max() <= 1


class _Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("__import__('pathlib').Path('boom').touch()",))


def test_pickles_run_no_code(hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    torch.save({"params": _Boom()}, tmp_path / "boom.pth")
    with pytest.raises(ModelError, match=r"boom\.pth: spandrel cannot load this checkpoint") as caught:
        run(hr, tmp_path / "out", "sr:boom.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()
    (tmp_path / "net.pt").write_bytes(b"x")
    assert "convert" in refuse("sr:net.pt", ModelError)


def test_checkpoints_that_do_not_enlarge(tmp_path: Path, hr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    compact(tmp_path / "same.safetensors", scale=1)
    for name, sentence in (("other", "cannot load"), ("same", "does not enlarge pictures")):
        with pytest.raises(ModelError, match=sentence):
            run(hr, tmp_path / "out", f"sr:{tmp_path / name}.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert "faitheir[eval]" in refuse(f"sr:{tmp_path / 'same.safetensors'}", MissingDependencyError)


# Other programs.

PROGRAM = """
import sys
from pathlib import Path
from PIL import Image
source, target, suffix, factor = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
print("working")
for path in sorted(source.iterdir()):
    image = Image.open(path)
    assert image.format == "PNG" and image.mode == "RGB"
    wide = image.size[0] == int(sys.argv[5]) if len(sys.argv) > 5 else False
    by = factor // 2 if wide else factor
    image.resize((image.size[0] * by, image.size[1] * by), Image.Resampling.NEAREST).save(target / (path.stem + suffix))
if len(sys.argv) > 6:
    sys.exit("it went wrong")
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return f"cmd:{shlex.join([sys.executable, str(path)])} {{input}} {{output}}"


@pytest.mark.parametrize("suffix", [".png", "_out.png", "-x16.webp"])
def test_another_program(suffix: str, hr: Path, tmp_path: Path, program: str) -> None:
    (result,) = run(hr, tmp_path / "out", f"Peer={program} {suffix} 16", scale=16).values()
    assert (result.system, result.kind) == ("Peer", "command")
    for picture in result.pictures:
        thumbnail, restored = rgb(picture.thumbnail), rgb(picture.restored)
        assert (thumbnail == bicubic_thumbnail(rgb(picture.original), 16)).all()
        if suffix != "-x16.webp":  # Pillow's default WebP is lossy
            repeated = thumbnail.repeat(16, 0).repeat(16, 1)
            assert (restored == repeated[: restored.shape[0], : restored.shape[1]]).all()
    assert result.summary["seconds_up"] > 0
    folder = tmp_path / "out" / "Peer"
    assert {path.name for path in folder.iterdir()} == {"thumbnails", "restored", "command.log"}
    assert (folder / "command.log").read_text() == "working\n"
    # and it is not run again for what is there
    (folder / "command.log").unlink()
    run(hr, tmp_path / "out", f"Peer={program} {suffix} 16", scale=16)
    assert not (folder / "command.log").exists()


def errors(result: SystemResult) -> dict[str, str]:
    return {picture.picture: picture.error for picture in result.pictures if picture.error is not None}


def test_a_picture_of_a_wrong_size_stops_no_other(hr: Path, tmp_path: Path, program: str) -> None:
    (result,) = run(hr, tmp_path / "out", f"Peer={program} .png 16 10", scale=16).values()
    (text,) = errors(result).values()
    assert "gave 80 x 56 pixels for a thumbnail of 10 x 7; it should give 160 x 112" in text
    assert "psnr" in result.summary


def test_a_program_that_fails(hr: Path, tmp_path: Path, program: str) -> None:
    """What it made before is kept; where it made nothing, its failure is said."""
    (result,) = run(hr, tmp_path / "out", f"Peer={program} .png 16 0 fail", scale=16).values()
    assert not errors(result)
    (result,) = run(hr, tmp_path / "out", f"Other={program} .png none", scale=16).values()
    assert len(errors(result)) == 3
    for text in errors(result).values():
        assert "the program ended with status 1; what it said is in" in text
        assert "command.log" in text
    assert "ValueError" in (tmp_path / "out" / "Other" / "command.log").read_text()


def test_a_program_that_makes_nothing(hr: Path, tmp_path: Path) -> None:
    (result,) = run(hr, tmp_path / "out", f"cmd:{sys.executable} -c pass {{input}} {{output}}", scale=16).values()
    assert set(errors(result).values()) == {"the program left no picture for this thumbnail."}


def test_a_program_may_add_to_names() -> None:
    paths = [Path("1_out.png"), Path("2.png"), Path("2_mask.png"), Path("12.png")]
    assert match_outputs(["1", "2", "3"], paths) == {"1": paths[:1], "2": paths[1:2], "3": []}


# What is there already, and what is broken.


def test_what_another_program_left(hr: Path, tmp_path: Path) -> None:
    first = run(hr, tmp_path / "out", "bicubic", scale=8)["bicubic"]
    left = tmp_path / "out" / "bicubic"
    system = f"Theirs=restored:{left / 'restored'}:{left / 'thumbnails'}"
    again = run(hr, tmp_path / "other", system)["Theirs"]
    assert (again.kind, again.scale) == ("restored", 8)
    assert again.summary["psnr"] == first.summary["psnr"]
    assert again.summary["bytes"] == first.summary["bytes"]
    bare = run(hr, tmp_path / "bare", f"restored:{left / 'restored'}")["restored"]
    assert "bytes" not in bare.summary


def test_one_corrupt_photograph_among_many(hr: Path, tmp_path: Path, tiny_model: Path, program: str) -> None:
    (hr / "broken.jpg").write_bytes((hr / "b.jpg").read_bytes()[:700])
    results = run(hr, tmp_path / "out", f"model:{tiny_model}", "bicubic", "webp@bytes", f"Peer={program} .png 16")
    for result in results.values():
        assert set(errors(result)) == {"broken"}
        assert "\n" not in errors(result)["broken"]
        assert len(by_picture_if(result, "psnr")) == 3
    assert "broken.jpg is damaged" in errors(results["bicubic"])["broken"]


def by_picture_if(result: SystemResult, key: str) -> Mapping[str, float]:
    return {p.picture: p.values[key] for p in result.pictures if key in p.values}


def test_tables_plots_and_report(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    results = list(run(hr, out, f"model:{tiny_model}", "bicubic", "webp@bytes").values())
    files, problems = write_comparison(out, results, title="Cups", progress=False)
    assert not problems
    assert {path.name for path in files} == {
        "results.md",
        "results.tex",
        "results.csv",
        "pictures.csv",
        "rate-distortion.svg",
        "rate-distortion.png",
        "report.html",
    }
    text = (out / "results.md").read_text()
    assert all(result.system in text for result in results)
    assert "Cups" in (out / "report.html").read_text()
    assert json.loads((out / "bicubic.json").read_text())["system"] == "bicubic"
    assert any((out / "cache").rglob("*.json"))


# The command.


def test_command(hr: Path, tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    arguments = (
        "--hr",
        hr,
        "-o",
        out,
        "--metrics",
        "psnr,ssim",
        "--thumbnail-format",
        "png",
        "--published",
        "DIV2K-val",
    )
    result = call("compare", *arguments, "--methods", "bicubic,webp@bytes", f"tiny=model:{tiny_model}")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("measured: ")] == [
        "measured: tiny",  # the target first
        "measured: bicubic",
        "measured: WebP at equal bytes",
    ]
    assert (out / "tiny" / "thumbnails" / "cups" / "coffee.png").is_file()
    table = (out / "results.md").read_text()
    assert table.strip() in result.stdout
    assert "Published, not measured" in table
    assert "24.78" in table  # the paper's IRN at 16x
    assert "21.19" not in table  # and not at 32x
    assert "StableCodec at 0.006 bpp" in table
    for name in ("bicubic.json", "report.html", "rate-distortion.svg"):
        assert f"written: {out / name}" in result.stdout


def test_command_with_a_corrupt_photograph(hr: Path, tmp_path: Path) -> None:
    (hr / "broken.png").write_bytes(b"no picture")
    result = call("compare", "--hr", hr, "-o", tmp_path / "out", "bicubic", "lanczos", "--metrics", "psnr")
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(lines) == 2, result.stderr
    assert all("broken.png is not a picture" in line for line in lines)
    assert len(read_result(tmp_path / "out" / "lanczos.json").pictures) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name the systems to compare"),
        (("nano-x61",), "Unknown system 'nano-x61'"),
        (("bicubic", "jpeg@bytes"), "compare a model, too"),
        (("bicubic", "--metrics", "psnrr"), "psnrr"),
        (("bicubic", "--published", "Urban100"), "Urban100"),
        (("bicubic", "--ablation", "runs"), "or give --ablation"),
        (("--ablation", "no-such-folder"), "no trained runs"),
        (("bicubic", "--hr", "no-such-folder"), "not a folder"),
    ],
)
def test_command_refused(arguments: tuple[str, ...], sentence: str, hr: Path, tmp_path: Path) -> None:
    result = call("compare", "--hr", hr, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("faitheir: error: ")
    assert sentence in line


def test_command_of_the_ablation(hr: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, codec in (("e3", {"transform": "haar", "embedder": "lte"}), ("e6", {"embedder": "none"})):
        save_tiny_model(tmp_path / "runs" / name / "model", model_config(**codec))
    result = call("compare", "--hr", hr, "--ablation", tmp_path / "runs", "-o", tmp_path / "out", "--metrics", "psnr")
    assert result.exit_code == 0, result.output
    assert "E3 w/ HaarT+ADP+LTE" in result.stdout
    assert "E6 w/ LRT+ADP w/o SP" in result.stdout
    assert "0.6047" in (tmp_path / "out" / "table2.md").read_text()  # E3 as published
