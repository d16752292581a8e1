"""Evaluating: pairs by name and size, values of what the disk holds, and a run that stopped goes on."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import faitheir.evaluation.evaluate as evaluating
import weights as files_of
from faitheir import FaithEIRPipeline, Thumbnail, evaluate
from faitheir.comparison.produce import Setting, System
from faitheir.comparison.systems import ModelSystem
from faitheir.errors import EvaluationError, MissingDependencyError, PairingError, StorageError
from faitheir.evaluation.evaluate import files_hash
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.evaluation.pairs import find_scale, list_originals, pair
from faitheir.evaluation.results import (
    Output,
    PictureResult,
    SystemResult,
    file_stem,
    means,
    read_result,
    read_results,
    write_result,
)
from faitheir.evaluation.store import Store
from faitheir.images import Picture, bicubic_thumbnail, read_picture, resize_bicubic, write_picture

Photo = Callable[..., Path]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folders(photo: Photo, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Originals (one in a folder of its own), the same gone through bicubic thumbnails, and these."""
    for name, width, height, options in (
        ("a.jpg", 90, 70, {"quality": 90}),
        ("b.png", 64, 81, {}),
        ("in/c.png", 50, 64, {}),
    ):
        original = read_picture(photo(f"hr/{name}", width, height, seed=len(name), **options)).rgb
        small = bicubic_thumbnail(original, 16)
        large = resize_bicubic(small, (small.shape[1] * 16, small.shape[0] * 16))[:height, :width]
        for folder, mark, rgb in (("small", ".thumb", small), ("restored", ".restored", large)):
            path = (tmp_path / folder / name).with_suffix(f"{mark}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, Picture(np.ascontiguousarray(rgb)))
    return tmp_path / "hr", tmp_path / "restored", tmp_path / "small"


def run(originals: Any, outputs: Any, **options: Any) -> SystemResult:
    options = {"system": "bicubic", "metrics": ["psnr", "ssim"], "progress": False} | options
    return evaluate(originals, outputs, **options)


def values(result: SystemResult, name: str) -> dict[str, float]:
    return {picture.picture: picture.values[name] for picture in result.pictures if name in picture.values}


# ----- pairs


def test_files_pair_by_name_whatever_their_suffix_and_mark(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, small = folders
    originals = list_originals(hr)
    assert originals == {"a": hr / "a.jpg", "b": hr / "b.png", "in/c": hr / "in" / "c.png"}
    outputs = pair(originals, restored, small)
    assert outputs["in/c"] == Output(restored / "in" / "c.restored.png", small / "in" / "c.thumb.png")
    assert list(outputs) == ["a", "b", "in/c"]
    assert find_scale(originals, outputs) == 16
    (restored / "b.restored.png").rename(restored / "b.webp")  # beside marked ones, others are not taken
    with pytest.raises(PairingError, match=r"b\.png has no restored picture"):
        pair(originals, restored)


def test_outputs_beside_the_originals_are_told_from_them(photo: Photo, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.thumb.png", "a.restored.png", "a.roundtrip.png", ".hidden.png"):
        photo(name, 40, 30)
    (tmp_path / "notes.txt").write_text("not a picture")
    originals = list_originals(tmp_path)
    assert originals == {"a": tmp_path / "a.jpg"}
    assert pair(originals, tmp_path, tmp_path)["a"] == Output(tmp_path / "a.restored.png", tmp_path / "a.thumb.png")


def test_what_does_not_pair_is_one_sentence(folders: tuple[Path, Path, Path], photo: Photo, tmp_path: Path) -> None:
    hr, restored, _ = folders

    def refused(*arguments: Any, **options: Any) -> str:
        with pytest.raises(PairingError) as caught:
            run(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "no pictures in this folder" in refused(tmp_path / "empty", restored)
    assert "no pictures in this folder" in refused(hr, tmp_path / "empty")
    assert "not a folder" in refused(hr, tmp_path / "nowhere")
    assert "not a folder" in refused(hr / "a.jpg", restored)
    photo("hr/in/d.png")
    assert f"{hr / 'in' / 'd.png'} has no restored picture in {restored}" in refused(hr, restored)
    photo("restored/x.restored.png")
    text = refused(hr, restored)
    assert str(restored / "x.restored.png") in text
    assert "has no original" in text
    (hr / "in" / "d.png").unlink()
    (restored / "x.restored.png").unlink()
    photo("hr/a.png")
    text = refused(hr, restored)
    assert str(hr / "a.jpg") in text
    assert str(hr / "a.png") in text
    (hr / "a.png").unlink()
    photo("restored/b.restored.png", 64, 80)
    text = refused(hr, restored)
    for part in ("sizes differ", "b.restored.png is 64 x 80", "b.png 64 x 81"):
        assert part in text
    # The same through mappings.
    assert "sizes differ" in refused({"b": hr / "b.png"}, {"b": restored / "b.restored.png"})
    with pytest.raises(EvaluationError, match="'b' is in one of them only"):
        run({"a": hr / "a.jpg"}, {"a": restored / "a.restored.png", "b": restored / "b.restored.png"})


def test_many_unpaired_are_counted_and_a_few_named(photo: Photo, tmp_path: Path) -> None:
    for i in range(7):
        photo(f"hr/{i}.png", 20, 20)
    photo("restored/0.png", 20, 20)
    with pytest.raises(PairingError, match=r"1\.png.*2\.png.*3\.png and 3 more have no restored picture"):
        run(tmp_path / "hr", tmp_path / "restored")


def test_turned_photographs_pair_by_their_upright_size(tmp_path: Path) -> None:
    (tmp_path / "hr").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(40, 60)).save(tmp_path / "hr" / "a.jpg", exif=exif, quality=95)
    upright = read_picture(tmp_path / "hr" / "a.jpg").rgb
    assert upright.shape == (60, 40, 3)
    (tmp_path / "restored").mkdir()
    write_picture(tmp_path / "restored" / "a.png", Picture(upright))
    result = run(tmp_path / "hr", tmp_path / "restored")
    assert result.summary["psnr"] == math.inf
    assert (result.pictures[0].width, result.pictures[0].height) == (40, 60)


def test_scales_that_cannot_be_told(photo: Photo) -> None:
    originals, outputs = {}, {}
    for name, size, small in (("a", (60, 40), (4, 3)), ("b", (33, 17), (3, 2))):
        originals[name] = photo(f"{name}.png", *size)
        outputs[name] = Output(originals[name], photo(f"{name}.thumb.png", *small))
    assert find_scale({"a": originals["a"]}, {"a": outputs["a"]}) is None  # 15 to 19
    assert find_scale(originals, outputs) is None  # still 15 and 16
    assert find_scale(originals, {name: Output(path) for name, path in originals.items()}) is None
    with pytest.raises(PairingError):
        run(originals, dict.fromkeys(originals, photo("c.png", 1, 1)))


# ----- values


def test_values_are_those_of_the_files(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, small = folders
    names = ["psnr", "ssim", "thumbnail_psnr", "thumbnail_ssim", "lattice"]
    result = run(hr, pair(list_originals(hr), restored, small), metrics=names)
    assert result.missing == {"thumbnail_ssim": result.missing["thumbnail_ssim"]}  # thumbnails below 11 x 11 pixels
    assert result.scale == 16
    for picture in result.pictures:
        original, back = (read_picture(str(p)).rgb for p in (picture.original, picture.restored))
        thumbnail = Path(str(picture.thumbnail))
        size = thumbnail.stat().st_size
        assert picture.values["psnr"] == psnr(original, back)
        assert picture.values["ssim"] == ssim(original, back)
        assert picture.values["thumbnail_psnr"] == math.inf  # they are the bicubic ones
        assert picture.values["bytes"] == picture.values["thumbnail_bytes"] == size
        assert picture.values["bits_per_pixel"] == pytest.approx(8 * size / original[..., 0].size)
        assert picture.error is None
    assert result.summary["psnr"] == pytest.approx(np.mean(list(values(result, "psnr").values())))
    assert result.summary["lattice"] > 0
    about = result.about
    assert about["dataset"] == "hr"
    assert about["files"] == files_hash(list_originals(hr))
    assert about["device"] == "cpu"
    assert {"torch", "numpy", "pillow", "faitheir", "python"} <= about.keys()
    assert "RGB" in about["metric psnr"]


def test_what_a_system_says_of_itself_is_kept(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, _ = folders
    path = restored / "a.restored.png"
    result = run(
        {"a": hr / "a.jpg"},
        {"a": Output(path, bytes=123, seconds_down=0.5, seconds_up=2.0)},
        system="jpeg",
        kind="codec",
        about={"quality": "7"},
        note="matched to bytes",
        dataset="mine",
    )
    assert result.summary["bytes"] == 123
    assert result.summary["bits_per_pixel"] == pytest.approx(8 * 123 / (90 * 70))
    assert (result.summary["seconds_down"], result.summary["seconds_up"]) == (0.5, 2.0)
    assert "thumbnail_bytes" not in result.summary
    assert (result.kind, result.note, result.about["quality"], result.about["dataset"]) == (
        "codec",
        "matched to bytes",
        "7",
        "mine",
    )


def test_luma_leaves_the_border_out(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, small = folders
    outputs = pair(list_originals(hr), restored, small)
    plain, luma = (run(hr, outputs, protocol=protocol) for protocol in ("paper", "luma"))
    a, b = (read_picture(p).rgb[16:-16, 16:-16] for p in (hr / "b.png", outputs["b"].restored))
    assert values(luma, "psnr")["b"] == psnr(a, b, luma=True) != values(plain, "psnr")["b"]
    # Without thumbnails nobody knows the scale, and the metrics say so.
    unknown = run(hr, restored, protocol="luma")
    assert unknown.missing.keys() == {"psnr", "ssim"}
    assert "--scale" in unknown.missing["psnr"]
    assert run(hr, restored, protocol="luma", scale=16).summary["psnr"] == luma.summary["psnr"]


def test_metrics_with_weights_in_files(photo: Photo, tmp_path: Path) -> None:
    pytest.importorskip("lpips")
    pytest.importorskip("torch_fidelity")
    nets = {"alexnet": files_of.save_torchvision(tmp_path / "alexnet.pth", files_of.ALEXNET)}
    nets["inception"] = files_of.save_inception(tmp_path / "inception.pth")
    originals = {
        "a": photo("hr/a.png", 512, 256),
        "b": photo("hr/b.png", 256, 300, seed=1),
        "c": photo("hr/c.png", 90, 90),
    }
    outputs = {
        name: photo(f"out/{name}.jpg", *Image.open(path).size, seed=9, quality=5) for name, path in originals.items()
    }
    store = Store(tmp_path / "cache")
    wanted = ["lpips_alex", "fid", "kid", "psnr"]
    result = run(originals, outputs, metrics=wanted, weights=nets, store=store, batch=2)
    assert result.missing == {}
    assert result.summary.keys() == set(wanted)
    assert set(values(result, "lpips_alex")) == {"a", "b", "c"}
    assert result.summary["fid"] > 0
    assert result.about["patches"] == "3"  # c is smaller than a patch
    assert "of 3 patches only" in result.warnings["fid"]
    assert "of 3 patches only" in result.warnings["kid"]
    assert "torch-fidelity" in result.about["metric fid"]
    assert result == run(originals, outputs, metrics=wanted, weights=nets, store=store, batch=1)
    # A picture that fails is left out on both sides.
    outputs["b"].write_bytes(b"no picture")
    partly = run(originals, outputs, metrics=["kid", "lpips_alex"], weights=nets, store=store)
    assert partly.about["patches"] == "2"
    assert "of 2 of 3 pictures" in partly.warnings["kid"]
    assert "the mean of 2 of 3 pictures" in partly.warnings["lpips_alex"]
    # Where there are no patches, there is no FID.
    few = run({"c": originals["c"]}, {"c": outputs["c"]}, metrics=["fid", "psnr"], weights=nets, store=store)
    assert "not two patches of 256 x 256" in few.missing["fid"]
    assert "psnr" in few.summary


def test_what_is_missing_says_so_and_the_rest_is_computed(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    attempts = []

    def unreachable(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hr, restored, _ = folders
    result = run(hr, restored, metrics=None)
    assert result.summary.keys() == {"psnr", "ssim"}
    assert {"lpips_alex", "lpips_vgg", "dists", "fid", "kid"} <= result.missing.keys()
    assert "thumbnail_psnr" not in result.missing  # nobody said that there were thumbnails
    assert "(--weights vgg16=PATH)" in result.missing["dists"]
    assert "(--weights inception=PATH)" in result.missing["kid"]
    assert len(attempts) == 4  # Inception was asked for once
    asked = run(hr, restored, metrics=["thumbnail_psnr", "lattice"])
    assert "--thumbnails" in asked.missing["thumbnail_psnr"]
    assert "--scale" in asked.missing["lattice"]


def test_requests_that_cannot_be_met(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, _ = folders
    for options, sentence in (
        ({"metrics": ["psnr", "pnsr"]}, "Unknown metric 'pnsr'"),
        ({"metrics": ["lpips"]}, "Unknown metric 'lpips'"),
        ({"protocol": "mine"}, "Unknown protocol 'mine'"),
        ({"weights": {"lpips_alex": "x"}}, "unknown network 'lpips_alex'; the networks are alexnet"),
    ):
        with pytest.raises(EvaluationError, match=sentence):
            run(hr, restored, **options)


def test_small_pictures_are_not_counted_where_a_metric_is_not_defined(photo: Photo) -> None:
    originals = {"dot": photo("dot.png", 5, 5), "whole": photo("whole.png", 40, 40)}
    outputs = {name: photo(f"out/{name}.png", *Image.open(path).size, seed=3) for name, path in originals.items()}
    result = run(originals, outputs)
    assert set(values(result, "psnr")) == {"dot", "whole"}
    assert result.summary["ssim"] == values(result, "ssim")["whole"]
    assert "1 of 2 pictures" in result.warnings["ssim"]
    alone = run({"dot": originals["dot"]}, {"dot": outputs["dot"]})
    assert "ssim" not in alone.summary
    assert "too small" in alone.missing["ssim"]


# ----- failures


@pytest.mark.parametrize("side", ["hr", "restored", "small"])
def test_one_corrupt_picture_among_many(side: str, folders: tuple[Path, Path, Path]) -> None:
    hr, restored, small = folders
    originals = list_originals(hr)
    outputs = pair(originals, restored, small)
    whole = run(hr, outputs, metrics=["psnr", "thumbnail_psnr"])
    broken = {"hr": originals["b"], "restored": outputs["b"].restored, "small": Path(str(outputs["b"].thumbnail))}[side]
    broken.write_bytes(broken.read_bytes()[:-40])
    result = run(hr, outputs, metrics=["psnr", "thumbnail_psnr"])
    a, b, c = result.pictures
    assert (a, c) == (whole.pictures[0], whole.pictures[2])
    assert b.error is not None
    assert "\n" not in b.error
    assert b.error.count(str(broken)) == 1  # once, however many metrics it concerns
    expected = {"hr": set(), "restored": {"thumbnail_psnr"}, "small": {"psnr"}}[side]
    assert b.values.keys() & {"psnr", "thumbnail_psnr"} == expected
    lacking = {"psnr", "thumbnail_psnr"} - expected
    assert all("2 of 3 pictures" in result.warnings[name] for name in lacking)


def test_a_picture_that_was_not_made(folders: tuple[Path, Path, Path]) -> None:
    hr, restored, _ = folders
    outputs = pair(list_originals(hr), restored) | {"b": Output(Path("nowhere"), error="the program failed.")}
    result = run(hr, outputs)
    assert result.pictures[1] == PictureResult("b", 64, 81, error="the program failed.", original=str(hr / "b.png"))
    assert set(values(result, "psnr")) == {"a", "in/c"}


def test_a_thumbnail_of_the_wrong_size(folders: tuple[Path, Path, Path], photo: Photo) -> None:
    hr, restored, small = folders
    outputs = pair(list_originals(hr), restored, small)
    photo("small/b.thumb.png", 9, 9)
    result = run(hr, outputs, metrics=["psnr", "thumbnail_psnr"], scale=16)
    assert "9 x 9 pixels, and at scale 16 it should be 4 x 6" in str(result.pictures[1].error)
    assert set(values(result, "thumbnail_psnr")) == {"a", "in/c"}
    assert set(values(result, "psnr")) == {"a", "b", "in/c"}


# ----- going on


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that evaluating decodes from here on."""
    paths: list[Path] = []

    def read(path: Path) -> Picture:
        paths.append(path)
        return read_picture(path)

    monkeypatch.setattr(evaluating, "read_picture", read)
    return paths


def test_a_run_that_stopped_goes_on(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Path]
) -> None:
    hr, restored, small = folders
    outputs = pair(list_originals(hr), restored, small)
    names = ["psnr", "ssim", "lattice", "thumbnail_psnr"]
    expected = run(hr, outputs, metrics=names)
    opened.clear()
    measure = evaluating._measure

    def interrupt(picture: str, *arguments: Any) -> Any:
        if picture == "b":
            raise KeyboardInterrupt
        return measure(picture, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "_measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(hr, outputs, metrics=names, store=Store(tmp_path / "cache"))
    assert {path.stem.split(".")[0] for path in opened} == {"a"}
    opened.clear()
    assert run(hr, outputs, metrics=names, store=Store(tmp_path / "cache")) == expected
    assert {path.stem.split(".")[0] for path in opened} == {"b", "c"}
    opened.clear()
    assert run(hr, outputs, metrics=names, store=Store(tmp_path / "cache")) == expected
    assert opened == []
    # What is asked for in addition is computed, and nothing else.
    more = run(hr, outputs, metrics=["psnr", "thumbnail_ssim"], store=Store(tmp_path / "cache"))
    assert more.summary["psnr"] == expected.summary["psnr"]
    assert not any("restored" in str(path) for path in opened)


def test_what_changed_is_measured_anew(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    hr, restored, small = folders
    outputs = pair(list_originals(hr), restored, small)
    store = Store(tmp_path / "cache")
    before = run(hr, outputs, store=store)
    write_picture(restored / "a.restored.png", Picture(noise(70, 90)))
    after = run(hr, outputs, store=store)
    assert after == run(hr, outputs)  # as if nothing had been kept
    assert values(after, "psnr")["a"] != values(before, "psnr")["a"]
    assert values(after, "psnr")["b"] == values(before, "psnr")["b"]
    assert run(hr, outputs, store=store, protocol="luma") == run(hr, outputs, protocol="luma")
    assert run(hr, outputs, store=store, protocol="luma-2") == run(hr, outputs, protocol="luma-2")
    write_picture(hr / "b.png", Picture(noise(81, 64)))
    assert run(hr, outputs, store=store) == run(hr, outputs)
    assert run(hr, outputs, store=store).about["files"] != before.about["files"]


def test_a_damaged_entry_is_computed_again(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    hr, restored, small = folders
    outputs = pair(list_originals(hr), restored, small)
    before = run(hr, outputs, metrics=["psnr", "lattice"], store=Store(tmp_path / "cache"))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".npy"}
    for path in files:
        path.write_bytes(path.read_bytes()[:-9])
    assert run(hr, outputs, metrics=["psnr", "lattice"], store=Store(tmp_path / "cache")) == before


# ----- making what is measured


class Made(System):
    """Bicubic thumbnails, and the originals as what comes back; what it was asked for is in ``asked``."""

    kind = "resampling"
    suffix = ".png"

    def __init__(self, settings: Any = "", interrupt: str = "") -> None:
        super().__init__("made", 16, {})
        self.asked: list[str] = []
        self.by, self.interrupt = settings, interrupt

    def settings(self, picture: str) -> str:
        return str(self.by(picture) if callable(self.by) else self.by)

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:  # noqa: ARG002
        self.asked.extend(pending)

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        if picture == self.interrupt:
            raise KeyboardInterrupt
        rgb = read_picture(original).rgb
        write_picture(stored, Picture(bicubic_thumbnail(rgb, 16)))
        write_picture(restored, Picture(rgb))
        return {"seconds_down": 0.1, "seconds_up": 0.2, "details": {"quality": 3.0}}


def test_pictures_are_made_once(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    originals = list_originals(folders[0])

    def make(settings: Any = "one", kind: type[Made] = Made, interrupt: str = "") -> tuple[list[str], Any]:
        system = kind(settings, interrupt)
        outputs = system.outputs(originals, tmp_path / "out", Store(tmp_path / "cache"), progress=False)
        assert system.made == outputs
        return system.asked, outputs

    with pytest.raises(KeyboardInterrupt):
        make(interrupt="b")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.startswith(".") or p.stem == "b"]
    done, outputs = make()
    assert done == ["b", "in/c"]
    restored = tmp_path / "out" / "restored" / "in" / "c.png"
    thumbnail = tmp_path / "out" / "thumbnails" / "in" / "c.png"
    assert outputs["in/c"] == Output(restored, thumbnail, thumbnail.stat().st_size, 0.1, 0.2, None, {"quality": 3.0})
    assert list(outputs) == list(originals)
    done, again = make()
    assert (done, again) == ([], outputs)
    # Other settings, a changed output, one that is gone, a changed original: made again.
    assert make("two")[0] == ["a", "b", "in/c"]
    assert make("two")[0] == []
    assert make(lambda picture: "three" if picture == "a" else "two")[0] == ["a"]
    restored.write_bytes(thumbnail.read_bytes())
    assert make("two")[0] == ["in/c"]  # the third settings left the same files of "a"
    thumbnail.unlink()
    assert make("two")[0] == ["in/c"]
    write_picture(originals["b"], Picture(noise(20, 20)))
    assert make("two")[0] == ["b"]

    # Files that are no pictures have a folder and a suffix of their own.
    class Coded(Made):
        kept, suffix = "coded", ".webp"

    _, coded = make("codec", Coded)
    assert coded["a"].thumbnail is None
    assert coded["a"].bytes == (tmp_path / "out" / "coded" / "a.webp").stat().st_size


def test_a_picture_that_cannot_be_made_stops_no_other(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    originals = list_originals(folders[0])
    originals["b"].write_bytes(b"no picture")
    originals["gone"] = tmp_path / "gone.png"
    outputs = Made().outputs(originals, tmp_path / "out", Store(), progress=False)
    assert [name for name, output in outputs.items() if output.error is None] == ["a", "in/c"]
    assert str(originals["b"]) in str(outputs["b"].error)
    assert "does not exist" in str(outputs["gone"].error)

    class Lacking(Made):
        def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:  # noqa: ARG002
            raise MissingDependencyError("it needs a library.")

    with pytest.raises(MissingDependencyError):  # no picture is free of that
        Lacking("other").outputs(originals, tmp_path / "out", Store(), progress=False)


def test_a_model_goes_through_its_thumbnail_file(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model)
    exif = Image.Exif()
    exif[0x010E] = "what a description, long enough to weigh something " * 4
    originals = {"a": photo("hr/a.jpg", 70, 45, exif=exif), "b": photo("hr/b.png", 40, 33, mode="RGBA")}
    system = ModelSystem(str(tiny_model), Setting())
    outputs = system.outputs(originals, tmp_path / "out", Store(), progress=False)
    for name, output in outputs.items():
        assert output.thumbnail is not None
        assert output.thumbnail.suffix == ".webp"
        thumbnail = Thumbnail.open(output.thumbnail)
        assert thumbnail.picture.exif is None  # only pixels are measured
        pixels = Picture(read_picture(originals[name]).rgb)
        np.testing.assert_array_equal(thumbnail.picture.rgb, pipeline.downscale_picture(pixels).picture.rgb)
        np.testing.assert_array_equal(read_picture(output.restored).rgb, pipeline.upscale_thumbnail(thumbnail).rgb)
        assert output.bytes == output.thumbnail.stat().st_size
        assert output.seconds_down is not None
        assert output.seconds_up is not None
        assert output.seconds_up > 0 < output.seconds_down
    result = run(originals, outputs, metrics=["psnr", "thumbnail_psnr"], about=system.about)
    assert result.scale == 16
    assert result.about["model_weights"] == pipeline.weights
    assert "thumbnail_psnr" in result.summary


# ----- results on disk

numbers = st.floats() | st.integers(-1000, 1000).map(float)
texts = st.text(max_size=12)
tables = st.dictionaries(texts, numbers, max_size=3)
notes = st.dictionaries(texts, texts, max_size=3)
pictures = st.builds(
    PictureResult,
    texts,
    st.integers(0, 9999),
    st.integers(0, 9999),
    tables,
    st.none() | texts,
    *[st.none() | texts] * 3,
)
systems = st.builds(
    SystemResult,
    texts,
    st.sampled_from(["model", "codec", "published"]),
    texts,
    st.none() | st.integers(2, 256),
    st.lists(pictures, max_size=3).map(tuple),
    tables,
    notes,
    notes,
    notes,
    texts,
)


@given(result=systems)
def test_json_and_back(result: SystemResult) -> None:
    text = result.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(SystemResult.from_json(text)) == repr(result)  # repr: nan is not equal to itself


def test_results_on_disk(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    hr, restored, small = folders
    out = tmp_path
    result = run(hr, pair(list_originals(hr), restored, small), metrics=["psnr", "thumbnail_psnr"])
    write_result(out / "bicubic.json", result)
    stored = json.loads((out / "bicubic.json").read_text())
    assert stored["pictures"][0]["restored"] == "restored/a.restored.png"
    assert stored["pictures"][0]["values"]["thumbnail_psnr"] == "inf"
    assert read_result(out / "bicubic.json") == result
    assert read_results(out) == [result]
    (tmp_path / "moved").mkdir()
    (out / "bicubic.json").rename(tmp_path / "moved" / "bicubic.json")
    assert read_result(tmp_path / "moved" / "bicubic.json").pictures[0].restored == str(
        tmp_path / "moved" / "restored" / "a.restored.png"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a result"),
        ("[1]", "not a result"),
        ('{"version": 99}', "newer FaithEIR"),
        ('{"version": 1}', "'system' is missing"),
        ('{"version": 1, "system": "x", "kind": "magic", "protocol": "paper"}', "choose one of"),
        (
            '{"version": 1, "system": "x", "kind": "model", "protocol": "paper", "summary": {"psnr": "high"}}',
            "not a number",
        ),
        ('{"version": 1, "system": "x", "kind": "model", "protocol": "paper", "pictures": 3}', "not a result"),
        ("\x00", "not a result"),
    ],
)
def test_files_that_are_no_results(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=sentence) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_result(tmp_path / "nowhere.json")
    with pytest.raises(StorageError, match="cannot be written"):
        write_result(tmp_path / "nowhere" / "x.json", SystemResult("x", "model", "paper"))


@given(names=st.lists(texts.filter(bool), unique=True, max_size=8))
def test_every_system_has_a_file_of_its_own(names: list[str]) -> None:
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert Path(stem).name == stem
        assert not stem.startswith(".")
        assert len(stem) < 80
    assert file_stem("nano-x16") == "nano-x16"


def test_means_are_of_what_is_a_number() -> None:
    rows: list[dict[str, float]] = [{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 3.0}, {"b": math.inf}]
    assert means(rows) == {"a": 1.5, "b": math.inf}
    assert means([]) == {}
