"""Codecs matched to bytes or to a value: against a search through every quality that there is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faitheir.comparison import codecs
from faitheir.comparison.codecs import (
    CODECS,
    FACTORS,
    Codec,
    decode,
    encode,
    encode_reaching,
    encode_within,
    jpegxl_distance,
)
from faitheir.errors import EvaluationError, MissingDependencyError
from faitheir.evaluation.metrics import psnr
from faitheir.images import UInt8Array, read_picture

COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"


@pytest.fixture(scope="module")
def rgb() -> UInt8Array:
    """A photograph, small: 150 x 100."""
    return np.asarray(Image.fromarray(read_picture(COFFEE).rgb).resize((150, 100), Image.Resampling.LANCZOS))


def codec_of(name: str) -> Codec:
    if name == "jpegxl":
        pytest.importorskip("imagecodecs")
    return CODECS[name]()


def sparse(codec: Codec, step: int) -> Codec:
    """Every ``step``-th quality only, so that all of them can be tried in a test."""
    return Codec(codec.name, codec.suffix, codec.qualities[::step], codec.encode, codec.decode, codec.about)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_codes(name: str, rgb: UInt8Array) -> None:
    codec = codec_of(name)
    sizes, values = [], []
    for quality in (codec.qualities[0], codec.qualities[-1]):
        data = codec.encode(rgb, quality)
        back = codec.decode(data)
        assert back.shape == rgb.shape
        assert back.dtype == np.uint8
        sizes.append(len(data))
        values.append(psnr(rgb, back))
    assert sizes[0] < sizes[1] / 3
    assert values[0] < 30 < 36 < values[1]
    assert any(digit.isdigit() for digit in codec.about)


@pytest.mark.parametrize(("name", "magic"), [("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF"), ("avif", b"ftypavif")])
def test_files_are_what_they_say(name: str, magic: bytes, rgb: UInt8Array) -> None:
    codec = codec_of(name)
    assert magic in codec.encode(rgb, 50)[:16]


def test_jpegxl_is_jpegxl_and_its_distance_falls(rgb: UInt8Array) -> None:
    data = codec_of("jpegxl").encode(rgb, 50)
    assert data[:2] == b"\xff\x0a" or data[4:8] == b"JXL "
    distances = [jpegxl_distance(quality) for quality in range(100)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == 25
    assert distances[90] == pytest.approx(1.0)
    assert distances[30] == pytest.approx(6.4)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
@pytest.mark.parametrize("budget", [900, 1500, 4000])
def test_the_largest_quality_within_the_bytes(name: str, budget: int, rgb: UInt8Array) -> None:
    codec = sparse(codec_of(name), 3)
    fitting = [quality for quality in codec.qualities if len(codec.encode(rgb, quality)) <= budget]
    assert fitting
    coded = encode_within(codec, rgb, budget)
    assert (coded.quality, coded.factor) == (fitting[-1], 1)
    assert coded.data == codec.encode(rgb, fitting[-1])
    assert (coded.restored == codec.decode(coded.data)).all()


def test_bytes_that_no_quality_reaches(rgb: UInt8Array) -> None:
    """The picture is reduced first, by the factor that keeps most."""
    codec = sparse(codec_of("jpeg"), 4)
    budget = int(len(codec.encode(rgb, codec.qualities[0])) * 0.85)
    coded = encode_within(codec, rgb, budget)
    assert coded.factor in FACTORS
    assert len(coded.data) <= budget
    assert coded.restored.shape == rgb.shape
    best = psnr(rgb, coded.restored)
    for factor in FACTORS:
        size = (-(-150 // factor), -(-100 // factor))
        small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        sizes = [(len(data := codec.encode(small, quality)), data) for quality in codec.qualities]
        fitting = [data for size_, data in sizes if size_ <= budget]
        if fitting:
            large = Image.fromarray(codec.decode(fitting[-1])).resize((150, 100), Image.Resampling.BICUBIC)
            assert psnr(rgb, np.asarray(large)) <= best + 1e-9
    with pytest.raises(EvaluationError, match="cannot go so low: 10 bytes"):
        encode_within(codec, rgb, 10)


def test_reduced_freely_is_never_worse(rgb: UInt8Array) -> None:
    codec = sparse(codec_of("jpeg"), 4)
    budget = len(codec.encode(rgb, codec.qualities[0])) + 20
    plain, free = (encode_within(codec, rgb, budget, freely=freely) for freely in (False, True))
    assert plain.factor == 1
    assert free.factor > 1
    assert len(free.data) <= budget
    assert psnr(rgb, free.restored) > psnr(rgb, plain.restored) + 0.5


@pytest.mark.parametrize("name", ["jpeg", "webp"])
@pytest.mark.parametrize("value", [18.0, 26.0, 34.0])
def test_the_fewest_bytes_that_reach_a_value(name: str, value: float, rgb: UInt8Array) -> None:
    """Against every quality of the whole picture and of every reduced one."""
    codec = sparse(codec_of(name), 5)
    sizes = {}
    for factor in (1, *FACTORS):
        for quality in codec.qualities:
            data = encode(codec, rgb, quality, factor)
            if psnr(rgb, decode(codec, data, rgb.shape)) >= value:
                sizes[quality, factor] = len(data)
    coded = encode_reaching(codec, rgb, lambda back: psnr(rgb, back) >= value)
    assert len(coded.data) == min(sizes.values()) == sizes[coded.quality, coded.factor]
    assert psnr(rgb, coded.restored) >= value
    assert (coded.factor > 1) == (value < 20)


def test_a_value_out_of_reach(rgb: UInt8Array) -> None:
    with pytest.raises(EvaluationError, match="does not reach"):
        encode_reaching(codec_of("jpeg"), rgb, lambda back: psnr(rgb, back) >= 99)


def test_a_metric_that_is_not_monotone(rgb: UInt8Array) -> None:
    """A codec that is good at one low quality by chance: bisection alone would not see it."""

    def odd_encode(picture: UInt8Array, quality: int) -> bytes:  # noqa: ARG001
        return bytes([quality]) * (quality + 1)

    def odd_decode(data: bytes) -> UInt8Array:
        return np.where(data[0] >= 60 or data[0] == 56, rgb, 255 - rgb)

    codec = Codec("odd", ".odd", range(100), odd_encode, odd_decode, "for this test")
    coded = encode_reaching(codec, rgb, lambda back: bool((back == rgb).all()))
    assert (coded.quality, len(coded.data)) == (56, 57)


def test_codecs_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "SUFFIXES", frozenset({".jpg"}))
    with pytest.raises(MissingDependencyError, match="Pillow"):
        CODECS["avif"]()
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(MissingDependencyError, match="imagecodecs"):
        CODECS["jpegxl"]()
