"""Picture files: what comes in upright, sRGB and 8-bit, what goes out, and what is refused."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import tiny
from faitheir import images, native
from faitheir.errors import ImageError, MissingDependencyError, StorageError
from faitheir.images import Picture
from faitheir.pipeline import FaithEIRPipeline

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    return start + extra + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def icc(space: bytes, device: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, offset = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    white = struct.pack(">iii", 63190, 65536, 54061)
    head = struct.pack(">I4sI", 132 + len(table) - 4 + len(body), b"test", 0x02100000) + device + space + pcs
    head += bytes(12) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + body


def xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in (x, y, z)))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WHITE = xyz(0.9642, 1.0, 0.8249)
RED, GREEN, BLUE = xyz(0.4361, 0.2225, 0.0139), xyz(0.3851, 0.7169, 0.0971), xyz(0.1431, 0.0606, 0.7141)


def rgb_profile(red: bytes, green: bytes, blue: bytes) -> bytes:
    curves = {name: gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return icc(b"RGB ", b"mntr", b"XYZ ", {b"wtpt": WHITE, b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue} | curves)


def cmyk_profile() -> bytes:
    """Paper is white, full cyan alone is a neutral L* = 50, every other full ink is black."""
    nodes = b"".join(bytes([{0: 255, 8: 128}.get(ink, 0), 128, 128]) for ink in range(16))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + nodes + bytes(range(256)) * 3
    return icc(b"CMYK", b"prtr", b"Lab ", {b"wtpt": WHITE, b"A2B0": lut, b"A2B1": lut})


def exif(orientation: int | None = None) -> bytes:
    data = Image.Exif()
    data[0x010F] = "Maker"
    data[0x8298] = "Someone"
    if orientation is not None:
        data[0x0112] = orientation
    data.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x927C: b"note" * 50, 0xA002: 4000, 0x829A: 0.01})
    data.get_ifd(0x8825).update({1: "N", 2: (10.0, 20.0, 30.5)})
    return data.tobytes()


def through_file(path: Path, image: Image.Image, **options: object) -> Picture:
    image.save(path, **options)
    return images.read_picture(path)


pictures = st.builds(
    lambda height, width, has_alpha, tagged, seed: (
        lambda rng: Picture(
            rgb=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            # 0 is frequent: colours under full transparency must survive; never opaque everywhere
            alpha=rng.choice(np.array([0, 0, 77, 254], np.uint8), (height, width)) if has_alpha else None,
            exif=images.picture_from_pil(with_exif()).exif if tagged else None,
            icc_profile=images.srgb_profile() if tagged else None,
        )
    )(np.random.default_rng(seed)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)


def with_exif(orientation: int | None = None) -> Image.Image:
    image = Image.new("RGB", (2, 2))
    image.info["exif"] = exif(orientation)
    return image


def assert_same(a: Picture, b: Picture) -> None:
    np.testing.assert_array_equal(a.rgb, b.rgb)
    assert (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None:
        np.testing.assert_array_equal(a.alpha, b.alpha)
    assert (a.exif, a.icc_profile) == (b.exif, b.icc_profile)


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(picture=pictures, suffix=st.sampled_from(["png", "webp", "tiff"]))
    def test_lossless_formats_keep_everything(self, picture, suffix, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / f"round.{suffix}"
        images.write_picture(path, picture)
        assert_same(images.read_picture(path), picture)

    def test_opaque_alpha_is_kept(self, tmp_path):
        picture = Picture(noise(3, 5, 3), np.full((3, 5), 255, np.uint8))
        images.write_picture(tmp_path / "a.png", picture)
        assert_same(images.read_picture(tmp_path / "a.png"), picture)

    @pytest.mark.parametrize("suffix", ["jpg", "jpeg", "bmp"])
    def test_alpha_is_laid_on_white(self, tmp_path, suffix):
        alpha = np.zeros((16, 32), np.uint8)
        alpha[:, 16:] = 255
        images.write_picture(tmp_path / f"a.{suffix}", Picture(np.zeros((16, 32, 3), np.uint8), alpha))
        back = images.read_picture(tmp_path / f"a.{suffix}")
        assert back.alpha is None
        assert back.rgb[:, :16].min() > 250
        assert back.rgb[:, 16:].max() < 5

    def test_jpeg_keeps_exif_and_profile_and_obeys_quality(self, tmp_path):
        source = images.picture_from_pil(with_exif())
        picture = Picture(noise(64, 64, 3), exif=source.exif, icc_profile=images.srgb_profile())
        good, poor = (images.encode_picture(picture, "jpg", quality=q) for q in (95, 20))
        assert len(poor) < len(good) / 2
        images.write_atomic(tmp_path / "a.jpg", good)
        back = images.read_picture(tmp_path / "a.jpg")
        assert (back.exif, back.icc_profile) == (picture.exif, picture.icc_profile)

    def test_exif_too_large_for_jpeg_is_left_out(self, tmp_path):
        data = Image.Exif()
        data[0x010E] = "x" * 70000
        image = Image.new("RGB", (4, 4))
        image.info["exif"] = data.tobytes()
        picture = images.picture_from_pil(image)
        assert len(picture.exif) > 70000
        images.write_picture(tmp_path / "a.jpg", picture)
        assert images.read_picture(tmp_path / "a.jpg").exif is None

    def test_webp_quality_makes_it_lossy(self):
        picture = Picture(noise(64, 64, 3))
        assert len(images.encode_picture(picture, "webp", quality=50)) < len(images.encode_picture(picture, "webp"))

    def test_avif(self, tmp_path):
        if ".avif" not in images.SUFFIXES:
            pytest.skip("this Pillow has no AVIF")
        images.write_picture(tmp_path / "a.avif", Picture(np.full((32, 32, 3), 90, np.uint8)))
        assert np.abs(images.read_picture(tmp_path / "a.avif").rgb.astype(int) - 90).max() <= 3

    def test_to_pil_can_be_saved_by_its_owner_with_everything(self):
        source = images.picture_from_pil(with_exif())
        picture = Picture(noise(3, 4, 3), noise(3, 4), source.exif, images.srgb_profile())
        assert_same(images.picture_from_pil(picture.to_pil()), picture)
        assert (picture.width, picture.height) == (4, 3) == picture.to_pil().size


class TestOrientationAndExif:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
    def test_every_orientation_is_applied_once(self, tmp_path, orientation, suffix):
        stored = Image.fromarray(np.kron(noise(2, 3, 4)[..., :3], np.ones((16, 16, 1), np.uint8)))
        options = {
            "png": {},
            "jpg": {"quality": 100, "subsampling": 0},
            "webp": {"lossless": True},
            "tiff": {},
        }[suffix]
        picture = through_file(tmp_path / f"a.{suffix}", stored, exif=exif(orientation), **options)
        marked = stored.copy()
        marked.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(marked)).astype(int)
        assert picture.rgb.shape == expected.shape
        assert np.abs(picture.rgb - expected).max() <= (8 if suffix == "jpg" else 0)
        images.write_picture(tmp_path / "b.png", picture)
        np.testing.assert_array_equal(images.read_picture(tmp_path / "b.png").rgb, picture.rgb)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
    def test_the_size_in_the_header_is_that_of_the_upright_picture(self, tmp_path, orientation, suffix):
        Image.new("RGB", (5, 3)).save(tmp_path / f"a.{suffix}", exif=exif(orientation))
        picture = images.read_picture(tmp_path / f"a.{suffix}")
        assert images.picture_size(tmp_path / f"a.{suffix}") == (picture.width, picture.height)

    def test_alpha_is_turned_too(self):
        rgba = noise(2, 3, 4)
        image = Image.fromarray(rgba)
        image.info["exif"] = exif(6)
        np.testing.assert_array_equal(images.picture_from_pil(image).alpha, np.rot90(rgba[..., 3], -1))

    @pytest.mark.parametrize("stored", [0, 9, 65535])
    def test_senseless_orientation_is_ignored(self, stored):
        assert images.picture_from_pil(with_exif(stored)).rgb.shape == (2, 2, 3)

    @pytest.mark.parametrize("suffix", ["jpg", "tiff"])
    def test_what_is_kept_of_exif(self, tmp_path, suffix):
        picture = through_file(tmp_path / f"a.{suffix}", with_exif(), exif=exif(8))
        kept = Image.Exif()
        kept.load(picture.exif)
        assert set(kept) - {0x8769, 0x8825} == {0x010F, 0x8298}
        assert kept.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01}
        assert kept.get_ifd(0x8825)[2] == (10.0, 20.0, 30.5)

    def test_safe_keeps_what_gives_nobody_away(self):
        source = Image.Exif()
        source.update(
            {0x010E: "at home", 0x010F: "Maker", 0x0131: "Program", 0x013B: "Author", 0x013C: "Joe's computer"}
        )
        source.update({0xC62F: "camera no. 123", 0x8298: "Copyright", 0x0132: "2020:01:02 03:04:05"})
        taken = {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0xA434: "Lens", 0x8827: 400}
        private = {0xA430: "Joe", 0xA431: "body 1", 0xA435: "lens 2", 0xA420: "id 3", 0x9286: b"note", 0x9010: "+02:00"}
        source.get_ifd(0x8769).update(taken | private | {0x927C: b"note 4", 0xFDE8: "unknown"})
        source.get_ifd(0x8825).update({1: "N", 2: (10.0, 20.0, 30.5)})
        kept = Image.Exif()
        kept.load(images.filter_exif(source.tobytes(), "safe"))
        assert set(kept) == {0x010F, 0x013B, 0x8298, 0x0132, 0x8769}
        assert kept.get_ifd(0x8769) == taken
        assert kept.get_ifd(0x8825) == {}
        assert images.filter_exif(source.tobytes(), "all") == source.tobytes()
        assert images.filter_exif(source.tobytes(), "none") is None
        only_private = Image.Exif()
        only_private.get_ifd(0x8825).update({1: "N"})
        assert images.filter_exif(only_private.tobytes(), "safe") is None
        assert images.filter_exif(None, "safe") is None
        with pytest.raises(ImageError, match="safe, all, none"):
            images.filter_exif(None, "some")  # type: ignore[arg-type]

    @settings(max_examples=100)
    @given(data=st.binary(max_size=60), at=st.integers(0, 200))
    def test_damaged_exif_lets_no_position_through(self, data, at):
        whole = exif()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about corrupt EXIF
            left = images.filter_exif(whole[:at] + data + whole[at + len(data) :], "safe")
            kept = Image.Exif()
            kept.load(left or b"")
            assert 0x8825 not in kept

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif"])
    def test_pillow_saves_the_exif_of_what_we_give_it(self, tmp_path, suffix):
        if f".{suffix}" not in images.SUFFIXES:
            pytest.skip("this Pillow has no AVIF")
        source = images.picture_from_pil(with_exif())
        image = Picture(noise(8, 8, 3), exif=source.exif).to_pil()
        image.save(tmp_path / f"a.{suffix}")
        assert images.read_picture(tmp_path / f"a.{suffix}").exif == source.exif
        image.save(tmp_path / f"b.{suffix}", exif=b"")
        assert images.read_picture(tmp_path / f"b.{suffix}").exif is None
        image.resize((4, 4)).save(tmp_path / f"c.{suffix}", exif=image.info["exif"])
        assert images.read_picture(tmp_path / f"c.{suffix}").exif == source.exif

    def test_pillow_saves_what_can_hold_no_exif(self, tmp_path):
        image = Picture(noise(8, 8, 3), exif=images.picture_from_pil(with_exif()).exif).to_pil()
        image.save(tmp_path / "a.bmp")
        image.save(tmp_path / "a.tiff", compression="tiff_lzw")
        image.info["exif"] = bytes(70000)
        image.save(tmp_path / "a.jpg")
        assert len(list(tmp_path.iterdir())) == 3

    def test_embedded_preview_is_dropped(self, tmp_path):
        # big-endian TIFF: IFD0 with Make, then IFD1 with 20 kB of "preview"
        ifd0 = struct.pack(">H HHI4s I", 1, 0x010F, 2, 4, b"abc\0", 26)
        ifd1 = struct.pack(">H HHII HHII I", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 20000, 0)
        data = b"Exif\0\0MM\0\x2a\0\0\0\x08" + ifd0 + ifd1 + b"\xff\xd8" + bytes(20000)
        picture = through_file(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=data)
        assert b"abc" in picture.exif
        assert len(picture.exif) < 100

    @settings(max_examples=60, deadline=None)
    @given(data=st.binary(max_size=60), at=st.integers(0, 200))
    def test_damaged_exif_never_stops_a_picture(self, data, at):
        image, broken = Image.new("RGB", (3, 2)), exif(1)
        image.info["exif"] = broken[:at] + data + broken[at + len(data) :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about corrupt EXIF
            picture = images.picture_from_pil(image)
        assert sorted(picture.rgb.shape) == [2, 3, 3]


class TestProfiles:
    def test_swapped_primaries(self, tmp_path):
        image = Image.new("RGB", (2, 2), (255, 0, 0))
        picture = through_file(tmp_path / "a.png", image, icc_profile=rgb_profile(GREEN, RED, BLUE))
        assert np.abs(picture.rgb[0, 0] - np.array([0, 255, 0])).max() <= 3
        assert picture.icc_profile == images.srgb_profile()

    def test_alpha_passes_a_profile_untouched(self, tmp_path):
        rgba = noise(4, 4, 4)
        image = Image.fromarray(rgba)
        picture = through_file(tmp_path / "a.png", image, icc_profile=rgb_profile(GREEN, RED, BLUE))
        np.testing.assert_array_equal(picture.alpha, rgba[..., 3])
        assert not np.array_equal(picture.rgb, rgba[..., :3])

    def test_srgb_profile_changes_no_pixel(self, tmp_path):
        pixels = noise(64, 64, 3)
        picture = through_file(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=images.srgb_profile())
        np.testing.assert_array_equal(picture.rgb, pixels)

    def test_grey_profile(self, tmp_path):
        linear = icc(b"GRAY", b"mntr", b"XYZ ", {b"wtpt": WHITE, b"kTRC": gamma(1.0)})
        picture = through_file(tmp_path / "a.png", Image.new("L", (2, 2), 55), icc_profile=linear)
        assert np.abs(picture.rgb.astype(int) - 128).max() <= 2  # 55 / 255 of the light

    def test_grey_picture_with_an_rgb_profile(self, tmp_path):
        linear = {b"wtpt": WHITE, b"rXYZ": RED, b"gXYZ": GREEN, b"bXYZ": BLUE}
        linear |= {name: gamma(1.0) for name in (b"rTRC", b"gTRC", b"bTRC")}
        profile = icc(b"RGB ", b"mntr", b"XYZ ", linear)
        picture = through_file(tmp_path / "a.png", Image.new("L", (2, 2), 55), icc_profile=profile)
        assert np.abs(picture.rgb.astype(int) - 128).max() <= 2

    def test_cmyk_with_and_without_profile(self, tmp_path):
        cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        through = through_file(tmp_path / "a.tiff", cyan, icc_profile=cmyk_profile())
        assert np.abs(through.rgb.astype(int) - 119).max() <= 3  # L* = 50
        plain = through_file(tmp_path / "b.tiff", cyan)
        np.testing.assert_array_equal(plain.rgb[0, 0], [0, 255, 255])
        assert plain.icc_profile is None

    @pytest.mark.parametrize("profile", [b"no profile", b"", images.srgb_profile()[:300], cmyk_profile()])
    def test_broken_or_foreign_profile_is_left_aside_and_said(self, profile):
        image = Image.fromarray(noise(4, 4, 3))
        image.info["icc_profile"] = profile
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = images.picture_from_pil(image)
        assert ["its colour profile is" in str(warning.message) for warning in caught] == ([True] if profile else [])
        np.testing.assert_array_equal(picture.rgb, np.asarray(image))
        assert picture.icc_profile is None


class TestWhatAPngSaysOfItsColours:
    ramp = np.arange(256, dtype=np.uint8)

    def read(self, tmp_path, extra: bytes, *, depth: int = 8) -> Picture:
        row = self.ramp if depth == 8 else self.ramp.astype(">u2") * 257
        (tmp_path / "a.png").write_bytes(png(256, 1, depth, 0, [row.tobytes()], extra))
        return images.read_picture(tmp_path / "a.png")

    @pytest.mark.parametrize("depth", [8, 16])
    def test_linear_light_is_converted(self, tmp_path, depth):
        picture = self.read(tmp_path, png_chunk(b"gAMA", struct.pack(">I", 100000)), depth=depth)
        light = self.ramp / 255
        expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        assert np.abs(picture.rgb[0, :, 1] - expected).max() <= 0.51
        assert picture.icc_profile == images.srgb_profile()

    @pytest.mark.parametrize(
        "extra",
        [
            png_chunk(b"gAMA", struct.pack(">I", 45455)),
            png_chunk(b"sRGB", b"\0") + png_chunk(b"gAMA", struct.pack(">I", 100000)),
            png_chunk(b"cICP", bytes([1, 13, 0, 1])) + png_chunk(b"gAMA", struct.pack(">I", 100000)),
            png_chunk(b"gAMA", struct.pack(">I", 0)),
        ],
    )
    def test_srgb_by_any_name_changes_no_pixel(self, tmp_path, extra):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(self.read(tmp_path, extra).rgb[0, :, 0], self.ramp)

    @pytest.mark.parametrize(
        ("extra", "match"),
        [
            (png_chunk(b"cICP", bytes([9, 16, 0, 1])), r"HDR \(PQ\)"),
            (png_chunk(b"cICP", bytes([9, 18, 0, 1])), r"HDR \(HLG\)"),
            (png_chunk(b"cICP", bytes([12, 13, 0, 1])), "cICP 12/13"),
            (png_chunk(b"cHRM", struct.pack(">8I", *(31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600))), "cHRM"),
        ],
    )
    def test_what_is_left_aside_is_said(self, tmp_path, extra, match):
        with pytest.warns(images.PictureWarning, match=match):
            self.read(tmp_path, extra)


class TestTransparent:
    def test_opaque_pictures_are_unchanged(self):
        for alpha in (None, np.full((40, 50), 255, np.uint8)):
            picture = Picture(noise(40, 50, 3), alpha)
            assert images.fill_transparent(picture, 16) is picture

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(0, 2**32))
    def test_cells_get_the_mean_of_what_is_visible_in_them(self, height, width, cell, seed):
        rng = np.random.default_rng(seed)
        rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
        alpha = rng.choice(np.array([0, 3, 128, 255], np.uint8), (height, width))
        filled = images.fill_transparent(Picture(rgb, alpha), cell)
        np.testing.assert_array_equal(filled.alpha, alpha)
        np.testing.assert_array_equal(filled.rgb[alpha == 255], rgb[alpha == 255])
        for top in range(0, height, cell):
            for left in range(0, width, cell):
                at = np.s_[top : top + cell, left : left + cell]
                if alpha[at].any():
                    expected = np.average(rgb[at].reshape(-1, 3), axis=0, weights=alpha[at].ravel())
                    np.testing.assert_allclose(filled.rgb[at].reshape(-1, 3).mean(0), expected, atol=0.5)

    def test_what_is_erased_gets_the_colour_around_it(self):
        rgb, alpha = noise(128, 128, 3), np.zeros((128, 128), np.uint8)
        rgb[:, :40] = (200, 30, 60)
        alpha[:, :40] = 255
        filled = images.fill_transparent(Picture(rgb, alpha), 16)
        assert (filled.rgb == (200, 30, 60)).all()

    def test_no_thumbnail_knows_what_was_erased(self):
        config = tiny.model_config()
        pipeline = FaithEIRPipeline(tiny.wake(tiny.tiny()), config)
        alpha = np.full((128, 160), 255, np.uint8)
        alpha[:, 70:] = 0
        seen, other = noise(128, 160, 3), noise(128, 160, 3)
        other[:, :70] = seen[:, :70]
        thumbnails = [pipeline.downscale_picture(Picture(rgb, alpha)) for rgb in (seen, other)]
        assert_same(thumbnails[0].picture, thumbnails[1].picture)
        opaque = pipeline.downscale_picture(Picture(seen, np.full_like(alpha, 255)))
        np.testing.assert_array_equal(opaque.picture.rgb, pipeline.downscale_picture(Picture(seen)).picture.rgb)

    def test_evenly_translucent_keeps_its_texture(self):
        picture = Picture(noise(32, 32, 3), np.full((32, 32), 7, np.uint8))
        np.testing.assert_array_equal(images.fill_transparent(picture, 16).rgb, picture.rgb)

    def test_nothing_visible_is_black(self):
        assert not images.fill_transparent(Picture(noise(33, 20, 3), np.zeros((33, 20), np.uint8)), 16).rgb.any()


MEMORY = """
import os, resource, sys, time
from faitheir import images
from faitheir.errors import FaithEIRError

