"""The pipeline: any picture in any form, down to a file and back, whole or in tiles."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import faitheir
from conftest import save_tiny_model
from faitheir import FaithEIRPipeline, Pipelines, Thumbnail, ThumbnailInfo, WeightsMismatchWarning, models, pipeline_for
from faitheir.backbones.nano import Grain
from faitheir.errors import ConfigError, DeviceError, ImageError, ModelError, ThumbnailError
from faitheir.evaluation.roundtrip import round_trip
from faitheir.images import Picture, read_picture
from faitheir.models import KNOWN_CONFIGS, build_model, read_weights
from tiny import model_config, wake

COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"


@pytest.fixture(scope="session")
def pipeline(tiny_model: Path) -> FaithEIRPipeline:
    return FaithEIRPipeline.from_pretrained(tiny_model)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture with structure at many sizes, so that tiles have something to disagree about."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + b) * np.cos(y / (a + 3) - b) for a, b in ((7.0, 0.0), (19.0, 1.0), (53.0, 2.0))]
    return np.stack([127 + 120 * w for w in waves], 2).astype(np.uint8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 80), width=st.integers(1, 80), alpha=st.booleans(), suffix=st.sampled_from(["png", "webp"])
)
@example(height=1, width=1, alpha=False, suffix="png")
@example(height=1, width=300, alpha=True, suffix="webp")
@example(height=300, width=1, alpha=False, suffix="png")
def test_any_size_comes_back_in_exactly_its_size_through_the_file(
    pipeline: FaithEIRPipeline, tmp_path: Path, height: int, width: int, alpha: bool, suffix: str
) -> None:
    original = noise(height, width, 4 if alpha else 3)
    path = tmp_path / f"t.{suffix}"
    pipeline.downscale(original).save(path)
    with Image.open(path) as stored:
        assert stored.size == (-(-width // 16), -(-height // 16))
        assert stored.mode == ("RGBA" if alpha else "RGB")
    restored = pipeline.upscale(path)
    assert restored.size == (width, height)
    assert restored.mode == ("RGBA" if alpha else "RGB")


def test_the_file_restores_the_same_as_the_thumbnail_in_memory(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    thumbnail = pipeline.downscale(noise(50, 70))
    thumbnail.save(tmp_path / "t.png")
    thumbnail.save(tmp_path / "t.webp", lossless=True)
    expected = pipeline.upscale(thumbnail, output_type="np")
    for name in ("t.png", "t.webp"):
        np.testing.assert_array_equal(pipeline.upscale(tmp_path / name, output_type="np"), expected)


def test_every_form_of_a_picture_gives_the_same_thumbnail(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    array = noise(40, 56)
    Image.fromarray(array).save(tmp_path / "p.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [
        tmp_path / "p.png",
        str(tmp_path / "p.png"),
        Image.fromarray(array),
        array,
        array.astype(np.float32) / 255,
        array.astype(np.uint16) * 257,
        tensor,
        tensor.float() / 255,
        read_picture(tmp_path / "p.png"),
    ]
    thumbnails = pipeline.downscale(forms)
    assert isinstance(thumbnails, list)
    for thumbnail in thumbnails:
        np.testing.assert_array_equal(thumbnail.picture.rgb, thumbnails[0].picture.rgb)
    batch = pipeline.downscale(torch.stack([tensor, tensor.flip(2)]))
    np.testing.assert_array_equal(batch[0].picture.rgb, thumbnails[0].picture.rgb)
    assert (batch[1].picture.rgb != batch[0].picture.rgb).any()


def test_outputs_in_every_form_agree(pipeline: FaithEIRPipeline) -> None:
    thumbnail = pipeline.downscale(noise(40, 56, 4))
    array = pipeline.upscale(thumbnail, output_type="np")
    tensor = pipeline.upscale([thumbnail], output_type="pt")[0]
    assert array.shape == (40, 56, 4)
    np.testing.assert_array_equal(np.asarray(pipeline.upscale(thumbnail)), array)
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy() * 255, array, atol=1e-3)


def test_a_pil_image_opened_from_a_thumbnail_file_knows_the_original_size(
    pipeline: FaithEIRPipeline, tmp_path: Path
) -> None:
    thumbnail = pipeline.downscale(noise(41, 55))
    for suffix in ("png", "webp"):
        thumbnail.save(tmp_path / f"t.{suffix}")
        with Image.open(tmp_path / f"t.{suffix}") as image:
            assert pipeline.upscale(image).size == (55, 41)
    assert pipeline.upscale(thumbnail.image).size == (55, 41)


def test_without_metadata_the_size_is_the_thumbnails_times_the_scale(
    pipeline: FaithEIRPipeline, tmp_path: Path
) -> None:
    thumbnail = pipeline.downscale(noise(41, 55))
    Image.fromarray(thumbnail.picture.rgb).save(tmp_path / "stripped.png")
    assert pipeline.upscale(tmp_path / "stripped.png").size == (64, 48)
    Image.fromarray(thumbnail.picture.rgb).save(tmp_path / "resaved.jpg", quality=90)
    assert pipeline.upscale(tmp_path / "resaved.jpg").size == (64, 48)
    whole = pipeline.upscale(thumbnail, output_type="np")
    stripped = pipeline.upscale(thumbnail.picture.rgb, output_type="np")
    np.testing.assert_array_equal(stripped[:41, :55], whole)


def test_other_weights_and_another_scale_are_told(pipeline: FaithEIRPipeline) -> None:
    made = pipeline.downscale(noise(32, 32))
    assert made.info is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.upscale(made)
    other = Thumbnail(made.picture, ThumbnailInfo(16, 32, 32, "0123456789abcdef", "somebody's"))
    with pytest.warns(WeightsMismatchWarning, match=r"0123456789abcdef of 'somebody's'"):
        pipeline.upscale(other)
    smaller = Thumbnail(made.picture, ThumbnailInfo(32, 64, 64, "0123456789abcdef", "nano-x32"))
    with pytest.raises(ThumbnailError, match=r"32x by the weights 0123456789abcdef of 'nano-x32'"):
        pipeline.upscale(smaller)


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds two models of 16x, one under the other's name with "-old", and one of 32x."""
    for folder, name, scale, seed in (("a", "a", 16, 0), ("a-old", "a", 16, 1), ("b", "b", 32, 2)):
        save_tiny_model(tmp_path / "weights" / folder, model_config(name=name, scale=scale), seed)
    monkeypatch.setattr("faitheir.models.embedded_folder", lambda: tmp_path / "weights")
    return tmp_path


