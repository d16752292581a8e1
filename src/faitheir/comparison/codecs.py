"""Picture codecs as rivals: the best quality at equal bytes, and the fewest bytes at equal quality.

Only pixels are coded: no profile, no EXIF. What is compared is the picture decoded from the bytes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from faitheir.containers import compact_avif
from faitheir.errors import EvaluationError, MissingDependencyError, needs
from faitheir.evaluation.metrics import psnr
from faitheir.images import (
    SUFFIXES,
    Picture,
    UInt8Array,
    encode_picture,
    load_image,
    picture_from_pil,
    resize_bicubic,
    writer_version,
)

#: Version of the searches. Raise it when one chooses differently, so that files of an older one are made again.
SEARCH = 3

#: Factors other than 1 by which the sides may be divided before coding.
FACTORS = (2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Codec:
    """A codec and its options: ``encode`` takes uint8 (H, W, 3) and a quality, ``decode`` returns such a picture.

    ``qualities``: all of them, ascending, so from the fewest bytes to the most. ``about``: library, version, options.
    """

    name: str
    suffix: str
    qualities: Sequence[int]
    encode: Callable[[UInt8Array, int], bytes]
    decode: Callable[[bytes], UInt8Array]
    about: str


@dataclass(frozen=True, eq=False)
class Coded:
    """A picture coded: the bytes, the picture that they give, and what was chosen.

    ``factor``: by what the sides were divided before coding (bicubic, and enlarged bicubically after); 1 is not at all.
    """

    data: bytes
    restored: UInt8Array
    quality: int
    factor: int


def jpegxl() -> Codec:
    """JPEG XL through imagecodecs; "quality" is turned into libjxl's distance by libjxl's own formula.

    Raises MissingDependencyError where imagecodecs is missing.
    """
    with needs("The codec 'jpegxl' needs imagecodecs: pip install 'faitheir[eval]'."):
        import imagecodecs

    def encode(rgb: UInt8Array, quality: int) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(rgb, distance=jpegxl_distance(quality), effort=7))

    def decode(data: bytes) -> UInt8Array:
        return np.asarray(imagecodecs.jpegxl_decode(data), np.uint8)

    about = f"imagecodecs {imagecodecs.__version__}, {imagecodecs.jpegxl_version()}; effort 7"
    return Codec("jpegxl", ".jxl", range(100), encode, decode, about)


def jpegxl_distance(quality: int) -> float:
    """Butteraugli distance for a quality of 0 to 99: 25 to 0.19 (JxlEncoderDistanceFromQuality of libjxl)."""
    return 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _pillow(name: str, suffix: str, qualities: Sequence[int], **options: object) -> Codec:
    """A codec of Pillow's. Raises MissingDependencyError where this Pillow is without it."""
    if suffix not in SUFFIXES:
        raise MissingDependencyError(f"The codec '{name}' needs Pillow with {name.upper()}: pip install -U pillow.")

    def encode(rgb: UInt8Array, quality: int) -> bytes:
        data = encode_picture(Picture(rgb), suffix[1:], quality=quality, **options)
        return compact_avif(data) if name == "avif" else data

    def decode(data: bytes) -> UInt8Array:
        return picture_from_pil(load_image(io.BytesIO(data), f"what {name} coded")).rgb

    chosen = ", ".join(f"{key} {value}" for key, value in options.items())
    return Codec(name, suffix, qualities, encode, decode, f"{writer_version(suffix[1:])}; {chosen}")


#: By name. JPEG and WebP are as small as Pillow's encoders make them, AVIF is at its default speed, and without the
#: bytes that thumbnails are without.
CODECS: Mapping[str, Callable[[], Codec]] = {
    "jpeg": partial(_pillow, "jpeg", ".jpg", range(1, 101), subsampling="4:2:0", optimize=True, progressive=True),
    "webp": partial(_pillow, "webp", ".webp", range(101), method=6),
    "avif": partial(_pillow, "avif", ".avif", range(101), subsampling="4:2:0", speed=6),
    "jpegxl": jpegxl,
}


