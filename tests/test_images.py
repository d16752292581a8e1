"""Picture files: what comes in upright, sRGB and 8-bit, what goes out, and what is refused."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from faitheir import images
from faitheir.errors import ImageError, StorageError
from faitheir.images import Picture

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
    def test_broken_or_foreign_profile_is_ignored(self, profile):
        image = Image.fromarray(noise(4, 4, 3))
        image.info["icc_profile"] = profile
        picture = images.picture_from_pil(image)
        np.testing.assert_array_equal(picture.rgb, np.asarray(image))
        assert picture.icc_profile is None


def grey_ramp(mode: str) -> Image.Image:
    return Image.fromarray(np.array([[0, 100, 255]], np.uint8)).convert(mode)


class TestModes:
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBX", "P", "CMYK", "YCbCr", "HSV", "I", "F"])
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
            np.testing.assert_array_equal(images.read_picture(path).rgb[0, 0], [255, 0, 0])


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

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([0, 255], [0, 255]), ([0, 256], [0, 1]), ([257, 65535], [1, 255])],
    )
    def test_mode_i(self, values, expected):
        picture = images.picture_from_pil(Image.fromarray(np.array([values], np.int32)))
        np.testing.assert_array_equal(picture.rgb[0, :, 0], expected)

    @pytest.mark.parametrize(("values", "expected"), [([0, 0.5, 1], [0, 128, 255]), ([0, 128, 255], [0, 128, 255])])
    def test_mode_f(self, values, expected):
        picture = images.picture_from_pil(Image.fromarray(np.array([values], np.float32)))
        np.testing.assert_array_equal(picture.rgb[0, :, 0], expected)

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
            np.array([[0.0, 1.1]]),
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
    def refused(self, path: Path, match: str, **options: int) -> None:
        with pytest.raises((ImageError, StorageError), match=match) as caught:
            images.read_picture(path, **options)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing_folder_empty_and_text(self, tmp_path):
        self.refused(tmp_path / "none.png", "does not exist")
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
