"""Pictures from strangers: limits on pixels, on their share of the file, on memory and on time."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faitheir import images
from faitheir.errors import ImageError, ThumbnailError
from faitheir.images import Picture
from faitheir.thumbnail import Thumbnail, ThumbnailInfo
from faitheir.untrusted import decode_untrusted, decode_untrusted_thumbnail
from test_images import exif, png, png_chunk

RNG = np.random.default_rng(3)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgba(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 4), dtype=np.uint8))


def test_the_picture_is_the_same_as_decoded_here() -> None:
    data = encoded(rgba(30, 41), exif=exif(6), icc_profile=images.srgb_profile())
    there, here = decode_untrusted(data), images.decode_picture(io.BytesIO(data), "it")
    np.testing.assert_array_equal(there.rgb, here.rgb)
    np.testing.assert_array_equal(there.alpha, here.alpha)
    assert (there.exif, there.icc_profile) == (here.exif, here.icc_profile)
    there.rgb[:] = 0  # it is the caller's


def test_warnings_come_back() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    with pytest.warns(images.PictureWarning, match="several frames"):
        decode_untrusted(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def test_thumbnails_keep_what_they_say() -> None:
    info = ThumbnailInfo(16, 100, 60, "0123456789abcdef")
    data = Thumbnail(Picture(RNG.integers(0, 256, (4, 7, 3), dtype=np.uint8)), info).encode()
    thumbnail = decode_untrusted_thumbnail(data)
    assert thumbnail.info == info
    np.testing.assert_array_equal(thumbnail.picture.rgb, Thumbnail.decode(data).picture.rgb)
    assert decode_untrusted_thumbnail(encoded(rgba(3, 3))).info is None
    old = vars(info) | {"model": "nano-x16", "scale": 99, "format_version": 1}
    text = png_chunk(b"tEXt", b"FaithEIR\0" + json.dumps(old).encode())
    with pytest.raises(ThumbnailError, match=r"^upload 7: the thumbnail is 7 x 4 pixels, but"):
        decode_untrusted_thumbnail(png(7, 4, 8, 0, [bytes(7)] * 4, text), name="upload 7")


def jpeg_bomb(side: int) -> bytes:
    """A flat JPEG whose header says that it is larger by far."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def test_kilobytes_do_not_become_gigabytes() -> None:
    for side, match in ((20000, "above the limit of 64000000"), (7000, "too many for its")):
        with pytest.raises(ImageError, match=match):
            decode_untrusted(jpeg_bomb(side))


def test_small_flat_pictures_are_let_through() -> None:
    data = encoded(Image.new("RGB", (2000, 2000)), "WEBP", lossless=True)
    assert len(data) * images.UNTRUSTED_PIXELS_PER_BYTE < 4_000_000
    assert decode_untrusted(data).width == 2000


def test_photographs_are_far_from_the_limit_on_pixels_per_byte() -> None:
    """Even as the worst JPEG of a flat picture."""
    for kind, options in (("JPEG", {"quality": 1}), ("JPEG", {"quality": 1, "progressive": True}), ("PNG", {})):
        data = encoded(Image.new("RGB", (4000, 2000)), kind, **options)
        images.decode_picture(io.BytesIO(data), "it", pixels_per_byte=images.UNTRUSTED_PIXELS_PER_BYTE)


def test_limits_on_memory_time_and_pixels() -> None:
    data = encoded(rgba(2500, 2500), compress_level=1)
    with pytest.raises(ImageError, match=r"^photo\.png: not enough memory for 2500 x 2500 pixels"):
        decode_untrusted(data, name="photo.png", memory=30 << 20)
    with pytest.raises(ImageError, match=r"^photo\.png takes longer than 0\.05 s"):
        decode_untrusted(data, name="photo.png", seconds=0.05)
    with pytest.raises(ImageError, match="above the limit of 1000"):
        decode_untrusted(data, max_pixels=1000)
    assert decode_untrusted(data).width == 2500


@pytest.mark.parametrize("data", [b"", b"words, no picture", png(9, 9, 8, 2, [bytes(27)] * 9)[:-30], b"\0" * 100_000])
def test_whatever_is_sent_is_answered_with_a_sentence(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^the file"):
        decode_untrusted(data)


def test_the_parent_survives_a_decoder_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faitheir.untrusted.sys.executable", "/bin/false")
    with pytest.raises(ImageError, match="the decoder broke off"):
        decode_untrusted(encoded(rgba(3, 3)))


def test_a_density_is_checked_with_the_file_where_it_stands() -> None:
    chunk = png_chunk(b"tEXt", json.dumps({"a": 1}).encode())
    data = png(3000, 3000, 8, 0, [bytes(3000)] * 3000, chunk)
    with pytest.raises(ImageError, match=f"for its {len(data)} bytes"):
        images.decode_picture(io.BytesIO(data), "it", pixels_per_byte=100)
    assert images.decode_picture(io.BytesIO(data), "it", pixels_per_byte=10_000).width == 3000


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert decode_untrusted(encoded(rgba(3, 4))).width == 4