def test_a_thumbnail_finds_the_model_whose_weights_made_it(several: Path) -> None:
    photo = noise(64, 64)
    pipelines = Pipelines(default="b", tile=512)
    for name in ("a", "a-old", "b"):
        maker = FaithEIRPipeline.from_pretrained(name)
        maker.downscale(photo).save(several / "t.png")
        found = pipelines.for_thumbnail(Thumbnail.open(several / "t.png"))
        assert (found.weights, found.scale, found.tile) == (maker.weights, maker.scale, 512)
        assert pipelines.for_thumbnail(Thumbnail.open(several / "t.png")) is found, "opened once"
        assert pipeline_for(several / "t.png", max_pixels=1000).weights == maker.weights
    assert pipelines.for_thumbnail(None).name == "b"
    assert pipeline_for(photo, default="a-old").weights == pipelines.open("a-old").weights
    assert Pipelines("a").for_thumbnail(Thumbnail.open(several / "t.png")).name == "a"


def test_a_thumbnail_of_unknown_weights_has_the_model_of_its_name_or_none(several: Path) -> None:
    small = Picture(noise(4, 4))
    pipelines = Pipelines()
    of_name = Thumbnail(small, ThumbnailInfo(16, 64, 64, "0123456789abcdef", "a"))
    found = pipelines.for_thumbnail(of_name)
    assert found.weights == FaithEIRPipeline.from_pretrained("a").weights
    with pytest.warns(WeightsMismatchWarning, match="0123456789abcdef of 'a'"):
        found.upscale(of_name)
    nameless = Thumbnail(small, ThumbnailInfo(16, 64, 64, "0123456789abcdef"))
    with pytest.raises(ModelError, match="made by the weights 0123456789abcdef, which this package does not hold"):
        pipelines.for_thumbnail(nameless)
    stranger = Thumbnail(small, ThumbnailInfo(16, 64, 64, "0123456789abcdef", str(several / "weights" / "a")))
    with pytest.raises(ModelError, match=r"weights 0123456789abcdef of .* give the folder or the Hub id"):
        pipelines.for_thumbnail(stranger)


