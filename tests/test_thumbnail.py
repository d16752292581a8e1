"""The thumbnail file: what is written comes back bit for bit; what it says of itself is checked."""

import binascii
import io
import json
import re
import shutil
import struct
import subprocess
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from faitheir import images
from faitheir.containers import compact_avif, get_private, put_private
from faitheir.errors import ImageError, StorageError, ThumbnailError
from faitheir.images import Picture, PictureWarning
from faitheir.thumbnail import (
    LOSSLESS_FORMATS,
    LOSSY_FORMATS,
    NewerVersionError,
    Thumbnail,
    ThumbnailInfo,
    bytes_for,
    encode_within,
)

INFO = ThumbnailInfo(scale=16, width=70, height=33, weights="0123456789abcdef")
INFO_OF_PHOTO = replace(INFO, width=490, height=330)
COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
FORMATS = ("png", "webp", "avif", "jpg")
#: What files of format 1 say.
OLD = {"scale": 16, "width": 70, "height": 33, "model": "nano-x16", "weights": "0123456789abcdef", "format_version": 1}
OLD_INFO = replace(INFO, model="nano-x16")
OLD_TEXT = json.dumps(OLD)


def picture(width: int = 5, height: int = 3, seed: int = 0, alpha: bool = False, tagged: bool = False) -> Picture:
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    return Picture(
        rgb=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        alpha=rng.choice(np.array([0, 0, 9, 254], np.uint8), (height, width)) if alpha else None,
        exif=exif.tobytes() if tagged else None,
        icc_profile=images.srgb_profile() if tagged else None,
    )


def png_with(*texts: str, kind: str = "tEXt") -> bytes:
    """A 5 x 3 PNG with a text chunk of ours for each text."""
    info = PngImagePlugin.PngInfo()
    for text in texts:
        if kind == "iTXt":
            info.add_itxt("FaithEIR", text)
        else:
            info.add_text("FaithEIR", text, zip=kind == "zTXt")
    return images.encode_picture(picture(), "png", pnginfo=info)


def webp_with(packet: bytes) -> bytes:
    return images.encode_picture(picture(), "webp", xmp=packet)


def xmp(body: str) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:q="urn:faitheir:">{body}'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ThumbnailError, match=match) as caught:
        Thumbnail.decode(data)
    assert "\n" not in str(caught.value)


def fields(**changes: object) -> str:
    return json.dumps(OLD | changes)