class _Trials:
    """One picture, reduced by one factor, at whatever qualities are tried: each coded once."""

    def __init__(self, codec: Codec, rgb: UInt8Array, factor: int) -> None:
        #: The bytes at the codec's quality number ``index``.
        self.data = cache(lambda index: encode(codec, rgb, codec.qualities[index], factor))
        self.codec, self._rgb, self._factor = codec, rgb, factor

    def coded(self, index: int) -> Coded:
        """The same, decoded and brought back to the picture's size."""
        data = self.data(index)
        return Coded(data, decode(self.codec, data, self._rgb.shape), self.codec.qualities[index], self._factor)


def encode(codec: Codec, rgb: UInt8Array, quality: int, factor: int) -> bytes:
    """A picture reduced by ``factor``, then coded."""
    height, width = rgb.shape[:2]
    small = rgb if factor == 1 else resize_bicubic(rgb, (-(-width // factor), -(-height // factor)))
    return codec.encode(small, quality)


def decode(codec: Codec, data: bytes, shape: tuple[int, ...]) -> UInt8Array:
    """The picture that bytes hold, enlarged to the size (H, W[, 3]) of the original where it was reduced."""
    height, width = shape[:2]
    rgb = codec.decode(data)
    return rgb if rgb.shape[:2] == (height, width) else resize_bicubic(rgb, (width, height))


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of 0 to count - 1 for which ``holds``, by bisection as if it held from there on; count if none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _within(codec: Codec, rgb: UInt8Array, budget: int, factor: int) -> Coded | None:
    """The largest quality whose file has at most ``budget`` bytes."""
    trials = _Trials(codec, rgb, factor)
    count = len(codec.qualities)
    best = _first(count, lambda i: len(trials.data(i)) > budget) - 1
    # Now and then a higher quality is a few bytes smaller: its neighbours are tried, too.
    best = max((i for i in range(max(best, 0), min(best + 4, count)) if len(trials.data(i)) <= budget), default=-1)
    return trials.coded(best) if best >= 0 else None


def encode_within(codec: Codec, rgb: UInt8Array, budget: int, *, freely: bool = False) -> Coded:
    """The largest quality whose file has at most ``budget`` bytes.

    Where even the lowest has more, the picture is reduced before it is coded, by that one of ``FACTORS`` which gives
    the highest PSNR in those bytes; with ``freely`` also wherever that gives a higher PSNR than the whole picture
    does. Raises EvaluationError where nothing fits.
    """
    whole = _within(codec, rgb, budget, 1)
    if whole is not None and not freely:
        return whole
    tried = [whole, *(_within(codec, rgb, budget, factor) for factor in FACTORS)]
    fitting = [coded for coded in tried if coded is not None]
    if not fitting:
        raise EvaluationError(
            f"{codec.name} cannot go so low: {budget:,} bytes, even with sides divided by {FACTORS[-1]}."
        )
    return max(fitting, key=lambda coded: psnr(rgb, coded.restored))


def encode_reaching(codec: Codec, rgb: UInt8Array, reached: Callable[[UInt8Array], bool]) -> Coded:
    """The fewest bytes of which the picture that comes back is good enough, as ``reached`` says.

    Whole and reduced by each of ``FACTORS`` before it is coded, as long as the highest quality is then good enough. The
    lowest quality that is good enough is found by bisection; where a lower one that is probed is so too, all of them
    are tried. Raises EvaluationError where the highest quality of the whole picture is not good enough.
    """
    best: Coded | None = None
    for factor in (1, *FACTORS):
        coded = _fewest_bytes(_Trials(codec, rgb, factor), reached)
        if coded is None:
            break
        if best is None or len(coded.data) < len(best.data):
            best = coded
    if best is None:
        raise EvaluationError(f"{codec.name} does not reach the value at its highest quality, {codec.qualities[-1]}.")
    return best


def _fewest_bytes(trials: _Trials, reached: Callable[[UInt8Array], bool]) -> Coded | None:
    holds = cache(lambda index: reached(trials.coded(index).restored))
    last = len(trials.codec.qualities) - 1
    if not holds(last):
        return None
    found = _first(last, holds)
    probes = [index for step in range(1, 8) if (index := found - 2**step) >= 0]
    if any(holds(index) for index in probes):
        found = min((i for i in range(found + 1) if holds(i)), key=lambda index: len(trials.data(index)))
    return trials.coded(found)
