"""How thumbnails are stored: formats, qualities, budgets of bytes, metadata."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from command import names, ok, refused
from faitheir.thumbnail import Thumbnail

Photo = Callable[..., Path]
PREFIX = {"downscale": "--", "roundtrip": "--thumbnail-"}


@pytest.mark.parametrize("command", PREFIX)
@pytest.mark.parametrize("format_", ["png", "webp", "avif", "jpg"])
def test_formats(command: str, format_: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """Both commands store the same file, and what is restored from it has the photograph's size."""
    path = photo("a.png", 700, 500)
    ok(command, path, f"{PREFIX[command]}format", format_, "--model", tiny_model)
    stored = tmp_path / f"a.thumb.{format_}"
    assert Image.open(stored).format == {"jpg": "JPEG"}.get(format_, format_.upper())
    expected = stored.read_bytes()
    ok("downscale", path, "--format", format_, "--model", tiny_model, "-o", tmp_path / "again")
    assert (tmp_path / "again" / stored.name).read_bytes() == expected
    ok("upscale", stored, "--model", tiny_model, "--overwrite")
    assert Image.open(tmp_path / "a.restored.png").size == (700, 500)


@pytest.mark.parametrize("command", PREFIX)
def test_quality_and_lossless(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png", 700, 500)
    quality = f"{PREFIX[command]}quality"
    sizes = []
    for value in (10, 95):
        ok(command, path, quality, value, "--model", tiny_model, "--overwrite")
        sizes.append((tmp_path / "a.thumb.avif").stat().st_size)
    assert sizes[0] < sizes[1]
    ok(command, path, "--lossless", "--model", tiny_model, "-o", tmp_path / "lossless")
    ok(command, path, f"{PREFIX[command]}format", "png", "--model", tiny_model, "-o", tmp_path / "png")
    a, b = (Thumbnail.open(tmp_path / name).picture.rgb for name in ("lossless/a.thumb.webp", "png/a.thumb.png"))
    assert (a == b).all()


@pytest.mark.parametrize("command", PREFIX)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--bytes", 500, "--bpp", 0.1], "give one of them"),
        (["--bytes", 500, "--lossless"], "give one of them"),
        (["{}format", "png", "{}quality", 50], "png is always lossless"),
        (["{}format", "jpg", "--lossless"], "without loss"),
        (["{}format", "webp", "--lossless", "{}quality", 50], "no quality"),
        (["{}format", "jpg", "{}quality", 0], "from 1 to 100"),
        (["--bytes", 0], "x>=1"),
        (["--bpp", 0], "x>0"),
    ],
)
def test_contradictions(command: str, options: list[object], sentence: str, photo: Photo, tmp_path: Path) -> None:
    """They are seen before anything is read."""
    given = [str(option).format(PREFIX[command]) for option in options]
    assert sentence in refused(command, photo("a.png"), *given, status=2)
    assert names(tmp_path) == {"a.png"}


@pytest.mark.parametrize("command", PREFIX)
def test_budgets(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    path = photo("a.png", 700, 500)
    for options, limit in ((("--bytes", 700), 700), (("--bpp", 0.01), 437)):
        text = ok(command, path, *options, "--model", tiny_model, "--overwrite")
        (stored,) = tmp_path.glob("a.thumb.*")  # also where the first was of another format
        assert 0.6 * limit < stored.stat().st_size <= limit
        assert str(stored) in text
        assert Thumbnail.open(stored).size == (700, 500)
        if command == "roundtrip":
            assert f"{stored.stat().st_size * 8 / 350_000:.4f}" in text
    assert "1 skipped" in ok(command, path, "--bytes", 700, "--model", tiny_model)
    ok(command, path, "--bytes", 700, f"{PREFIX[command]}format", "jpg", "--model", tiny_model, "-o", tmp_path / "jpg")
    assert (tmp_path / "jpg/a.thumb.jpg").stat().st_size <= 700
    assert "does not fit into 20" in refused(command, path, "--bytes", 20, "--model", tiny_model, "-o", tmp_path / "no")
    assert names(tmp_path / "no") == set()


@pytest.mark.parametrize("command", PREFIX)
@pytest.mark.usefixtures("embedded")
def test_the_larger_scale_where_the_smaller_does_not_fit(command: str, photo: Photo, tmp_path: Path) -> None:
    path = photo("in/a.png", 1400, 1000)
    ok(command, path, "--bytes", 2000)
    sizes = {}
    for scale in (16, 32):
        ok(command, path, "--scale", scale, "--bytes", 100_000, "-o", tmp_path / str(scale))
        least = refused(command, path, "--scale", scale, "--bytes", 30, "-o", tmp_path / "none")
        sizes[scale] = int(least.split("file found takes ")[1].split(",")[0])
    assert sizes[32] < sizes[16]
    limit = (sizes[16] + sizes[32]) // 2
    ok(command, path, "--bytes", limit, "-o", tmp_path / "out")
    (stored,) = (tmp_path / "out").glob("a.thumb.*")
    info = Thumbnail.open(stored).info
    assert info is not None
    assert info.scale == 32
    assert "does not fit" in refused(command, path, "--bytes", limit, "--scale", 16, "-o", tmp_path / "none")


@pytest.mark.parametrize("command", PREFIX)
def test_exif(command: str, tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    """Position and serial number are kept only when asked for; what takes much of the file is said."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker of cameras"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.BodySerialNumber] = "A0123456789"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (47.0, 22.0, 40.0)
    path = photo("a.jpg", 70, 45, exif=exif)
    kept = {}
    for mode in (None, "safe", "all", "none"):
        text = ok(command, path, "--model", tiny_model, "--overwrite", *(["--exif", mode] if mode else []))
        stored = (tmp_path / "a.thumb.avif").read_bytes()
        kept[mode] = Image.open(tmp_path / "a.thumb.avif").getexif()
        assert (b"A0123456789" in stored) == (mode == "all")
        assert bool(kept[mode].get_ifd(ExifTags.IFD.GPSInfo)) == (mode == "all")
        assert ("of them EXIF" in text) == (mode != "none")
    assert dict(kept[None]) == dict(kept["safe"])
    assert kept["safe"][ExifTags.Base.Make] == "Maker of cameras"
    assert not dict(kept["none"])
    photo("b.png", 900, 900, exif=exif)
    assert "of them EXIF" not in ok(command, tmp_path / "b.png", "--model", tiny_model)