def test_weights_are_hashed_once_while_their_file_stays(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(models, "read_weights", lambda folder: read.append(folder) or read_weights(folder))
    thumbnail = Thumbnail(Picture(noise(2, 2)), ThumbnailInfo(32, 64, 64, "0123456789abcdef", "b"))
    for _ in range(3):
        assert models.model_for(thumbnail.info) == "b"
    assert len(read) == 1, "those of other scales are not read"
    other = save_tiny_model(several / "other", model_config(scale=32), 3)
    (other / "model.safetensors").replace(several / "weights" / "b" / "model.safetensors")
    assert models.stored_hash(several / "weights" / "b") == FaithEIRPipeline.from_pretrained("b").weights


@pytest.mark.usefixtures("several")
def test_threads_share_what_is_opened() -> None:
    pipelines = Pipelines()
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(pipelines.open, ["a", "b"] * 8))
    assert len({id(pipeline) for pipeline in opened}) == 2


def test_a_photograph_in_place_of_a_thumbnail_is_refused_before_anything_is_allocated(
    pipeline: FaithEIRPipeline,
) -> None:
    with pytest.raises(ThumbnailError, match=r"24000 x 24000 pixels.*raise max_pixels"):
        pipeline.upscale(np.zeros((1500, 1500, 3), np.uint8))


def test_the_limit_on_pixels_is_the_callers(pipeline: FaithEIRPipeline, tiny_model: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(32, 48)).save(tmp_path / "p.png")
    small = np.zeros((2, 3, 3), np.uint8)
    strict = FaithEIRPipeline.from_pretrained(tiny_model, max_pixels=32 * 48 - 1)
    for call in (
        lambda: pipeline.downscale(tmp_path / "p.png", max_pixels=1000),
        lambda: pipeline.downscale([tmp_path / "p.png"], max_pixels=1000),
        lambda: strict.downscale((tmp_path / "p.png").read_bytes()),
    ):
        with pytest.raises(ImageError, match="48 x 32 pixels, above the limit"):
            call()
    for call in (
        lambda: pipeline.upscale(small, max_pixels=1000),
        lambda: strict.upscale([small]),
        lambda: strict.upscale_thumbnail(Thumbnail(Picture(small), None)),
    ):
        with pytest.raises(ThumbnailError, match="48 x 32 pixels, above the limit"):
            call()
    assert strict.upscale(small, max_pixels=32 * 48).size == (48, 32)
    assert strict.downscale(tmp_path / "p.png", max_pixels=32 * 48).image.size == (3, 2)


def test_a_callback_is_told_of_each_tile_and_ends_the_call(tiny_model: Path) -> None:
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model, tile=256)
    photo = smooth(300, 500)
    told: list[tuple[int, int]] = []
    thumbnail = pipeline.downscale(photo, callback=lambda *count: told.append(count))
    assert told == [(n, 6) for n in range(1, 7)]
    expected = pipeline.upscale(thumbnail, output_type="np")

    class CancelledError(Exception):
        pass

    def cancel(done: int, count: int) -> None:
        told.append((done, count))
        if done == 3:
            raise CancelledError

    for work in (
        lambda: pipeline.downscale(photo, callback=cancel),
        lambda: pipeline.upscale([thumbnail], callback=cancel),
    ):
        told.clear()
        with pytest.raises(CancelledError):
            work()
        assert told == [(1, 6), (2, 6), (3, 6)]
    assert torch.is_grad_enabled(), "nothing is left switched"
    np.testing.assert_array_equal(pipeline.upscale(thumbnail, output_type="np"), expected)


