"""The thumbnail file: what is written comes back bit for bit; what it says of itself is checked."""

import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from faitheir import images
from faitheir.errors import ImageError, StorageError, ThumbnailError
from faitheir.images import Picture
from faitheir.thumbnail import FORMAT_VERSION, Thumbnail, ThumbnailInfo

INFO = ThumbnailInfo(scale=16, width=70, height=33, model="nano-x16", weights="0123456789abcdef")
FORMATS = ("png", "webp")

infos = st.builds(
    ThumbnailInfo,
    scale=st.integers(2, 256),
    width=st.integers(1, 2**24),
    height=st.integers(1, 2**24),
    model=st.text(min_size=1, max_size=200).filter(str.isprintable),
    weights=st.text("0123456789abcdef", min_size=8, max_size=128),
)


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
    return json.dumps(json.loads(INFO.to_json()) | changes)


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 30),
        st.integers(1, 30),
        st.integers(0, 2**32),
        st.booleans(),
        st.booleans(),
        st.sampled_from(FORMATS),
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
        back = Thumbnail.decode(Thumbnail(small, info).encode(format_))
        assert back.info == info
        np.testing.assert_array_equal(back.picture.rgb, small.rgb)
        assert (back.picture.alpha is None) == (small.alpha is None)
        if small.alpha is not None:
            np.testing.assert_array_equal(back.picture.alpha, small.alpha)
        assert (back.picture.exif, back.picture.icc_profile) == (small.exif, small.icc_profile)

    @settings(max_examples=100, deadline=None)
    @given(infos)
    def test_json(self, info):
        assert ThumbnailInfo.from_json(info.to_json()) == info
        assert info.to_json().isascii()
        assert info.format_version == FORMAT_VERSION

    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("model", ["<&>\"'", "Größe/模型", "a]]>b", "{}"])
    def test_any_model_name_survives_the_file(self, format_, model):
        info = replace(INFO, model=model)
        assert Thumbnail.decode(Thumbnail(picture(), info).encode(format_)).info == info

    @pytest.mark.parametrize("suffix", ["png", "PNG", "webp"])
    def test_save_and_open(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        Thumbnail(picture(), INFO).save(path)
        assert Thumbnail.open(path).info == INFO
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("format_", FORMATS)
    def test_any_viewer_shows_it(self, format_):
        small = picture(alpha=True)
        with Image.open(io.BytesIO(Thumbnail(small, INFO).encode(format_))) as image:
            assert image.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(image)[..., :3], small.rgb)

    def test_image_has_the_pixels(self):
        small = picture(alpha=True)
        np.testing.assert_array_equal(np.asarray(Thumbnail(small, INFO).image)[..., 3], small.alpha)

    @pytest.mark.parametrize(("format_", "limit"), [("png", 140), ("webp", 340)])
    def test_metadata_is_small(self, format_, limit):
        with_info, without = (len(Thumbnail(picture(), info).encode(format_)) for info in (INFO, None))
        assert with_info - without < limit

    @pytest.mark.parametrize("name", ["a.jpg", "a", "a.tiff"])
    def test_other_formats_are_refused(self, tmp_path, name):
        with pytest.raises(ThumbnailError, match="cannot be written"):
            Thumbnail(picture(), INFO).save(tmp_path / name)
        assert not list(tmp_path.iterdir())
        with pytest.raises(ThumbnailError, match="png or webp"):
            Thumbnail(picture(), INFO).encode("jpg")


class TestWithoutMetadata:
    @pytest.mark.parametrize("format_", FORMATS)
    def test_stripped(self, format_):
        assert Thumbnail.decode(images.encode_picture(picture(), format_)).info is None
        assert Thumbnail.decode(Thumbnail(picture(), None).encode(format_)).info is None

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


class TestRewrittenByTools:
    @pytest.mark.parametrize("kind", ["tEXt", "iTXt", "zTXt"])
    def test_other_kinds_of_text_chunk(self, kind):
        assert Thumbnail.decode(png_with(INFO.to_json(), kind=kind)).info == INFO

    def test_xmp_with_another_prefix_as_an_element(self):
        body = f"<rdf:Description><q:thumbnail>{INFO.to_json()}</q:thumbnail></rdf:Description>"
        assert Thumbnail.decode(webp_with(xmp(body))).info == INFO


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
            ({"format_version": FORMAT_VERSION + 1, "extra": 1}, "upgrade"),
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
            INFO.to_json()[:-1],
            INFO.to_json() * 2,
            "[" * 4000,
            fields(width=1).replace('"width": 1', '"width": ' + "9" * 4000),
            '{"scale":16,' + INFO.to_json()[1:],
            INFO.to_json() + " " * 5000,
        ],
    )
    def test_garbage(self, text):
        refused(png_with(text))

    def test_twice(self):
        refused(png_with(INFO.to_json(), INFO.to_json()), "more than once")
        body = f"<rdf:Description><q:thumbnail>{INFO.to_json()}</q:thumbnail></rdf:Description>"
        refused(webp_with(xmp(body * 2)), "more than once")

    @pytest.mark.parametrize(
        "packet",
        [
            xmp("<rdf:Description>"),
            (f"<!DOCTYPE a [<!ENTITY c '{INFO.to_json()}'>]><a xmlns:q='urn:faitheir:' q:thumbnail='&c;'/>").encode(),
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
                st.sampled_from(sorted(json.loads(INFO.to_json()))),
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([]),
            ).map(lambda change: fields(**{change[0]: change[1]})),
        )
    )
    def test_fuzzed_json(self, text):
        try:
            info = ThumbnailInfo.from_json(text)
        except ThumbnailError:
            return
        assert ThumbnailInfo.from_json(info.to_json()) == info

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(FORMATS), st.data())
    def test_damaged_or_cut_anywhere(self, format_, data):
        content = bytearray(Thumbnail(picture(tagged=True), INFO).encode(format_))
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            thumbnail = Thumbnail.decode(bytes(content[: data.draw(st.integers(0, len(content)))]))
        except (ImageError, ThumbnailError):
            return
        if thumbnail.info is not None:
            thumbnail.info.check(*thumbnail.image.size)