def mark(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

path, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (mark("VmSize") + limit,) * 2)
before = mark("VmRSS")
try:
    picture = images.read_picture(path, frame=int(sys.argv[3]))
except FaithEIRError as error:
    print(error)
    raise SystemExit(1)
size = picture.rgb.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)
print((mark("VmHWM") - before - size) / (picture.width * picture.height))
"""


def in_a_process(path: Path, limit: int = 0, frame: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MEMORY, path, str(limit), str(frame)]
    return subprocess.run(command, capture_output=True, text=True)


_DECODERS = {"webp": native.webp_decoder, "avif": native.avif_decoder, "jpeg2000": native.jpeg2000_decoder}


def needs_library(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        _DECODERS[kind]() is None, reason=f"Pillow has its own library for {kind} in it, whose functions are hidden"
    )


def of_a_library(library: str, *parameters: object) -> Any:
    return pytest.param(*parameters, marks=needs_library(library))


def decoded_twice(monkeypatch, data: bytes) -> None:
    """By the library at once, and by Pillow's reader, to the same picture."""
    ours = images.decode_picture(io.BytesIO(data), "ours", frame=0)
    for name in ("webp_decoder", "avif_decoder", "jpeg2000_decoder"):
        monkeypatch.setattr(native, name, lambda: None)
    theirs = images.decode_picture(io.BytesIO(data), "theirs", frame=0)
    np.testing.assert_array_equal(ours.rgb, theirs.rgb)
    np.testing.assert_array_equal(ours.alpha, theirs.alpha)
    assert (ours.exif, ours.icc_profile) == (theirs.exif, theirs.icc_profile)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (90, 161)])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        of_a_library("webp", "webp", {"lossless": True, "exact": True}),
        of_a_library("webp", "webp", {"quality": 50}),
        of_a_library("avif", "avif", {"quality": 60}),
        of_a_library("avif", "avif", {"quality": 90, "subsampling": "4:4:4"}),
        of_a_library("avif", "avif", {"quality": 60, "subsampling": "4:0:0"}),
        of_a_library("jpeg2000", "jpeg2000", {}),
        of_a_library("jpeg2000", "jpeg2000", {"irreversible": True, "quality_mode": "rates", "quality_layers": [8]}),
        of_a_library("jpeg2000", "jpeg2000", {"mct": 1, "no_jp2": True}),
        of_a_library("jpeg2000", "jpeg2000", {"tile_size": (64, 64)}),
    ],
)
def test_what_a_library_decodes_is_what_pillow_reads(monkeypatch, size, channels, kind, options):
    pixels = noise(*size[::-1], channels)
    pixels[: size[1] // 2, :, 3:] = 0
    file = io.BytesIO()
    more = {} if kind == "jpeg2000" else {"exif": exif(6), "icc_profile": rgb_profile(GREEN, RED, BLUE)}
    Image.fromarray(pixels).save(file, kind, **more, **options)
    decoded_twice(monkeypatch, file.getvalue())


@needs_library("webp")
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("options", [{"lossless": True, "exact": True}, {"quality": 50}])
def test_the_first_frame_of_a_webp_is_what_pillow_reads(monkeypatch, channels, options):
    first = np.zeros((60, 70, channels), np.uint8)
    first[20:41, 10:33] = noise(21, 23, channels)  # libwebp stores this part alone
    file = io.BytesIO()
    later = [Image.fromarray(noise(60, 70, channels)) for _ in range(2)]
    Image.fromarray(first).save(file, "WEBP", save_all=True, append_images=later, exif=exif(6), **options)
    decoded_twice(monkeypatch, file.getvalue())


def animated_webp(alpha: bool, size: tuple[int, int], frames: list[tuple[int, int, int, bytes]]) -> bytes:
    """From frames of left, top, flags (1: is cleared, 2: does not blend) and a still file."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    body = chunk(b"VP8X", bytes([2 + 16 * alpha, 0, 0, 0]) + b"".join(number(side - 1) for side in size))
    body += chunk(b"ANIM", bytes(6))
    for left, top, flags, still in frames:
        width, height = Image.open(io.BytesIO(still)).size
        head = b"".join(map(number, (left // 2, top // 2, width - 1, height - 1, 40))) + bytes([flags])
        at = 30 if still[12:16] == b"VP8X" else 12
        body += chunk(b"ANMF", head + still[at:])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@needs_library("webp")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_frame_of_an_animated_webp_is_what_pillow_reads(data):
    """But for what libwebp rounds where it lays frames on one another, and colours that nobody sees."""
    width, height = 40, 150
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    frames = []
    for _ in range(data.draw(st.integers(1, 4))):
        whole = data.draw(st.booleans())
        left, top = (0, 0) if whole else (data.draw(st.integers(0, 15)) * 2, data.draw(st.integers(0, 60)) * 2)
        w, h = (width, height) if whole else (rng.integers(1, width - left + 1), rng.integers(1, height - top + 1))
        pixels = rng.integers(0, 256, (h, w, 4), dtype=np.uint8)
        pixels[..., 3] = rng.choice(np.array([0, 9, 128, 255], np.uint8), (h, w))
        image = Image.fromarray(pixels if data.draw(st.booleans()) else pixels[..., :3].copy())
        file = io.BytesIO()
        image.save(file, "WEBP", **data.draw(st.sampled_from([{"lossless": True}, {"quality": 50}])))
        frames.append((left, top, data.draw(st.integers(0, 3)), file.getvalue()))
    alpha = data.draw(st.booleans()) or any(Image.open(io.BytesIO(still)).mode == "RGBA" for *_, still in frames)
    file = animated_webp(alpha, (width, height), frames)
    with Image.open(io.BytesIO(file)) as theirs:
        for number in range(theirs.n_frames):
            theirs.seek(number)
            ours, expected = images.decode_picture(io.BytesIO(file), "it", frame=number), theirs.convert("RGBA")
            assert (ours.alpha is not None) == alpha
            levels = np.asarray(expected).astype(int)
            seen = levels[..., 3] > 0
            if ours.alpha is not None:
                np.testing.assert_allclose(ours.alpha, levels[..., 3], atol=2)
            # Of a faint colour few levels are left, and libwebp cuts what is between two.
            np.testing.assert_allclose(ours.rgb[seen], levels[..., :3][seen], atol=12)


@needs_library("avif")
@pytest.mark.parametrize("chroma", ["420", "444"])
def test_an_avif_of_ten_bits_is_what_pillow_reads(monkeypatch, chroma):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(161, 90, 3).astype(np.uint16) * 4
    decoded_twice(monkeypatch, imagecodecs.avif_encode(pixels, level=80, bitspersample=10, pixelformat=chroma))


@needs_library("jpeg2000")
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_a_jpeg_2000_of_more_than_8_bits_is_rounded(bits):
    """Pillow gives 0 for the highest values."""
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = RNG.integers(0, 1 << bits, (80, 50, 3), dtype=np.uint16)
    pixels[0, :3] = (1 << bits) - 1
    data = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2", bitspersample=bits)
    rgb = images.decode_picture(io.BytesIO(data), "it").rgb
    np.testing.assert_array_equal(rgb, np.rint(pixels * (255 / ((1 << bits) - 1))))


@needs_library("jpeg2000")
@pytest.mark.parametrize("mode", ["YCbCr", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"tile_size": (32, 32)}])
def test_the_colours_of_a_jpeg_2000_are_converted(monkeypatch, mode, options):
    file = io.BytesIO()
    Image.fromarray(noise(161, 90, 3)).convert(mode).save(file, "JPEG2000", **options)
    decoded_twice(monkeypatch, file.getvalue())


@needs_library("jpeg2000")
@pytest.mark.parametrize("bits", [8, 16])
def test_a_jpeg_2000_of_rare_colours_is_refused(bits):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = RNG.integers(0, 1 << bits, (80, 50, 3), dtype=f"uint{bits}")
    data = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2", colorspace="EYCC")
    with pytest.raises(ImageError, match=r"it: a JPEG 2000 of these colours.* convert it to sRGB in 8 bits"):
        images.decode_picture(io.BytesIO(data), "it")


@needs_library("avif")
@pytest.mark.parametrize(
    ("bits", "chroma", "channels", "count"),
    [(10, "420", 3, 1), (10, "444", 3, 2), (12, "422", 3, 2), (10, "420", 4, 2), (8, "444", 4, 1.2), (8, "420", 4, 1)],
)
def test_what_takes_more_memory_counts_more(bits, chroma, channels, count):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise(50, 40, channels).astype(f"uint{8 if bits == 8 else 16}") << (bits - 8)
    data = imagecodecs.avif_encode(pixels, level=80, bitspersample=bits, pixelformat=chroma)
    assert images.decode_picture(io.BytesIO(data), "it", max_pixels=int(2000 * count)).width == 40
    words = "" if count == 1 else f", which count {count} times for the memory that their kind takes"
    with pytest.raises(ImageError, match=f"it says it is 40 x 50 pixels{words}, above the limit"):
        images.decode_picture(io.BytesIO(data), "it", max_pixels=int(2000 * count) - 1)


@pytest.mark.parametrize(("kind", "count"), [("WEBP", 2.4), ("AVIF", 2.4), ("JPEG2000", 3.2)])
def test_where_pillow_decodes_them_they_count_more(monkeypatch, kind, count):
    for name in ("webp_decoder", "avif_decoder", "jpeg2000_decoder"):
        monkeypatch.setattr(native, name, lambda: None)
    file = io.BytesIO()
    Image.fromarray(noise(50, 40, 3)).save(file, kind)
    file.seek(0)
    assert images.decode_picture(file, "it", max_pixels=int(2000 * count)).width == 40
    file.seek(0)
    with pytest.raises(ImageError, match=f"which count {count} times"):
        images.decode_picture(file, "it", max_pixels=int(2000 * count) - 1)


@needs_library("webp")
@pytest.mark.parametrize("field", [0, 3, 6, 9])
def test_a_frame_beyond_the_picture_is_damaged(field):
    file = io.BytesIO()
    frames = [Image.fromarray(noise(60, 70, 3)) for _ in range(2)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    data = bytearray(file.getvalue())
    data[data.index(b"ANMF") + 8 + field] += 40
    with pytest.raises(ImageError, match="damaged"):
        images.decode_picture(io.BytesIO(bytes(data)), "it", frame=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux")
class TestMemory:
    """Of 12 megapixels here; `benchmarks/files.py memory` measures 100."""

    WIDTH, HEIGHT = 4000, 3000

    def picture(self, path: Path, kind: str) -> None:
        levels = np.arange(self.WIDTH, dtype=np.uint16)[None] * 16 + np.arange(self.HEIGHT, dtype=np.uint16)[:, None]
        grey = Image.fromarray((levels >> 8).astype(np.uint8))
        rgb = Image.merge("RGB", [grey] * 3)
        if kind == "jpeg":
            rgb.save(path, "JPEG")
        elif kind == "turned":
            rgb.save(path, "JPEG", exif=exif(6))
        elif kind == "profile":
            rgb.save(path, "JPEG", icc_profile=rgb_profile(GREEN, RED, BLUE))
        elif kind == "cmyk":
            Image.merge("CMYK", [grey] * 4).save(path, "JPEG", icc_profile=cmyk_profile())
        elif kind == "rgba":
            Image.merge("RGBA", [grey] * 4).save(path, "PNG", compress_level=1)
        elif kind == "sixteen":
            Image.fromarray(levels).save(path, "PNG", compress_level=1)
        elif kind == "palette":
            grey.convert("P").save(path, "PNG", compress_level=1, transparency=3)
        elif kind == "webp":
            rgb.save(path, "WEBP", quality=50, method=0)
        elif kind == "animated webp":
            rgb.save(path, "WEBP", quality=50, method=0, save_all=True, append_images=[rgb.transpose(0)])
        elif kind in ("blended webp", "lossless blended webp"):
            still = io.BytesIO()
            lossless = kind.startswith("lossless")
            rgba = Image.merge("RGBA", [grey] * 4)
            rgba.save(still, "WEBP", quality=0 if lossless else 50, method=0, lossless=lossless)
            frame = (0, 0, 0, still.getvalue())
            path.write_bytes(animated_webp(True, grey.size, [frame] * 2))
        elif kind in ("avif", "avif 4:4:4"):
            rgb.save(path, "AVIF", quality=50, speed=10, subsampling=kind[5:] or "4:2:0")
        elif kind == "avif with alpha":
            Image.merge("RGBA", [grey] * 4).save(path, "AVIF", quality=50, speed=10)
        elif kind.startswith("jpeg2000"):
            image = {"jpeg2000 sYCC": rgb.convert("YCbCr"), "jpeg2000 CMYK": Image.merge("CMYK", [grey] * 4)}.get(kind)
            (image or rgb).save(path, "JPEG2000", quality_mode="rates", quality_layers=[100])
        elif kind == "deep avif":
            imagecodecs = pytest.importorskip("imagecodecs")
            pixels = np.stack([levels >> 6] * 3, axis=2)
            path.write_bytes(imagecodecs.avif_encode(pixels, level=60, speed=10, bitspersample=10, pixelformat="420"))
        elif kind == "lossless webp":
            Image.merge("RGBA", [grey] * 4).save(path, "WEBP", lossless=True, quality=0, method=0)
        else:
            Image.fromarray(levels.astype(np.float32) / 65535).save(path, "TIFF")

    @pytest.mark.parametrize(
        "kind",
        [
            *("jpeg", "turned", "profile", "cmyk", "rgba", "sixteen", "palette", "float"),
            *(of_a_library("webp", kind) for kind in ("webp", "lossless webp", "animated webp")),
            *(of_a_library("webp", kind) for kind in ("blended webp", "lossless blended webp")),
            *(of_a_library("avif", kind) for kind in ("avif", "avif 4:4:4", "avif with alpha", "deep avif")),
            *(of_a_library("jpeg2000", kind) for kind in ("jpeg2000", "jpeg2000 sYCC", "jpeg2000 CMYK")),
        ],
    )
    def test_decoding_takes_at_most_5_bytes_per_pixel_besides_the_picture(self, tmp_path, kind):
        self.picture(tmp_path / "a", kind)
        run = in_a_process(tmp_path / "a", frame=int(kind.endswith("ed webp")))
        # For what does not grow with the picture: a strip's intermediates, libraries' tables, what glibc keeps of what
        # OpenJPEG has freed in small pieces (some 30 MB).
        constant = 2.5 if kind.startswith("jpeg2000") else 0.5
        assert float(run.stdout) <= 5 + constant, run.stderr

    @pytest.mark.parametrize("kind", ["jpeg", "rgba", "sixteen", "float", "webp", "avif", "jpeg2000"])
    def test_short_of_memory_is_not_called_damaged(self, tmp_path, kind):
        self.picture(tmp_path / "a", kind)
        for limit in range(10 << 20, 150 << 20, 20 << 20):
            run = in_a_process(tmp_path / "a", limit)
            if run.returncode == 0:
                break
            assert "not enough memory for 4000 x 3000 pixels" in run.stdout, (limit, run.stdout, run.stderr)
        assert run.returncode == 0
        assert limit > 10 << 20


def test_libtiff_prints_nothing(tmp_path, capfd):
    path = tmp_path / "a.tiff"
    Image.fromarray(noise(60, 60, 3)).save(path, compression="tiff_lzw")
    with Image.open(path) as image:
        start = image.tag_v2[273][0]
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\xff" * 1000 + data[start + 1000 :])
    with pytest.raises(ImageError):
        images.read_picture(path)
    assert capfd.readouterr().err == ""


def grey_ramp(mode: str) -> Image.Image:
    return Image.fromarray(np.array([[0, 100, 255]], np.uint8)).convert(mode)


class TestModes:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBX", "P", "CMYK", "YCbCr", "HSV"])
    def test_opaque_modes(self, mode):
        picture = images.picture_from_pil(grey_ramp(mode))
        assert picture.alpha is None
        np.testing.assert_allclose(picture.rgb[0], [[0] * 3, [100] * 3, [255] * 3], atol=1)

    def test_one_bit(self):
        picture = images.picture_from_pil(Image.fromarray(np.array([[True, False]])))
        np.testing.assert_array_equal(picture.rgb[0], [[255] * 3, [0] * 3])

    def test_lab(self, tmp_path):
        neutral = Image.new("LAB", (1, 1), (128, 128, 128))  # L* = 50
        assert np.abs(images.picture_from_pil(neutral).rgb.astype(int) - 119).max() <= 3
        assert np.abs(through_file(tmp_path / "a.tiff", neutral).rgb.astype(int) - 119).max() <= 3

    @pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
    def test_modes_with_alpha(self, mode):
        image = grey_ramp("RGB")
        image.putalpha(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
        picture = images.picture_from_pil(image.convert(mode))
        np.testing.assert_array_equal(picture.alpha, [[0, 128, 255]])
        np.testing.assert_allclose(picture.rgb[0, 1], 100, atol=3)

    @pytest.mark.parametrize(("mode", "straight"), [("La", "LA"), ("RGBa", "RGBA")])
    def test_premultiplied_alpha(self, mode, straight):
        image = Image.new(straight, (1, 1), (200,) * (len(straight) - 1) + (128,))
        picture = images.picture_from_pil(image.convert(mode))
        np.testing.assert_allclose(picture.rgb, 200, atol=2)
        np.testing.assert_array_equal(picture.alpha, [[128]])

    @pytest.mark.parametrize("key", [1, b"\xff\x00\x80"])
    def test_palette_transparency(self, tmp_path, key):
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        picture = through_file(tmp_path / "a.png", image, transparency=key)
        np.testing.assert_array_equal(picture.rgb[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]])
        np.testing.assert_array_equal(picture.alpha[0], [255, 0, 255 if key == 1 else 128])

    @pytest.mark.parametrize(("mode", "key"), [("1", 255), ("L", 255), ("RGB", (255, 255, 255))])
    def test_key_colour_becomes_alpha(self, tmp_path, mode, key):
        picture = through_file(tmp_path / "a.png", grey_ramp(mode), transparency=key)
        assert list(picture.alpha[0][[0, 2]]) == [255, 0]

    def test_first_frame_of_an_animation(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        for suffix, lossless in (("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tiff", {})):
            path = tmp_path / f"a.{suffix}"
            frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
            with pytest.warns(images.PictureWarning, match="several frames"):
                np.testing.assert_array_equal(images.read_picture(path).rgb[0, 0], [255, 0, 0])
            assert images.frame_count(path) == 2
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # whoever names a frame knows
                for frame, colour in enumerate(([255, 0, 0], [0, 0, 255])):
                    np.testing.assert_array_equal(images.read_picture(path, frame=frame).rgb[0, 0], colour)
            with pytest.raises(ImageError, match="no frame 2; its frames are 0 to 1"):
                images.read_picture(path, frame=2)

    def test_one_frame_is_counted_without_a_warning(self, tmp_path):
        for suffix in ("gif", "webp", "png", "tiff", "jpg", "bmp"):
            path = tmp_path / f"a.{suffix}"
            Image.new("RGB", (4, 4)).save(path)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                images.read_picture(path)
            assert images.frame_count(path) == 1

    def test_the_previews_of_a_jpeg_are_no_frames(self, tmp_path):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
        (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.read_picture(tmp_path / "a.jpg").rgb[0, 0, 0] > 250
        assert images.frame_count(tmp_path / "a.jpg") == 1

    def test_pages_of_several_sizes_are_measured_one_by_one(self, tmp_path):
        pages = [Image.new("L", (4, 4)), Image.new("L", (40, 40))]
        pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
        assert images.read_picture(tmp_path / "a.tiff", frame=1).width == 40
        with pytest.raises(ImageError, match="limit of 100"):
            images.read_picture(tmp_path / "a.tiff", frame=1, max_pixels=100)

    @pytest.mark.parametrize("extra", [b"", png_chunk(b"tRNS", bytes(257))])
    def test_palettes_that_are_missing_or_too_long_are_damage(self, tmp_path, extra):
        palette = png_chunk(b"PLTE", bytes(768)) if extra else b""
        (tmp_path / "a.png").write_bytes(png(2, 1, 8, 3, [b"\0\1"], palette + extra))
        try:
            images.read_picture(tmp_path / "a.png")
        except ImageError as error:
            assert "damaged or cut short" in str(error)  # noqa: PT017  # a reader that copes is as good


class TestSixteenBits:
    levels = np.array([[0, 128, 129, 300, 32896, 65407, 65535]], np.uint16)
    rounded = np.rint(levels / 257).astype(np.uint8)

    def test_grey_png_and_tiff_are_rounded_not_clipped(self, tmp_path):
        for suffix in ("png", "tiff"):
            picture = through_file(tmp_path / f"a.{suffix}", Image.fromarray(self.levels))
            np.testing.assert_array_equal(picture.rgb[..., 0], self.rounded)

    def test_big_endian_tiff_and_pgm(self, tmp_path):
        data = self.levels.astype(">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(b"P5 7 1 65535\n" + data)
        np.testing.assert_array_equal(images.read_picture(tmp_path / "a.pgm").rgb[..., 1], self.rounded)
        big = Image.frombytes("I;16B", (7, 1), data)
        np.testing.assert_array_equal(images.picture_from_pil(big).rgb[..., 2], self.rounded)

    def test_grey_png_with_key(self, tmp_path):
        key = png_chunk(b"tRNS", struct.pack(">H", 300))
        (tmp_path / "a.png").write_bytes(png(7, 1, 16, 0, [self.levels.astype(">u2").tobytes()], key))
        alpha = images.read_picture(tmp_path / "a.png").alpha
        np.testing.assert_array_equal(alpha[0] == 0, self.levels[0] == 300)

    @pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
    def test_colour_png_is_within_one_level(self, tmp_path, colour, channels):
        row = np.repeat(self.levels[..., None], channels, axis=2).astype(">u2").tobytes()
        (tmp_path / "a.png").write_bytes(png(7, 1, 16, colour, [row]))
        picture = images.read_picture(tmp_path / "a.png")
        np.testing.assert_allclose(picture.rgb[..., 0].astype(int), self.rounded.astype(int), atol=1)
        assert (picture.alpha is not None) == (channels == 4)

    def test_colour_png_with_key(self, tmp_path):
        key = png_chunk(b"tRNS", struct.pack(">HHH", 65535, 65535, 65535))
        row = np.repeat(self.levels[..., None], 3, axis=2).astype(">u2").tobytes()
        (tmp_path / "a.png").write_bytes(png(7, 1, 16, 2, [row], key))
        assert list(images.read_picture(tmp_path / "a.png").alpha[0][[0, 3, 6]]) == [255, 255, 0]

    @pytest.mark.parametrize(("values", "expected"), [([0, 257], [0, 1]), ([257, 65535], [1, 255])])
    def test_mode_i_spans_16_bits_whatever_is_in_it(self, values, expected):
        picture = images.picture_from_pil(Image.fromarray(np.array([values], np.int32)))
        np.testing.assert_array_equal(picture.rgb[0, :, 0], expected)

    def test_a_dark_pgm_stays_dark(self, tmp_path):
        (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + np.array([0, 200], ">u2").tobytes())
        assert images.read_picture(tmp_path / "a.pgm").rgb.max() == 1

    def test_twelve_bits_reach_white(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        values = np.array([[0, 2048, 4095, 1]], np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=12, photometric="minisblack")
        np.testing.assert_array_equal(images.read_picture(tmp_path / "a.tif").rgb[0, :, 0], [0, 128, 255, 0])


class TestFloats:
    """Floats are [0, 1]; nothing is guessed by the maximum."""

    def test_mode_f(self):
        picture = images.picture_from_pil(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))
        np.testing.assert_array_equal(picture.rgb[0, :, 0], [0, 128, 255])

    def test_one_pixel_in_excess_does_not_turn_the_rest_black(self, tmp_path):
        values = np.full((50, 50), 0.5, np.float32)
        values[20, 30] = 1.01
        Image.fromarray(values).save(tmp_path / "a.tiff")
        with pytest.warns(images.PictureWarning, match=r"from 0 to 1\.01, and are clipped"):
            picture = images.read_picture(tmp_path / "a.tiff")
        assert picture.rgb[0, 0, 0] == 128
        assert picture.rgb[20, 30, 0] == 255

    def test_rounding_is_no_excess(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images.picture_from_array(np.array([[-0.001, 1.001]]))

    @pytest.mark.parametrize("high", [1.2, 40, 255])
    def test_high_dynamic_range_is_refused(self, tmp_path, high):
        Image.fromarray(np.array([[0, high]], np.float32)).save(tmp_path / "a.tiff")
        with pytest.raises(ImageError, match="from 0 to 1, not 0 to"):
            images.read_picture(tmp_path / "a.tiff")

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("layout", ["grey", "rgb", "planar", "rgba", "tiled", "white"])
    def test_tiffs_of_every_float_type_and_layout(self, tmp_path, dtype, layout):
        tifffile = pytest.importorskip("tifffile")
        levels = noise(20, 37, {"grey": 1, "white": 1, "rgba": 4}.get(layout, 3))
        values, options = (levels / 255).astype(dtype), {"photometric": "rgb"}
        if levels.shape[2] == 1:
            values, options = values[..., 0], {"photometric": "miniswhite" if layout == "white" else "minisblack"}
        elif layout == "planar":
            values, options = np.moveaxis(values, 2, 0), options | {"planarconfig": "separate", "rowsperstrip": 6}
        elif layout == "rgba":
            options |= {"extrasamples": ["unassalpha"], "compression": "zlib", "predictor": True}
        elif layout == "tiled":
            options |= {"tile": (16, 16)}
        tifffile.imwrite(tmp_path / "a.tif", values, **options)
        picture = images.read_picture(tmp_path / "a.tif")
        expected = 255 - levels if layout == "white" else levels
        np.testing.assert_array_equal(picture.rgb, np.broadcast_to(expected[..., :3], picture.rgb.shape))
        if layout == "rgba":
            np.testing.assert_array_equal(picture.alpha, levels[..., 3])
        else:
            assert picture.alpha is None
        assert images.picture_size(tmp_path / "a.tif") == (37, 20)

    @pytest.mark.parametrize("channels", [3, 4])
    def test_sixteen_bits_in_planes(self, tmp_path, channels):
        tifffile = pytest.importorskip("tifffile")
        values = RNG.integers(0, 65536, (9, 11, channels), dtype=np.uint16)
        options = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        tifffile.imwrite(
            tmp_path / "a.tif", np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate", **options
        )
        picture = images.read_picture(tmp_path / "a.tif")
        expected = np.rint(values / 257).astype(np.uint8)
        np.testing.assert_array_equal(picture.rgb, expected[..., :3])
        if channels == 4:
            np.testing.assert_array_equal(picture.alpha, expected[..., 3])

    def test_rare_tiffs_keep_profile_orientation_and_pages(self, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for level in (0.0, 1.0):
                values = np.full((4, 6, 3), level, np.float32)
                tags = [(274, "H", 1, 6, False), (271, "s", 0, "Maker", False)]
                writer.write(values, photometric="rgb", extratags=tags, iccprofile=images.srgb_profile())
        with pytest.warns(images.PictureWarning, match="several frames"):
            picture = images.read_picture(tmp_path / "a.tif")
        assert (picture.width, picture.height) == (4, 6) == images.picture_size(tmp_path / "a.tif")
        assert picture.icc_profile == images.srgb_profile()
        assert b"Maker" in picture.exif
        assert images.frame_count(tmp_path / "a.tif") == 2
        assert images.read_picture(tmp_path / "a.tif", frame=1).rgb.min() == 255

    @pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.complex64])
    def test_other_types_are_unsupported_and_not_damaged(self, tmp_path, dtype):
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), dtype))
        with pytest.raises(ImageError, match="not supported; convert it to 8 or 16 bits"):
            images.read_picture(tmp_path / "a.tif")

    def test_without_the_extra_one_sentence_says_what_is_missing(self, tmp_path, monkeypatch):
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), np.float32), photometric="rgb")
        monkeypatch.setitem(sys.modules, "tifffile", None)
        assert images.picture_size(tmp_path / "a.tif") == (4, 4)
        with pytest.raises(MissingDependencyError, match=r"faitheir\[formats\]"):
            images.read_picture(tmp_path / "a.tif")


class TestSixteenBitsRefused:
    @pytest.mark.parametrize(
        "values", [np.int32([[0, 65536]]), np.int32([[-1, 3]]), np.float32([[0, 300]]), np.float32([[-1, 1]])]
    )
    def test_values_without_a_meaning_are_refused(self, values):
        with pytest.raises(ImageError, match="pixels"):
            images.picture_from_pil(Image.fromarray(values))


class TestArrays:
    @pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    def test_shapes_and_types_agree(self, channels, dtype):
        levels = noise(3, 5) if channels is None else noise(3, 5, channels)
        array = {"u": levels * dtype(257 if dtype == np.uint16 else 1), "f": (levels / 255).astype(dtype)}[
            np.dtype(dtype).kind
        ]
        picture = images.picture_from_array(array)
        full = levels.reshape(3, 5, -1)
        colours = full[..., :3] if full.shape[2] >= 3 else np.repeat(full[..., :1], 3, axis=2)
        np.testing.assert_array_equal(picture.rgb, colours)
        if channels in (2, 4):
            np.testing.assert_array_equal(picture.alpha, full[..., -1])
        else:
            assert picture.alpha is None

    def test_the_caller_keeps_their_array(self):
        array = noise(3, 5, 3)
        picture, before = images.picture_from_array(array), array.copy()
        picture.rgb[:] = 0
        np.testing.assert_array_equal(array, before)

    def test_bool_and_overshoot(self):
        assert images.picture_from_array(np.array([[True, False]])).rgb[0, :, 0].tolist() == [255, 0]
        assert images.picture_from_array(np.array([[-0.001, 1.001]])).rgb[0, :, 0].tolist() == [0, 255]

    @pytest.mark.parametrize(
        "array",
        [
            np.array([[0.5, np.nan]]),
            np.array([[0.5, np.inf]]),
            np.array([[0.0, 1.2]]),
            np.array([[0.0, 200.0]]),
            np.zeros((3, 4, 5), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros(4, np.uint8),
            np.zeros((1, 2, 2, 3), np.uint8),
            np.zeros((2, 2), np.int64),
            np.zeros((2, 2), complex),
            np.array([["a"]]),
        ],
    )
    def test_anything_else_is_refused(self, array):
        with pytest.raises(ImageError):
            images.picture_from_array(array)

    def test_a_picture_refuses_arrays_that_do_not_fit(self):
        for rgb, alpha in (
            (np.zeros((2, 2, 3)), None),
            (noise(2, 2), None),
            (noise(2, 2, 4), None),
            (noise(2, 2, 3), noise(2, 3)),
        ):
            with pytest.raises(ImageError):
                Picture(rgb, alpha)


class TestRefused:
    def test_a_jpeg_that_says_it_is_far_too_large_for_its_bytes(self, tmp_path):
        """It would be read as 400 million grey pixels."""
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG")
        data = bytearray(file.getvalue())
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 20000, 20000)
        (tmp_path / "a.jpg").write_bytes(data)
        self.refused(tmp_path / "a.jpg", f"too many for its {len(data)} bytes: it is damaged")

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.5, 4])
    def test_a_float_that_is_no_level(self, tmp_path, shape, value):
        tifffile = pytest.importorskip("tifffile")
        values = np.full(shape, 0.5, np.float32)
        values[1, 2] = value
        tifffile.imwrite(tmp_path / "a.tiff", values, photometric="rgb" if len(shape) == 3 else "minisblack")
        self.refused(tmp_path / "a.tiff", "floating-point pixels must be from 0 to 1, not")

    def refused(self, path: Path, match: str, **options: int) -> None:
        with pytest.raises((ImageError, StorageError), match=match) as caught:
            images.read_picture(path, **options)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing_folder_empty_and_text(self, tmp_path):
        self.refused(tmp_path / "none.png", "does not exist")
        (tmp_path / "link.png").symlink_to("link.png")
        self.refused(tmp_path / "link.png", "is a link that leads nowhere")
        self.refused(tmp_path, "folder")
        (tmp_path / "empty.png").touch()
        self.refused(tmp_path / "empty.png", "zero bytes")
        (tmp_path / "text.jpg").write_text("These are words, not a picture.")
        self.refused(tmp_path / "text.jpg", "not a picture")
        os.mkfifo(tmp_path / "pipe.png")
        self.refused(tmp_path / "pipe.png", "ordinary file")

    def test_formats_that_are_not_photographs(self, tmp_path):
        (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        self.refused(tmp_path / "a.eps", "not a picture")

    def test_no_permission(self, tmp_path):
        path = tmp_path / "a.png"
        images.write_picture(path, Picture(noise(2, 2, 3)))
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        self.refused(path, "cannot be read")

    def test_bomb_is_refused_from_the_header_alone(self, tmp_path):
        path = tmp_path / "bomb.png"
        path.write_bytes(png(100_000, 100_000, 8, 2, [b""]))
        self.refused(path, "100000 x 100000")

    def test_a_bomb_is_refused_before_a_later_frame_is_looked_for(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
        data = (tmp_path / "a.png").read_bytes()
        header = png_chunk(b"IHDR", struct.pack(">II", 24, 1 << 30) + data[24:29])
        (tmp_path / "a.png").write_bytes(data[:8] + header + data[33:])
        with pytest.raises(ImageError, match="above the limit"):
            images.read_picture(tmp_path / "a.png", frame=1)

    def test_own_limit(self, tmp_path):
        path = tmp_path / "a.png"
        images.write_picture(path, Picture(noise(10, 11, 3)))
        self.refused(path, "limit of 109", max_pixels=109)
        assert images.read_picture(path, max_pixels=110).width == 11

    def test_the_hosts_pillow_limit_is_neither_used_nor_changed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        images.write_picture(tmp_path / "a.png", Picture(noise(10, 10, 3)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert images.read_picture(tmp_path / "a.png").width == 10
        assert Image.MAX_IMAGE_PIXELS == 10

    @settings(max_examples=150, deadline=None)
    @given(suffix=st.sampled_from(["png", "jpg", "webp", "tiff", "bmp", "gif"]), share=st.floats(0.01, 0.9))
    def test_truncated_anywhere(self, suffix, share, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / f"cut.{suffix}"
        Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: max(1, int(len(data) * share))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, beside its errors
            self.refused(path, "damaged or cut short|not a picture")

    @settings(max_examples=150, deadline=None)
    @given(suffix=st.sampled_from(["png", "jpg", "webp", "tiff", "gif"]), data=st.data())
    def test_damaged_anywhere_reads_or_says_so(self, suffix, data, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
        Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                picture = images.read_picture(path, max_pixels=10**6)
            except ImageError as error:
                assert str(path) in str(error)  # noqa: PT017  # reading is an answer too
            else:
                assert picture.rgb.ndim == 3

    def test_lazily_opened_damage(self, tmp_path):
        path = tmp_path / "a.png"
        images.write_picture(path, Picture(noise(30, 30, 3)))
        path.write_bytes(path.read_bytes()[:1000])
        with Image.open(path) as image, pytest.raises(ImageError, match=r"a\.png is damaged"):
            images.picture_from_pil(image)


class TestWriting:
    picture = Picture(noise(4, 4, 3))

    def test_refusals_leave_nothing_behind(self, tmp_path):
        folder, file = tmp_path / "folder.png", tmp_path / "file"
        folder.mkdir()
        file.write_bytes(b"x")
        for path in (
            folder,
            tmp_path / "missing" / "a.png",
            file / "a.png",
            tmp_path / "a.psd",
            tmp_path / "a",
        ):
            with pytest.raises((ImageError, StorageError), match="cannot be written") as caught:
                images.write_picture(path, self.picture)
            assert str(path) in str(caught.value)
        assert sorted(tmp_path.iterdir()) == [file, folder]

    def test_unwritable_folder(self, tmp_path):
        tmp_path.chmod(0o500)
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(StorageError, match="cannot be written"):
            images.write_picture(tmp_path / "a.png", self.picture)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
    def test_interrupted_write_keeps_the_old_file(self, tmp_path, monkeypatch, error):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")

        def stop(*_: object) -> None:
            raise error

        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises((KeyboardInterrupt, StorageError)):
            images.write_picture(path, self.picture)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_overwrites_and_honours_umask(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        images.write_picture(path, self.picture)
        assert_same(images.read_picture(path), self.picture)
        (tmp_path / "plain").touch()
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("quality", [0, 101])
    def test_quality_out_of_range(self, quality):
        with pytest.raises(ImageError, match="quality"):
            images.encode_picture(self.picture, "jpg", quality=quality)

    def test_more_than_the_format_holds(self):
        with pytest.raises(ImageError, match="20000 x 1 cannot be written as WEBP"):
            images.encode_picture(Picture(np.zeros((1, 20000, 3), np.uint8)), "webp")

    def test_suffixes(self):
        assert images.is_picture_path("a/B.JPeG")
        assert images.is_picture_path(Path("x.tif"))
        assert not images.is_picture_path("x.txt")
        assert not images.is_picture_path("png")


class TestSizes:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.sampled_from([(), (1,), (3,)]))
    def test_padding_repeats_the_edge(self, height, width, multiple, channels):
        array = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
        padded = images.pad_to_multiple(array, multiple)
        assert padded.shape == (
            -(-height // multiple) * multiple,
            -(-width // multiple) * multiple,
            *channels,
        )
        rows = np.minimum(np.arange(padded.shape[0]), height - 1)
        columns = np.minimum(np.arange(padded.shape[1]), width - 1)
        np.testing.assert_array_equal(padded, array[rows][:, columns])

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([2, 16, 32]), st.integers(0, 255))
    def test_thumbnail_of_a_flat_picture_is_flat(self, height, width, scale, level):
        thumbnail = images.bicubic_thumbnail(np.full((height, width, 3), level, np.uint8), scale)
        assert thumbnail.shape == (-(-height // scale), -(-width // scale), 3)
        assert (thumbnail == level).all()

    def test_shrinking_is_anti_aliased(self):
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        assert np.abs(images.resize_bicubic(stripes, (4, 4)).astype(int) - 127).max() <= 5

    def test_alpha_resizes_like_a_channel_of_colour(self):
        alpha = noise(32, 48)
        as_colour = images.resize_bicubic(np.repeat(alpha[..., None], 3, axis=2), (3, 2))
        np.testing.assert_array_equal(images.resize_alpha(alpha, (3, 2)), as_colour[..., 0])

    def test_encoding_is_reproducible(self):
        picture = Picture(noise(4, 4, 3), icc_profile=images.srgb_profile())
        images.srgb_profile.cache_clear()
        again = Picture(picture.rgb, icc_profile=images.srgb_profile())
        assert images.encode_picture(picture, "webp") == images.encode_picture(again, "webp")

    def test_a_declared_srgb_costs_a_png_13_bytes(self):
        rgb = noise(4, 4, 3)
        plain = images.encode_picture(Picture(rgb), "png")
        tagged = images.encode_picture(Picture(rgb, icc_profile=images.srgb_profile()), "png")
        assert len(tagged) - len(plain) == 13
        assert Image.open(io.BytesIO(tagged)).info["srgb"] == 1