def test_lists_and_batches_run_as_batches_and_equal_one_by_one(
    pipeline: FaithEIRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [noise(40, 56, seed=n) for n in range(3)] + [noise(40, 55, 4)] + [noise(40, 56, 4, seed=5)]
    singly = [pipeline.downscale(photo) for photo in photos]
    restored = [pipeline.upscale(thumbnail, output_type="np") for thumbnail in singly]
    ran: list[int] = []
    run = FaithEIRPipeline._run

    def counted(self: FaithEIRPipeline, function: Any, cut: np.ndarray) -> np.ndarray:
        ran.append(len(cut))
        return run(self, function, cut)

    monkeypatch.setattr(FaithEIRPipeline, "_run", counted)
    thumbnails = pipeline.downscale(photos)
    assert ran == [3, 1, 1], "neighbours of one size"
    ran.clear()
    pictures = pipeline.upscale(thumbnails, output_type="np")
    assert ran == [5], "thumbnails of one size, whatever their photographs'"
    for a, b, c, d in zip(thumbnails, singly, pictures, restored, strict=True):
        assert a.info == b.info
        assert a.picture.rgb.flags.c_contiguous
        assert np.abs(a.picture.rgb.astype(int) - b.picture.rgb).max() <= 1
        assert c.shape == d.shape
        assert np.abs(c.astype(int) - d).max() <= 1
    batch = np.stack(photos[:3])
    ran.clear()
    tensors = pipeline.downscale(torch.from_numpy(batch).permute(0, 3, 1, 2))
    assert [t.info for t in tensors] == [t.info for t in pipeline.downscale(batch)] == [t.info for t in singly[:3]]
    assert ran == [3, 3]
    ran.clear()
    pipeline.downscale([noise(600, 1200)] * 7)
    assert ran == [5, 2], "no more at once than fill a tile of 2048"


def test_bytes_and_open_files_are_taken_where_a_path_is(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    Image.fromarray(noise(41, 55)).save(tmp_path / "p.png")
    thumbnail = pipeline.downscale(tmp_path / "p.png")
    thumbnail.save(tmp_path / "t.png")
    with (tmp_path / "p.png").open("rb") as file:
        forms = pipeline.downscale(
            [(tmp_path / "p.png").read_bytes(), file, io.BytesIO((tmp_path / "p.png").read_bytes())]
        )
    assert all(np.array_equal(form.picture.rgb, thumbnail.picture.rgb) for form in forms)
    with (tmp_path / "t.png").open("rb") as file:
        assert pipeline.upscale(file).size == (55, 41)
        assert not file.closed
    assert pipeline.upscale((tmp_path / "t.png").read_bytes()).size == (55, 41)
    (tmp_path / "broken.png").write_bytes(b"none")
    with (tmp_path / "broken.png").open("rb") as file, pytest.raises(ImageError, match=r"broken\.png is not a picture"):
        pipeline.downscale(file)
    with pytest.raises(ImageError, match="the data is not a picture"):
        pipeline.downscale(b"")
    with (tmp_path / "p.png").open("r", encoding="latin-1") as text, pytest.raises(ImageError, match="binary mode"):
        pipeline.downscale(text)  # type: ignore[call-overload]


def test_alpha_survives(pipeline: FaithEIRPipeline) -> None:
    opaque = np.concatenate([smooth(64, 96), np.full((64, 96, 1), 255, np.uint8)], 2)
    assert (pipeline.upscale(pipeline.downscale(opaque), output_type="np")[..., 3] == 255).all()
    half = opaque.copy()
    half[:, 48:, 3] = 0
    restored = pipeline.upscale(pipeline.downscale(half), output_type="np")[..., 3]
    assert (restored[:, :32] == 255).all()
    assert (restored[:, -32:] == 0).all()


def test_position_does_not_travel_unless_asked(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (10.0, 20.0, 30.5)})
    Image.fromarray(noise(40, 60)).save(tmp_path / "p.jpg", exif=exif.tobytes())
    for mode, make, position in (("safe", "Maker", False), ("all", "Maker", True), ("none", None, False)):
        thumbnail = pipeline.downscale(tmp_path / "p.jpg", exif=mode)  # type: ignore[call-overload]
        assert (thumbnail.exif_bytes > 0) == (make is not None)
        thumbnail.save(tmp_path / "t.webp", quality=80)
        pipeline.upscale(tmp_path / "t.webp").save(tmp_path / "r.jpg")
        with Image.open(tmp_path / "r.jpg") as restored:
            assert restored.getexif().get(0x010F) == make
            assert bool(restored.getexif().get_ifd(0x8825)) == position
    safe = pipeline.downscale([tmp_path / "p.jpg"])[0]
    assert safe.picture.exif == pipeline.downscale(tmp_path / "p.jpg").picture.exif


def test_exif_and_profile_come_back(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = 6  # stored on its side
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise(40, 60)).save(tmp_path / "p.jpg", exif=exif.tobytes(), icc_profile=profile)
    pipeline.downscale(tmp_path / "p.jpg").save(tmp_path / "t.png")
    restored = pipeline.upscale(tmp_path / "t.png")
    assert restored.size == (40, 60)
    assert restored.getexif()[0x010F] == "Maker"
    assert 0x0112 not in restored.getexif() or restored.getexif()[0x0112] == 1
    assert restored.info["icc_profile"]


@pytest.mark.parametrize("grain", [0, 3])
def test_tiles_agree_with_the_whole_picture(grain: int) -> None:
    """The tiny model's reach is within the overlap, so nothing may differ but by rounding; noise too stays in place."""
    photo = smooth(400, 650)
    config = model_config({"grain": grain})
    torch.manual_seed(0)
    model = build_model(config)
    for module in model.modules():
        if isinstance(module, Grain):
            wake(module)
    whole, tiled = (FaithEIRPipeline(model, config, tile=tile) for tile in (1024, 256))
    thumbnails = [p.downscale(photo) for p in (whole, tiled)]
    difference = np.abs(thumbnails[0].picture.rgb.astype(int) - thumbnails[1].picture.rgb)
    assert difference.max() <= 1
    restored = [p.upscale(thumbnails[0], output_type="np").astype(int) for p in (whole, tiled)]
    difference = np.abs(restored[0] - restored[1])
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(("tile", "mean", "largest"), [(512, 0.1, 16), (256, 0.5, 32)])
def test_the_embedded_model_in_tiles_agrees_with_the_whole_picture(tile: int, mean: float, largest: int) -> None:
    """Its reach is longer than an overlap, if faintly: tiles of 512 show nothing, the smallest little."""
    photo = np.tile(read_picture(COFFEE).rgb, (1, 2, 1))
    whole = FaithEIRPipeline.from_pretrained("nano-x16", tile=2048)
    tiled = FaithEIRPipeline.from_pretrained("nano-x16", tile=tile)
    thumbnail = whole.downscale(photo)
    assert np.abs(thumbnail.picture.rgb.astype(int) - tiled.downscale(photo).picture.rgb).max() <= 1
    a, b = (p.upscale(thumbnail, output_type="np").astype(int) for p in (whole, tiled))
    assert (a != b).any(), "the pictures were tiled differently"
    assert np.abs(a - b).mean() < mean
    assert np.abs(a - b).max() <= largest


def test_the_embedded_model_on_a_photograph(tmp_path: Path) -> None:
    """Far below its figures, far above what a broken model or a broken way to it would give."""
    photo = read_picture(COFFEE)
    outputs = (tmp_path / "t.png", tmp_path / "r.png", tmp_path / "s.png")
    figures = round_trip(FaithEIRPipeline.from_pretrained(), photo, outputs).figures
    assert figures["psnr"] > figures["psnr_bicubic"] + 0.5
    assert figures["psnr_thumbnail"] > 28
    assert figures["bits_per_pixel"] < 0.1


def test_saved_again_it_is_the_same_model(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "again")
    again = FaithEIRPipeline.from_pretrained(tmp_path / "again")
    assert again.weights == pipeline.weights
    photo = noise(48, 48)
    assert again.downscale(photo).info == pipeline.downscale(photo).info
    np.testing.assert_array_equal(
        again.upscale(again.downscale(photo), output_type="np"),
        pipeline.upscale(pipeline.downscale(photo), output_type="np"),
    )


def test_half_precision_of_the_backbone_changes_little() -> None:
    photo = smooth(128, 160)
    full = FaithEIRPipeline.from_pretrained("nano-x16")
    half = FaithEIRPipeline.from_pretrained("nano-x16", dtype="bfloat16")
    assert next(half.model.rescaler.parameters()).dtype == torch.float32
    assert half.weights == full.weights, "the hash names the stored weights, not the precision they run in"
    thumbnail = full.downscale(photo)
    a, b = (p.upscale(thumbnail, output_type="np").astype(float) for p in (full, half))
    assert 0 < np.abs(a - b).mean() < 2


def test_what_is_saved_is_what_was_loaded_whatever_precision_computes(tiny_model: Path, tmp_path: Path) -> None:
    photo = noise(48, 64)
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model)
    loaded, thumbnail = (tiny_model / "model.safetensors").read_bytes(), pipeline.downscale(photo)
    expected = pipeline.upscale(thumbnail, output_type="np")
    for steps in ([torch.bfloat16], ["cpu", "float16"], ["bfloat16", torch.float16], [torch.float16, torch.float32]):
        moved = FaithEIRPipeline.from_pretrained(tiny_model, dtype="bfloat16")
        for step in steps:
            moved = moved.to(step) if isinstance(step, torch.dtype) or step == "cpu" else moved.to(dtype=step)
        wanted = steps[-1] if isinstance(steps[-1], torch.dtype) else getattr(torch, steps[-1])
        assert moved.dtype == wanted
        moved.save_pretrained(tmp_path / "saved")
        assert (tmp_path / "saved" / "model.safetensors").read_bytes() == loaded
        assert FaithEIRPipeline.from_pretrained(tmp_path / "saved").weights == pipeline.weights == moved.weights
        if wanted == torch.float32:
            assert np.array_equal(moved.upscale(thumbnail, output_type="np"), expected), "nothing was lost on the way"