def quietly(data: bytes) -> Thumbnail:
    """What a file gives where warnings are expected or not, as chance has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)
        return Thumbnail.decode(data)


def photograph(width: int, height: int) -> Picture:
    """A part of a photograph, reduced: what thumbnails look like."""
    with Image.open(COFFEE) as image:
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return Picture(np.array(small))


def installed(tool: str) -> bool:
    """Whether the program is there; other programs than ImageMagick's are called convert, too."""
    if shutil.which(tool) is None:
        return False
    return tool != "convert" or b"ImageMagick" in subprocess.run([tool, "-version"], capture_output=True).stdout


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 30),
        st.integers(1, 30),
        st.integers(0, 2**32),
        st.booleans(),
        st.booleans(),
        st.sampled_from(LOSSLESS_FORMATS),
        st.integers(2, 256),
        st.data(),
    )
    def test_file_gives_back_everything(self, width, height, seed, alpha, tagged, format_, scale, data):
        small = picture(width, height, seed, alpha, tagged)
        info = replace(
            INFO,
            scale=scale,
            width=data.draw(st.integers((width - 1) * scale + 1, width * scale)),
            height=data.draw(st.integers((height - 1) * scale + 1, height * scale)),
        )
        back = Thumbnail.decode(Thumbnail(small, info).encode(format_, lossless=True))
        assert back.info == info
        np.testing.assert_array_equal(back.picture.rgb, small.rgb)
        assert (back.picture.alpha is None) == (small.alpha is None)
        if small.alpha is not None:
            np.testing.assert_array_equal(back.picture.alpha, small.alpha)
        assert back.picture.exif == small.exif
        if format_ == "png":
            assert back.picture.icc_profile == small.icc_profile

    @settings(max_examples=80, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.sampled_from(LOSSY_FORMATS), st.integers(1, 100))
    def test_lossy_files_keep_what_is_no_pixel(self, width, height, tagged, format_, quality):
        small = picture(width, height, tagged=tagged)
        info = replace(INFO, width=16 * width - 3, height=16 * height - 15)
        back = Thumbnail.decode(Thumbnail(small, info).encode(format_, quality=quality))
        assert (back.info, back.picture.exif, back.picture.alpha) == (info, small.exif, None)
        assert back.picture.rgb.shape == small.rgb.shape

    @settings(max_examples=100, deadline=None)
    @given(
        st.builds(
            ThumbnailInfo,
            scale=st.integers(2, 256),
            width=st.integers(1, 2**24),
            height=st.integers(1, 2**24),
            weights=st.text("0123456789abcdef", min_size=16, max_size=16),
        )
    )
    def test_bytes(self, info):
        data = info.to_bytes()
        assert len(data) == 14
        assert ThumbnailInfo.from_bytes(data, info.thumbnail_size) == info
        other = (info.thumbnail_size[0] + 1, info.thumbnail_size[1])
        with pytest.raises(ThumbnailError, match="not of this picture"):
            ThumbnailInfo.from_bytes(data, other)

    def test_layout(self):
        """The bytes that the module describes: programs in other languages read them."""
        # CRC-16/IBM-3740 of the 12 bytes and 5 x 3 as 8, by its definition.
        crc = 0xFFFF
        for byte in bytes.fromhex("020f0a0f0123456789abcdef") + bytes((0, 0, 0, 5, 0, 0, 0, 3)):
            crc ^= byte << 8
            for _ in range(8):
                crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
        assert INFO.to_bytes().hex() == f"020f0a0f0123456789abcdef{crc:04x}"

    @pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "avif", "jpg", "JPEG"])
    def test_save_and_open(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        Thumbnail(picture(), INFO).save(path)
        assert Thumbnail.open(path).info == INFO
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("format_", LOSSLESS_FORMATS)
    def test_any_viewer_shows_it(self, format_):
        small = picture(alpha=True)
        with Image.open(io.BytesIO(Thumbnail(small, INFO).encode(format_, lossless=True))) as image:
            assert image.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(image)[..., :3], small.rgb)

    def test_image_has_the_pixels(self):
        small = picture(alpha=True)
        np.testing.assert_array_equal(np.asarray(Thumbnail(small, INFO).image)[..., 3], small.alpha)

    @pytest.mark.parametrize("name", ["a.gif", "a", "a.tiff"])
    def test_other_formats_are_refused(self, tmp_path, name):
        with pytest.raises(ThumbnailError, match="cannot be written"):
            Thumbnail(picture(), INFO).save(tmp_path / name)
        assert not list(tmp_path.iterdir())
        with pytest.raises(ThumbnailError, match="png, webp, avif, jpg"):
            Thumbnail(picture(), INFO).encode("tiff")  # type: ignore[arg-type]

    def test_in_and_out_of_pillow(self, tmp_path):
        made = Thumbnail(picture(), INFO)
        assert Thumbnail.from_pil(made.image).info == INFO
        assert Thumbnail.from_pil(made.image.copy()).info == INFO
        made.image.save(tmp_path / "saved by pillow.jpg", quality=95)
        assert Thumbnail.open(tmp_path / "saved by pillow.jpg").info == INFO
        for format_ in FORMATS:
            made.save(tmp_path / f"a.{format_}")
            with Image.open(tmp_path / f"a.{format_}") as image:
                assert Thumbnail.from_pil(image).info == INFO, format_
            with pytest.warns(PictureWarning, match="resized"):
                assert Thumbnail.from_pil(made.image.resize((9, 9))).info is None


