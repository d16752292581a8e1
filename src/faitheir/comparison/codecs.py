"""Picture codecs as rivals: the best a codec does in as many bytes, and the fewest bytes in which it does as well.

Only pixels are coded: no profile, no EXIF. What is compared is what comes back from the bytes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from faitheir.errors import EvaluationError, MissingDependencyError
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

#: To be raised when a search chooses otherwise than before, so that what an older one made is made again.
SEARCH = 2

#: By what sides may be divided before a codec sees a picture, beside 1.
FACTORS = (2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Codec:
    """A codec and how it is set: ``encode`` takes uint8 (H, W, 3) and a quality, ``decode`` gives the former back.

    ``qualities``: all there are, ascending, so from the fewest bytes to the most. ``about``: library, version, options.
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


def jpeg() -> Codec:
    """JPEG with what makes its files small without another encoder: halved chroma, own Huffman tables, progressive."""
    return _pillow("jpeg", ".jpg", range(1, 101), subsampling="4:2:0", optimize=True, progressive=True)


def webp() -> Codec:
    """WebP, lossy, at its slowest and smallest."""
    return _pillow("webp", ".webp", range(101), method=6)


def avif() -> Codec:
    """AVIF through Pillow (11.3 or newer), at its default speed. Raises MissingDependencyError where it is not."""
    if ".avif" not in SUFFIXES:
        raise MissingDependencyError("The codec 'avif' needs Pillow 11.3 or newer with AVIF: pip install -U pillow.")
    return _pillow("avif", ".avif", range(101), subsampling="4:2:0", speed=6)


def jpegxl() -> Codec:
    """JPEG XL through imagecodecs; "quality" is turned into libjxl's distance by libjxl's own formula.

    Raises MissingDependencyError where imagecodecs is missing.
    """
    try:
        import imagecodecs
    except ImportError:
        raise MissingDependencyError("The codec 'jpegxl' needs imagecodecs: pip install 'faitheir[eval]'.") from None

    def encode(rgb: UInt8Array, quality: int) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(rgb, distance=jpegxl_distance(quality), effort=7))

    def decode(data: bytes) -> UInt8Array:
        return np.asarray(imagecodecs.jpegxl_decode(data), np.uint8)

    about = f"imagecodecs {imagecodecs.__version__}, {imagecodecs.jpegxl_version()}; effort 7"
    return Codec("jpegxl", ".jxl", range(100), encode, decode, about)


def jpegxl_distance(quality: int) -> float:
    """Butteraugli distance for a quality of 0 to 99: 25 to 0.19 (JxlEncoderDistanceFromQuality of libjxl)."""
    return 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25


CODECS: Mapping[str, Callable[[], Codec]] = {"jpeg": jpeg, "webp": webp, "avif": avif, "jpegxl": jpegxl}


def _pillow(name: str, suffix: str, qualities: Sequence[int], **options: object) -> Codec:
    def encode(rgb: UInt8Array, quality: int) -> bytes:
        return encode_picture(Picture(rgb), suffix[1:], quality=quality, **options)

    def decode(data: bytes) -> UInt8Array:
        file = io.BytesIO(data)
        return picture_from_pil(load_image(file, f"what {name} coded")).rgb

    chosen = ", ".join(f"{key} {value}" for key, value in options.items())
    return Codec(name, suffix, qualities, encode, decode, f"{writer_version(suffix[1:])}; {chosen}")


@dataclass
class _Trials:
    """One picture, reduced by one factor, at whatever qualities are tried: each coded once."""

    codec: Codec
    rgb: UInt8Array
    factor: int
    _coded: dict[int, bytes] = field(default_factory=dict)
    _small: UInt8Array | None = None

    def data(self, index: int) -> bytes:
        """The bytes at the codec's quality number ``index``."""
        if index not in self._coded:
            if self._small is None:
                self._small = _reduced(self.rgb, self.factor)
            self._coded[index] = self.codec.encode(self._small, self.codec.qualities[index])
        return self._coded[index]

    def coded(self, index: int) -> Coded:
        """The same, decoded and brought back to the picture's size."""
        data = self.data(index)
        return Coded(data, decode(self.codec, data, self.rgb.shape), self.codec.qualities[index], self.factor)


def encode(codec: Codec, rgb: UInt8Array, quality: int, factor: int) -> bytes:
    """A picture reduced by ``factor``, then coded."""
    return codec.encode(_reduced(rgb, factor), quality)


def _reduced(rgb: UInt8Array, factor: int) -> UInt8Array:
    height, width = rgb.shape[:2]
    return rgb if factor == 1 else resize_bicubic(rgb, (-(-width // factor), -(-height // factor)))


def decode(codec: Codec, data: bytes, shape: tuple[int, ...]) -> UInt8Array:
    """What bytes give, at the size (H, W[, 3]) of the picture that they stand for: enlarged where it was reduced."""
    height, width = shape[:2]
    rgb = codec.decode(data)
    return rgb if rgb.shape[:2] == (height, width) else resize_bicubic(rgb, (width, height))


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of 0 to count - 1 for which ``holds``, by bisection as if it held from there on; count if for none."""
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
    # A higher quality is a few bytes smaller now and then: its neighbours are looked at, too.
    best = max((i for i in range(max(best, 0), min(best + 4, count)) if len(trials.data(i)) <= budget), default=-1)
    return trials.coded(best) if best >= 0 else None


def encode_within(
    codec: Codec, rgb: UInt8Array, budget: int, *, reduce: Literal["where needed", "freely"] = "where needed"
) -> Coded:
    """The largest quality whose file has at most ``budget`` bytes.

    Where even the lowest has more, the picture is reduced before it is coded, by that one of ``FACTORS`` which gives
    the highest PSNR in those bytes; with ``reduce`` "freely" it is so wherever that gives a higher PSNR than the whole
    picture does. Raises EvaluationError where nothing fits.
    """
    whole = _within(codec, rgb, budget, 1)
    if whole is not None and reduce == "where needed":
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
    known: dict[int, bool] = {}

    def holds(index: int) -> bool:
        if index not in known:
            known[index] = reached(trials.coded(index).restored)
        return known[index]

    last = len(trials.codec.qualities) - 1
    if not holds(last):
        return None
    found = _first(last, holds)
    probes = [index for step in range(1, 8) if (index := found - 2**step) >= 0]
    if any(holds(index) for index in probes):
        found = min((i for i in range(found + 1) if holds(i)), key=lambda index: len(trials.data(index)))
    return trials.coded(found)