def test_what_is_trained_after_casting_is_saved_as_trained(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = FaithEIRPipeline.from_pretrained(tiny_model, dtype="bfloat16")
    weight = pipeline.model.backbone.get_parameter("unet.conv_in.weight")
    with torch.no_grad():
        weight.mul_(2)
    pipeline.save_pretrained(tmp_path)
    before, after = read_weights(tiny_model), read_weights(tmp_path)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["backbone.unet.conv_in.weight"]
    assert torch.equal(after["backbone.unet.conv_in.weight"], weight.float())


def test_stored_in_less_by_the_dtypes_name(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    for dtype in ("float16", torch.float16):
        pipeline.save_pretrained(tmp_path / str(dtype), dtype=dtype)
    a, b = (f.read_bytes() for f in sorted(tmp_path.glob("*/model.safetensors")))
    assert a == b
    assert len(a) < 0.7 * sum(t.nbytes for t in models.stored_state(pipeline.model).values())
    pipeline.save_pretrained(tmp_path / "int8", dtype="int8")
    assert (tmp_path / "int8" / "model.safetensors").stat().st_size < len(a)
    FaithEIRPipeline.from_pretrained(tmp_path / "int8")
    with pytest.raises(DeviceError, match="Unknown precision 'float8'"):
        pipeline.save_pretrained(tmp_path / "no", dtype="float8")


def test_the_names_of_embedded_models_are_theirs(pipeline: FaithEIRPipeline, tmp_path: Path) -> None:
    shipped = FaithEIRPipeline.from_pretrained("nano-x16", dtype="bfloat16")
    shipped.save_pretrained(tmp_path / "same", dtype="int8")
    assert FaithEIRPipeline.from_pretrained(tmp_path / "same").weights == shipped.weights
    with pytest.raises(ConfigError, match="the name 'nano-x16' belongs to a model in this package"):
        pipeline.save_pretrained(tmp_path / "other", name="nano-x16")
    assert not (tmp_path / "other").exists()
    with torch.no_grad():
        shipped.model.backbone.get_parameter("unet.conv_in.bias").add_(0.1)
    with pytest.raises(ConfigError, match="a name of its own"):
        shipped.save_pretrained(tmp_path / "changed")
    shipped.save_pretrained(tmp_path / "changed", name="mine-x16")
    assert FaithEIRPipeline.from_pretrained(tmp_path / "changed").name == "mine-x16"
    with pytest.raises(ConfigError, match="belongs to a model"):
        models.check_name("nano-x32")
    models.check_name("mine-x32")
    assert models.ModelConfig().name not in models.embedded_models()


def test_a_pipeline_says_what_it_is(pipeline: FaithEIRPipeline) -> None:
    assert repr(pipeline) == (
        f"FaithEIRPipeline('tiny-x16', scale=16, device='cpu', dtype='float32', weights='{pipeline.weights}')"
    )


def test_bad_arguments_are_one_clear_sentence(pipeline: FaithEIRPipeline, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="tile is 64 pixels"):
        FaithEIRPipeline.from_pretrained(tiny_model, tile=64)
    with pytest.raises(DeviceError, match="Unknown device"):
        pipeline.to("toaster")
    with pytest.raises(DeviceError, match="Unknown precision"):
        pipeline.to(dtype="float8")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA GPU"):
            FaithEIRPipeline.from_pretrained(tiny_model, device="cuda")
    with pytest.raises(ImageError, match="not dict"):
        pipeline.downscale({})  # type: ignore[call-overload]
    with pytest.raises(ImageError, match="tensor"):
        pipeline.downscale(torch.zeros(3))
    with pytest.raises(ConfigError, match="output_type is 'banana'; choose one of pil, np, pt"):
        pipeline.upscale(noise(2, 3), output_type="banana")  # type: ignore[call-overload]


def test_the_public_names_are_listed_and_there() -> None:
    assert set(faitheir.__all__) <= set(dir(faitheir))
    for name in faitheir.__all__:
        assert getattr(faitheir, name) is not None
    assert {"FaithEIR", "ModelConfig", "TrainConfig", "train", "pipeline_for"} <= set(faitheir.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        faitheir.nonsense  # noqa: B018


def test_push_to_hub_says_when_the_hub_cannot_be_reached(
    pipeline: FaithEIRPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Hub cannot be reached"):
        pipeline.push_to_hub("somebody/model", token="none")
    with pytest.raises(ModelError, match="no valid name"):
        pipeline.push_to_hub("not a name", token="none")


@pytest.mark.parametrize("name", ["nano-x16", "nano-x32"])
def test_full_size_models_take_any_picture(name: str) -> None:
    config = KNOWN_CONFIGS[name]
    pipeline = FaithEIRPipeline(build_model(config), config)
    thumbnail = pipeline.downscale(noise(70, 45))
    scale = config.codec.scale
    assert thumbnail.picture.rgb.shape == (-(-70 // scale), -(-45 // scale), 3)
    assert pipeline.upscale(thumbnail).size == (45, 70)


@pytest.mark.parametrize(("rows", "columns"), [(130, 1), (1, 130), (66, 2), (1, 1)])
def test_narrow_pictures_in_half_precision(rows: int, columns: int) -> None:
    """A convolution of oneDNN gave garbage for one column, NaN and black pixels among it."""
    rng = np.random.default_rng(0)
    small = Thumbnail(Picture(rng.integers(60, 200, (rows, columns, 3), dtype=np.uint8)), None)
    half, full = (FaithEIRPipeline.from_pretrained("nano-x16", dtype=dtype) for dtype in ("bfloat16", "float32"))
    off = half.upscale_thumbnail(small).rgb.astype(int) - full.upscale_thumbnail(small).rgb
    assert abs(off).mean() < 0.5
    assert abs(off).max() <= 8
    large = Picture(rng.integers(60, 200, (16 * rows, 16 * columns, 3), dtype=np.uint8))
    off = half.downscale_picture(large).picture.rgb.astype(int) - full.downscale_picture(large).picture.rgb
    assert abs(off).max() <= 4


def test_what_is_not_finite_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FaithEIRPipeline.from_pretrained("nano-x16")
    monkeypatch.setattr(pipeline.model, "upscale", lambda _, **__: torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(DeviceError, match=r"not finite in torch\.float32"):
        pipeline.upscale_thumbnail(Thumbnail(Picture(np.zeros((2, 2, 3), np.uint8)), None))