class TestEncoding:
    @pytest.mark.parametrize("format_", LOSSY_FORMATS)
    def test_quality_trades_error_for_bytes(self, format_):
        small = Thumbnail(photograph(48, 32), None)
        data = [small.encode(format_, quality=quality) for quality in (10, 50, 95)]
        errors = [
            np.square(Thumbnail.decode(part).picture.rgb.astype(float) - small.picture.rgb).mean() for part in data
        ]
        assert sorted(map(len, data)) == [*map(len, data)]
        assert errors == sorted(errors, reverse=True)
        assert errors[2] < errors[0] / 4

    @pytest.mark.parametrize("format_", ["webp", "avif"])
    @pytest.mark.parametrize("quality", [5, 80])
    def test_alpha_is_kept(self, format_, quality):
        alpha = np.zeros((32, 48), np.uint8)
        alpha[4:20, 10:30] = 255
        back = Thumbnail.decode(
            Thumbnail(replace(photograph(48, 32), alpha=alpha), None).encode(format_, quality=quality)
        )
        assert np.abs(back.picture.alpha.astype(int) - alpha).max() < 30

    @pytest.mark.parametrize(
        ("format_", "options", "match"),
        [
            ("webp", {"quality": 80, "lossless": True}, "no quality"),
            ("png", {"quality": 80}, "always lossless"),
            ("png", {"lossless": False}, "always lossless"),
            ("avif", {"lossless": True}, "avif without loss"),
            ("jpg", {"lossless": True}, "jpg without loss"),
            ("webp", {"quality": 101}, "from 0 to 100 for webp, not 101"),
            ("jpg", {"quality": 0}, "from 1 to 100 for jpg, not 0"),
        ],
    )
    def test_what_a_format_cannot_do(self, format_, options, match):
        with pytest.raises(ThumbnailError, match=match) as caught:
            Thumbnail(picture(), INFO).encode(format_, **options)
        assert "\n" not in str(caught.value)

    def test_jpeg_refuses_transparency(self):
        with pytest.raises(ThumbnailError, match="transparent thumbnail cannot be stored as jpg"):
            Thumbnail(picture(alpha=True), INFO).encode("jpg")

    @pytest.mark.parametrize(
        ("format_", "suffix", "share", "plain"),
        [
            ("webp", "WEBP", 0.97, {"method": 6}),
            ("jpg", "JPEG", 0.9, {"optimize": True, "subsampling": "4:2:0"}),
            ("avif", "AVIF", 0.95, {}),
        ],
    )
    def test_files_are_smaller_than_the_codecs_own_at_the_same_error(self, format_, suffix, share, plain):
        if format_ == "webp":
            pytest.importorskip("webp")
        small = photograph(48, 32)

        def curve(files):
            """Bytes as a function of the logarithm of the error."""
            points = []
            for data in files:
                decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
                points.append((-np.log(np.square(decoded - small.rgb).mean()), len(data)))
            return np.array(sorted(points)).T

        def by_pillow(quality):
            buffer = io.BytesIO()
            Image.fromarray(small.rgb).save(buffer, suffix, quality=quality, **plain)
            return buffer.getvalue()

        qualities = range(20, 96, 5)
        ours = curve(Thumbnail(small, None).encode(format_, quality=quality) for quality in qualities)
        theirs = curve(by_pillow(quality) for quality in qualities)
        errors = np.linspace(max(ours[0][0], theirs[0][0]), min(ours[0][-1], theirs[0][-1]), 20)
        assert np.interp(errors, *ours).mean() < share * np.interp(errors, *theirs).mean()

    @settings(deadline=None, max_examples=25)
    @given(
        st.integers(1, 70),
        st.integers(1, 70),
        st.booleans(),
        st.sampled_from([{}, {"exif": picture(tagged=True).exif}, {"icc_profile": images.srgb_profile()}]),
        st.sampled_from(["4:4:4", "4:2:0"]),
    )
    def test_a_compact_avif_is_the_same_picture(self, width, height, alpha, more, subsampling):
        shown = picture(width, height, alpha=alpha).to_pil()
        written = io.BytesIO()
        shown.save(written, "AVIF", quality=60, speed=10, subsampling=subsampling, **more)
        compact = compact_avif(written.getvalue())
        assert len(compact) <= len(written.getvalue()) - (10 if "icc_profile" in more else 30)
        assert compact_avif(compact) == compact
        before, after = Image.open(written), Image.open(io.BytesIO(compact))
        assert (before.mode, before.size) == (after.mode, after.size)
        assert {key: before.info.get(key) for key in more} == {key: after.info.get(key) for key in more}
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))

    @given(st.data())
    def test_a_damaged_avif_is_not_made_compact_in_other_ways(self, data):
        written = bytearray(images.encode_picture(picture(), "avif", speed=10))
        at = data.draw(st.integers(8, len(written) - 1))
        cut = data.draw(st.integers(at, len(written)))
        written[at] = data.draw(st.integers(0, 255))
        compact = compact_avif(bytes(written[:cut]))
        assert len(compact) <= cut

    def test_lossless_webp_is_the_smallest_of_what_is_tried(self):
        small = photograph(48, 32)
        data = Thumbnail(small, None).encode("webp", lossless=True)
        assert len(data) <= len(images.encode_picture(small, "webp", quality=100, method=4, lossless=True))

    @pytest.mark.parametrize("tool", ["dwebp {0} -o {1}", "convert {0} {1}", "avifdec {0} {1}"])
    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("alpha", [False, True])
    def test_other_programs_open_it(self, tmp_path, tool, format_, alpha):
        suits = {"dwebp": ["webp"], "avifdec": ["avif"]}.get(tool.split()[0], ["png", "webp", "jpg"])
        if not installed(tool.split()[0]) or format_ not in suits or (alpha and format_ == "jpg"):
            pytest.skip("not installed, or not for this format")
        mask = np.full((3, 5), 254, np.uint8) if alpha else None
        small = Thumbnail(replace(picture(tagged=True), alpha=mask), INFO)
        source, target = tmp_path / f"a.{format_}", tmp_path / "b.png"
        for lossless in (format_ in LOSSLESS_FORMATS, False):
            if format_ == "png" and not lossless:
                continue
            small.save(source, lossless=lossless)
            done = subprocess.run(tool.format(source, target).split(), capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            opened = images.read_picture(target)
            np.testing.assert_allclose(opened.rgb.astype(int), images.read_picture(source).rgb, atol=8)


class TestBudget:
    @settings(max_examples=12, deadline=None)
    @given(st.integers(80, 3000), st.sampled_from([None, ("webp",), ("webp", "jpg")]), st.booleans())
    def test_never_more_than_allowed(self, limit, formats, alpha):
        mask = np.tile(np.linspace(0, 255, 31).astype(np.uint8), (21, 1)) if alpha else None
        small = Thumbnail(replace(photograph(31, 21), alpha=mask), replace(INFO, width=31 * 16, height=21 * 16))
        if limit < 150 or (alpha and (formats == ("webp", "jpg") or limit < 1000)):
            with pytest.raises(ThumbnailError, match=r"allow more, or|transparent"):
                small.encode_within(min(limit, 50), formats=formats)
            return
        made = small.encode_within(limit, formats=formats)
        assert len(made.data) <= limit
        back = Thumbnail.decode(made.data)
        assert back.info == small.info
        assert (made.error == 0) == (made.quality is None)
        if not alpha:
            error = np.square(back.picture.rgb.astype(float) - small.picture.rgb).mean()
            assert made.error == pytest.approx(error, rel=1e-4)

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_the_bytes_of_a_refusal_are_enough(self, data):
        """What is said to be the smallest file is one, and as many bytes are enough for it."""
        width, height, seed = (data.draw(st.integers(1, most)) for most in (24, 24, 1000))
        kind = data.draw(st.sampled_from(["flat", "noise", "photograph"]))
        small = {"noise": picture(width, height, seed), "photograph": photograph(width, height)}.get(kind)
        small = small or Picture(np.full((height, width, 3), seed % 256, np.uint8))
        thumbnail = Thumbnail(small, replace(INFO, width=width * 16, height=height * 16))
        formats = data.draw(st.sampled_from([None, ("avif",), ("webp",), ("jpg",), ("png",)]))
        with pytest.raises(ThumbnailError, match="does not fit into 30 bytes") as refused:
            thumbnail.encode_within(30, formats=formats)
        least, name = re.search(r"smallest file found takes (\d+), as (\w+)\)", str(refused.value)).groups()
        made = thumbnail.encode_within(int(least), formats=formats)
        assert len(made.data) == int(least)
        if name in LOSSY_FORMATS:
            qualities = range(1 if name == "jpg" else 0, 9)
            assert int(least) <= min(len(thumbnail.encode(name, quality=quality)) for quality in qualities)

    def test_as_good_as_trying_every_quality(self):
        small = Thumbnail(photograph(31, 21), None)
        files = {quality: small.encode("webp", quality=quality) for quality in range(101)}
        for limit in (150, 333, 600):
            errors = [
                np.square(Thumbnail.decode(data).picture.rgb.astype(float) - small.picture.rgb).mean()
                for data in files.values()
                if len(data) <= limit
            ]
            assert small.encode_within(limit, formats=["webp"]).error <= 1.05 * min(errors)

    def test_more_bytes_are_never_worse(self):
        small = Thumbnail(photograph(31, 21), None)
        errors = [small.encode_within(limit, formats=["webp"]).error for limit in (*range(150, 1500, 300), 3000)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == 0

    def test_no_larger_scale_than_needed(self):
        made: list[int] = []

        def thumbnails():
            for scale in (16, 32):
                made.append(scale)
                small = photograph(3072 // scale, 2048 // scale)
                yield Thumbnail(small, replace(INFO, scale=scale, width=3072, height=2048))

        assert encode_within(thumbnails(), bytes_for(0.02, 3072, 2048), formats=["webp"])[0].info.scale == 16
        assert made == [16]
        for limit in (400, 900):
            fits = limit == 900  # at 16x, but far from the thumbnail
            assert fits == (len(next(thumbnails()).encode("webp", quality=0)) <= limit)
            made.clear()
            chosen, file = encode_within(thumbnails(), limit, formats=["webp"])
            assert (chosen.info.scale, made) == (32, [16, 32])
            assert len(file.data) <= limit
        assert Thumbnail.decode(file.data).info == chosen.info
        with pytest.raises(ThumbnailError, match="does not fit into 50 bytes"):
            encode_within(thumbnails(), 50, formats=["webp"])
        with pytest.raises(ThumbnailError, match="at least one"):
            encode_within([], 500)

    def test_bits_per_pixel(self):
        assert bytes_for(0.02, 768, 512) == 983


class TestWithoutMetadata:
    @pytest.mark.parametrize("format_", FORMATS)
    def test_stripped(self, format_):
        assert Thumbnail.decode(images.encode_picture(picture(), format_)).info is None
        assert Thumbnail.decode(Thumbnail(picture(), None).encode(format_)).info is None

    @pytest.mark.parametrize("format_", FORMATS)
    def test_metadata_takes_at_most_48_bytes(self, format_):
        for alpha in (False, True):
            for exif in (False, True):
                small = replace(
                    picture(alpha=alpha, tagged=exif), alpha=np.full((3, 5), 9, np.uint8) if alpha else None
                )
                if alpha and format_ == "jpg":
                    continue
                with_info, without = (len(Thumbnail(small, info).encode(format_)) for info in (INFO, None))
                assert with_info - without <= (40 if format_ == "webp" else 26)

    def test_saved_again_as_jpeg(self, tmp_path):
        images.write_picture(tmp_path / "a.jpg", picture())
        thumbnail = Thumbnail.open(tmp_path / "a.jpg")
        assert thumbnail.info is None
        assert thumbnail.image.size == (5, 3)

    @pytest.mark.parametrize("packet", [xmp("<rdf:Description q:other='1'/>"), b"<a xmlns='x'/>", b"\xff not XML"])
    def test_somebody_elses_xmp(self, packet):
        assert Thumbnail.decode(webp_with(packet)).info is None

    def test_somebody_elses_text(self):
        info = PngImagePlugin.PngInfo()
        info.add_text("FaithEIRish", "{}")
        info.add_text("Comment", "FaithEIR\0{}")
        assert Thumbnail.decode(images.encode_picture(picture(), "png", pnginfo=info)).info is None

    def test_somebody_elses_comment(self):
        data = images.encode_picture(picture(), "jpg", comment="faIr weather, and a long walk")
        with pytest.warns(PictureWarning, match="restored as a picture without metadata"):
            assert Thumbnail.decode(data).info is None
        assert Thumbnail.decode(images.encode_picture(picture(), "jpg", comment="Fair weather")).info is None


class TestSavedAgain:
    """Whatever tools make of a thumbnail, it opens: with its metadata, or with none."""

    def restores(self, data: bytes) -> Thumbnail:
        back = quietly(data)
        assert back.info in (None, INFO_OF_PHOTO)
        assert (back.picture.width, back.picture.height) == (31, 21)
        np.testing.assert_allclose(back.picture.rgb.mean((0, 1)), photograph(31, 21).rgb.mean((0, 1)), atol=6)
        return back

    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("suffix", ["JPEG", "WEBP"])
    @pytest.mark.parametrize("quality", [75, 85, 95])
    def test_by_pillow(self, format_, suffix, quality):
        with Image.open(io.BytesIO(Thumbnail(photograph(31, 21), INFO_OF_PHOTO).encode(format_))) as image:
            buffer = io.BytesIO()
            image.save(buffer, suffix, quality=quality)
        back = self.restores(buffer.getvalue())
        if (format_, suffix) == ("jpg", "JPEG"):
            assert back.info == INFO_OF_PHOTO, "comments are copied"

    @pytest.mark.parametrize("command", ["cwebp -quiet {0} -o {1}", "avifenc {0} {1}", "convert {0} {1}"])
    @pytest.mark.parametrize("format_", ["png", "jpg", "webp"])
    def test_by_other_programs(self, tmp_path, command, format_):
        tool = command.split()[0]
        if not installed(tool) or (tool, format_) == ("avifenc", "webp"):
            pytest.skip("not installed, or does not read it")
        source = tmp_path / f"a.{format_}"
        target = tmp_path / {"cwebp": "b.webp", "avifenc": "b.avif", "convert": f"b.{format_}"}[tool]
        Thumbnail(photograph(31, 21), INFO_OF_PHOTO).save(source)
        subprocess.run(command.format(source, target).split(), check=True, capture_output=True)
        self.restores(target.read_bytes())

    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
    def test_at_half_the_size_and_back(self, format_, suffix):
        with Image.open(io.BytesIO(Thumbnail(photograph(31, 21), INFO_OF_PHOTO).encode(format_))) as image:
            half = image.resize((15, 10))
            buffer = io.BytesIO()
            half.save(buffer, suffix, quality=90)
        small = quietly(buffer.getvalue())
        assert (small.info, small.picture.width) == (None, 15), "another size: its metadata is not of this picture"
        buffer = io.BytesIO()
        half.resize((31, 21)).save(buffer, suffix, quality=90)
        self.restores(buffer.getvalue())


class TestRewrittenByTools:
    @pytest.mark.parametrize("kind", ["tEXt", "iTXt", "zTXt"])
    def test_other_kinds_of_text_chunk(self, kind):
        assert Thumbnail.decode(png_with(OLD_TEXT, kind=kind)).info == OLD_INFO

    def test_xmp_with_another_prefix_as_an_element(self):
        body = f"<rdf:Description><q:thumbnail>{OLD_TEXT}</q:thumbnail></rdf:Description>"
        assert Thumbnail.decode(webp_with(xmp(body))).info == OLD_INFO

    def test_format_1_in_a_pillow_image(self):
        for data in (
            png_with(OLD_TEXT),
            webp_with(xmp(f"<rdf:Description><q:thumbnail>{OLD_TEXT}</q:thumbnail></rdf:Description>")),
        ):
            with Image.open(io.BytesIO(data)) as image:
                assert Thumbnail.from_pil(image).info == OLD_INFO


class TestNotTrusted:
    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"width": 10**6}, "metadata names an original of 1000000 x 33"),
            ({"width": 81}, "81 x 33"),
            ({"height": 32}, "70 x 32"),
            ({"scale": 17}, "70 x 33, so 5 x 2 at scale 17"),
            ({"width": 2**24 + 1}, "width"),
            ({"width": 0}, "width"),
            ({"height": -33}, "height"),
            ({"height": 33.0}, "height"),
            ({"height": "33"}, "height"),
            ({"height": True}, "height"),
            ({"height": None}, "height"),
            ({"height": float("nan")}, "height"),
            ({"scale": 1}, "scale"),
            ({"scale": 257}, "scale"),
            ({"scale": [16]}, "scale"),
            ({"model": ""}, "model"),
            ({"model": 3}, "model"),
            ({"model": "a\nb"}, "model"),
            ({"model": "x" * 201}, "model"),
            ({"weights": "XYZ"}, "weights"),
            ({"weights": "0123456789abcdef\n"}, "weights"),
            ({"weights": None}, "weights"),
            ({"format_version": 0}, "format_version"),
            ({"format_version": "1"}, "format_version"),
            ({"extra": 1}, "extra"),
            ({"format_version": 2}, "format_version"),
            ({"model": None}, "model"),
        ],
    )
    def test_wrong_fields(self, changes, match):
        text = fields(**changes)
        refused(png_with(text), match)
        refused(webp_with(xmp(f"<rdf:Description><q:thumbnail>{text}</q:thumbnail></rdf:Description>")), match)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "garbage",
            "[]",
            "null",
            "16",
            "{}",
            OLD_TEXT[:-1],
            OLD_TEXT * 2,
            "[" * 4000,
            fields(width=1).replace('"width": 1', '"width": ' + "9" * 4000),
            '{"scale":16,' + OLD_TEXT[1:],
            OLD_TEXT + " " * 5000,
        ],
    )
    def test_garbage(self, text):
        refused(png_with(text))

    def test_twice(self):
        refused(png_with(OLD_TEXT, OLD_TEXT), "more than once")
        body = f"<rdf:Description><q:thumbnail>{OLD_TEXT}</q:thumbnail></rdf:Description>"
        refused(webp_with(xmp(body * 2)), "more than once")

    @pytest.mark.parametrize(
        "packet",
        [
            xmp("<rdf:Description>"),
            (f"<!DOCTYPE a [<!ENTITY c '{OLD_TEXT}'>]><a xmlns:q='urn:faitheir:' q:thumbnail='&c;'/>").encode(),
            b"urn:faitheir: \xff\xfe\x00",
            b"<?xml version='1.0' encoding='nonsense'?><a xmlns:q='urn:faitheir:'/>",
        ],
    )
    def test_broken_xmp(self, packet):
        refused(webp_with(packet), "damaged")

    def test_text_that_expands_without_end(self):
        data = b"FaithEIR\0\0" + zlib.compress(b"1" * 200_000_000, 9)
        chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
        plain = images.encode_picture(picture(), "png")
        with pytest.raises(ImageError, match="damaged"):
            Thumbnail.decode(plain[:33] + chunk + plain[33:])

    def test_a_thumbnail_cannot_contradict_itself(self):
        with pytest.raises(ThumbnailError, match="5 x 4"):
            Thumbnail(picture(5, 4), INFO)
        INFO.check(5, 3)
        with pytest.raises(ThumbnailError):
            INFO.check(3, 5)

    def test_errors_name_the_file(self, tmp_path):
        path = tmp_path / "wrong.png"
        path.write_bytes(png_with(fields(scale=0)))
        with pytest.raises(ThumbnailError, match=r"wrong\.png: the thumbnail's scale"):
            Thumbnail.open(path)
        with pytest.raises(StorageError, match=r"none\.png does not exist"):
            Thumbnail.open(tmp_path / "none.png")

    @settings(max_examples=200, deadline=None)
    @given(
        st.one_of(
            st.text(max_size=60),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                max_leaves=8,
            ).map(json.dumps),
            st.tuples(
                st.sampled_from(sorted(OLD)),
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([]),
            ).map(lambda change: fields(**{change[0]: change[1]})),
        )
    )
    def test_fuzzed_json(self, text):
        try:
            info = ThumbnailInfo.from_json(text)
        except ThumbnailError:
            return
        assert json.loads(text) | {"format_version": 1} == vars(info) | {"format_version": 1}

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(FORMATS), st.data())
    def test_damaged_or_cut_anywhere(self, format_, data):
        content = bytearray(Thumbnail(picture(tagged=True), INFO).encode(format_))
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            thumbnail = quietly(bytes(content[: data.draw(st.integers(0, len(content)))]))
        except (ImageError, ThumbnailError):
            return
        if thumbnail.info is not None:
            thumbnail.info.check(*thumbnail.image.size)

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(FORMATS), st.binary(max_size=40), st.integers(0, 13), st.integers(0, 255))
    def test_wrong_bytes_are_said_and_left_aside(self, format_, junk, at, byte):
        right = INFO.to_bytes()
        wrong = right[:at] + bytes([byte]) + right[at + 1 :]
        plain = Thumbnail(picture(), None).encode(format_)
        for payload in (junk, wrong):
            if payload == right:
                continue
            with pytest.warns(PictureWarning, match="damaged, or the picture was resized"):
                assert Thumbnail.decode(put_private(plain, payload)).info is None

    @pytest.mark.parametrize("format_", FORMATS)
    def test_copies_agree_or_count_for_nothing(self, format_):
        data = Thumbnail(picture(), INFO).encode(format_)
        assert Thumbnail.decode(put_private(data, INFO.to_bytes())).info == INFO
        assert Thumbnail.decode(put_private(data, b"damaged")).info == INFO
        with pytest.warns(PictureWarning, match="damaged"):
            assert Thumbnail.decode(put_private(data, replace(INFO, width=71).to_bytes())).info is None

    @pytest.mark.parametrize(("at", "byte"), [(1, 0), (2, 16), (3, 255), (0, 1), (0, 0)])
    def test_values_that_cannot_be(self, at, byte):
        content = bytearray(INFO.to_bytes()[:-2])
        content[at] = byte
        with pytest.raises(ThumbnailError):
            ThumbnailInfo.from_bytes(sealed(bytes(content)), (5, 3))
        with pytest.warns(PictureWarning, match="damaged"):
            assert Thumbnail.decode(put_private(png_with(), sealed(bytes(content)))).info is None

    def test_a_newer_version_is_refused(self, tmp_path):
        data = sealed(b"\x03anything at all")
        with pytest.raises(NewerVersionError, match="upgrade"):
            ThumbnailInfo.from_bytes(data, (5, 3))
        path = tmp_path / "newer.png"
        path.write_bytes(put_private(png_with(), data))
        with pytest.raises(ThumbnailError, match=r"newer\.png: .*upgrade"):
            Thumbnail.open(path)

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(FORMATS), st.data())
    def test_containers_follow_nothing_into_nowhere(self, format_, data):
        content = bytearray(Thumbnail(picture(tagged=True), INFO).encode(format_))
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        for payload in get_private(bytes(content[: data.draw(st.integers(0, len(content)))])):
            assert len(payload) < len(content)
        assert get_private(bytes(content[:3])) == []
        assert get_private(data.draw(st.binary(max_size=64))) == []


def sealed(content: bytes) -> bytes:
    """Metadata of a 5 x 3 thumbnail with a checksum that is right."""
    return content + binascii.crc_hqx(content + struct.pack(">II", 5, 3), 0xFFFF).to_bytes(2, "big")
