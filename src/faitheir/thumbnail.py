"""The thumbnail file: an ordinary PNG, WebP, AVIF or JPEG, and 14 bytes of metadata in it that viewers skip.

The metadata, format 2, is what restoring needs and the pixels do not say. Byte by byte, numbers big-endian:

====== ===== ==========================================================================================
Offset Bytes
====== ===== ==========================================================================================
0      1     Version of the format: 2.
1      1     Scale minus 1: the thumbnail is so many times smaller per side (2..256).
2      1     Columns cut: the photograph's width is that of the thumbnail times the scale, minus these.
3      1     Rows cut, likewise. Both are less than the scale.
4      8     Hash of the weights that made it, as ``models.weights_hash`` gives it (16 hexadecimal digits).
12     2     CRC-16 (polynomial 0x1021, initial value 0xFFFF, not reflected: "CRC-16/IBM-3740") of the bytes
             before it and of the thumbnail's width and height in pixels, 4 bytes each.
====== ===== ==========================================================================================

Later versions end in the same two bytes. Where they lie in each kind of file is told in ``containers``: they add 22
bytes to an AVIF, 22 to a JPEG, 26 to a PNG, and 40 to a WebP (22 if it has alpha or EXIF). The size is part of the CRC,
not of the bytes, so that metadata which a tool copied while it resized, turned or cropped is known not to fit.

Nothing trusts it. What is damaged, contradicts itself or does not fit is said (PictureWarning) and left aside, as if it
were not there: the picture is then the thumbnail's size times the scale. What a newer version wrote is refused. Format
1, a line of JSON, is still read: see ``legacy``.
"""

import binascii
import bisect
import io
import json
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from PIL import Image

from faitheir import containers, images, legacy
from faitheir.errors import ImageError, ThumbnailError
from faitheir.images import DEFAULT_MAX_PIXELS, Picture, PictureWarning
from faitheir.storage import PathLike, open_file, write_atomic

FORMAT_VERSION = 2
ThumbnailFormat = Literal["png", "webp", "avif", "jpg"]

#: Formats that can hold the pixels as they are, and formats that can hold nearly them in fewer bytes.
LOSSLESS_FORMATS: tuple[ThumbnailFormat, ...] = ("png", "webp")
LOSSY_FORMATS: tuple[ThumbnailFormat, ...] = ("webp", "avif", "jpg")

DEFAULT_FORMAT: ThumbnailFormat = "avif"
#: Of lossy files, where nothing is said of it. PNG is the one format that is lossless then.
DEFAULT_QUALITY: dict[ThumbnailFormat, int] = {"webp": 90, "avif": 60, "jpg": 85}

#: Above this mean squared error of its levels (27 dB) a thumbnail restores worse than a better one of the next scale:
#: in LPIPS, 16x against 32x in as many bytes, on five photographs of 481 x 321 at 170 to 420 bytes.
MOST_ERROR = 130.0

_MAX_JSON = 4096
_MAX_SIDE = 2**24
_REMEDY = "make the thumbnail again, or remove its metadata and say the scale and model yourself."

_LAYOUT = ">BBBB8s"
_BYTES = 14

#: So many of the lowest qualities are tried where the smallest file is asked for.
_LOWEST = 8
#: WebP's longest side.
_MAX_WEBP = 16383
#: What is tried for lossless WebP, method and effort: none is the smallest at every size.
#: (6, 100) is hardly ever smaller, and takes 4 s for 192 x 128 pixels where all of these together take 0.3 s.
_WEBP_EFFORTS = ((1, 100), (3, 100), (4, 0), (4, 100), (6, 0))
#: Quantisation at quality 50, for brightness and colour alike: square roots of 30 times the standard's for brightness.
#: A second table would take 65 bytes, and the standard's, made for large pictures, a fifth more for the same error.
# fmt: off
_JPEG_TABLE = (
    22, 18, 17, 22, 27, 35, 39, 43, 19, 19, 20, 24, 28, 42, 42, 41,
    20, 20, 22, 27, 35, 41, 45, 41, 20, 23, 26, 29, 39, 51, 49, 43,
    23, 26, 33, 41, 45, 57, 56, 48, 27, 32, 41, 44, 49, 56, 58, 53,
    38, 44, 48, 51, 56, 60, 60, 55, 46, 53, 53, 54, 58, 55, 56, 54,
)
# fmt: on


@dataclass(frozen=True)
class ThumbnailInfo:
    """What a thumbnail file says about its making; ThumbnailError for values that cannot be."""

    scale: int
    """Thumbnails are this many times smaller per side, 2..256."""
    width: int
    """Of the original, in pixels."""
    height: int
    weights: str
    """Hash of the weights: 16 hexadecimal digits."""
    model: str | None = None
    """The model's name, at most 100 characters; only files of format 1 tell it."""

    def __post_init__(self) -> None:
        _check_int("scale", self.scale, 2, 256)
        _check_int("width", self.width, 1, _MAX_SIDE)
        _check_int("height", self.height, 1, _MAX_SIDE)
        if not (isinstance(self.weights, str) and re.fullmatch("[0-9a-f]{16}", self.weights)):
            raise ThumbnailError(f"the thumbnail's weights must be a hash of 16 hexadecimal digits; {_REMEDY}")
        if self.model is not None and not (
            isinstance(self.model, str) and 0 < len(self.model) <= 100 and self.model.isprintable()
        ):
            raise ThumbnailError(f"the thumbnail's model must be a name of 1 to 100 characters; {_REMEDY}")

    @property
    def thumbnail_size(self) -> tuple[int, int]:
        """Width and height of the thumbnail of this original: the last pixels may reach beyond it."""
        return -(-self.width // self.scale), -(-self.height // self.scale)

    def to_bytes(self) -> bytes:
        """The 14 bytes of the module's description."""
        cut = (-self.width % self.scale, -self.height % self.scale)
        content = struct.pack(_LAYOUT, FORMAT_VERSION, self.scale - 1, *cut, bytes.fromhex(self.weights))
        return content + _crc(content, self.thumbnail_size)

    @classmethod
    def from_bytes(cls, data: bytes, thumbnail_size: tuple[int, int]) -> "ThumbnailInfo":
        """The inverse of `to_bytes`, for a thumbnail of that width and height; ThumbnailError if it is anything else.

        A newer version's bytes raise `NewerVersionError`.
        """
        if data[-2:] != _crc(data[:-2], thumbnail_size):
            raise ThumbnailError(f"the thumbnail's metadata is damaged or not of this picture; {_REMEDY}")
        if data[0] > FORMAT_VERSION:
            raise NewerVersionError("the thumbnail was made by a newer FaithEIR; upgrade this one to restore it.")
        if data[0] != FORMAT_VERSION or len(data) != _BYTES:
            raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}")
        _, scale, columns, rows, weights = struct.unpack_from(_LAYOUT, data)
        scale += 1
        width, height = thumbnail_size[0] * scale - columns, thumbnail_size[1] * scale - rows
        info = cls(scale, width, height, weights.hex())
        info.check(*thumbnail_size)
        return info

    @classmethod
    def from_json(cls, text: str) -> "ThumbnailInfo":
        """That of format 1; ThumbnailError if a key is missing, unknown, repeated or out of range."""
        if len(text) > _MAX_JSON:
            raise ThumbnailError(f"the thumbnail's metadata is too long; {_REMEDY}")
        try:
            values = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}") from error
        if not isinstance(values, dict):
            raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}")
        expected = {field.name for field in fields(cls)} | {"format_version"}
        if values.keys() != expected:
            wrong = ", ".join(sorted(repr(key)[:40] for key in values.keys() ^ expected))
            raise ThumbnailError(f"the thumbnail's metadata has missing or unknown keys ({wrong}); {_REMEDY}")
        _check_int("format_version", values.pop("format_version"), 1, 1)
        if values["model"] is None:
            raise ThumbnailError(f"the thumbnail's model must be a name of 1 to 100 characters; {_REMEDY}")
        return cls(**values)

    def check(self, width: int, height: int) -> None:
        """ThumbnailError unless a thumbnail of width x height pixels is what this original gives."""
        expected = self.thumbnail_size
        if (width, height) != expected:
            raise ThumbnailError(
                f"the thumbnail is {width} x {height} pixels, but its metadata names an original of "
                f"{self.width} x {self.height}, so {expected[0]} x {expected[1]} at scale {self.scale}; "
                "use the thumbnail as it was written, or remove its metadata."
            )


class NewerVersionError(ThumbnailError):
    """A thumbnail's metadata is of a format that this version does not know."""


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture and how it was made; ThumbnailError if the two contradict each other."""

    picture: Picture
    info: ThumbnailInfo | None
    """None if the file carries no metadata of ours."""

    def __post_init__(self) -> None:
        if self.info is not None:
            self.info.check(self.picture.width, self.picture.height)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the original, None where the thumbnail does not say."""
        return None if self.info is None else (self.info.width, self.info.height)

    @property
    def exif_bytes(self) -> int:
        """How many bytes of the file the EXIF takes, 0 without."""
        return len(self.picture.exif or b"")

    @property
    def image(self) -> Image.Image:
        """The thumbnail's pixels as a Pillow image, RGB or RGBA, which `from_pil` takes back with its metadata.

        Saved by Pillow, only JPEG and GIF keep the metadata; `save` keeps it in every format.
        """
        image = self.picture.to_pil()
        if self.info is not None:
            image.info["comment"] = containers.NAME + self.info.to_bytes()
        return image

    @classmethod
    def from_pil(cls, image: Image.Image) -> "Thumbnail":
        """The thumbnail in a Pillow image: one that `image` gave, or that was opened from a thumbnail file.

        Pillow does not show the metadata of WebP and AVIF: it is read from the file that the image was opened from, if
        that has a name. ThumbnailError if the metadata is wrong.
        """
        picture = images.picture_from_pil(image)
        comment = image.info.get("comment", b"")
        found = [bytes(chunk[1]) for chunk in getattr(image, "private_chunks", ()) if chunk[0] == containers.NAME]
        if isinstance(comment, bytes) and comment.startswith(containers.NAME):
            found.append(comment[len(containers.NAME) :])
        source = getattr(image, "filename", "")
        if source and image.format in ("WEBP", "AVIF") and Path(os.fsdecode(source)).is_file():
            found += containers.get_private(Path(os.fsdecode(source)).read_bytes())
        return cls(picture, _info(picture, found, image, None))

    def encode(
        self,
        format: ThumbnailFormat = DEFAULT_FORMAT,  # noqa: A002
        *,
        quality: int | None = None,
        lossless: bool | None = None,
    ) -> bytes:
        """The bytes of a file that `decode` reads.

        `quality`: 0..100 (1..100 for JPEG), by default `DEFAULT_QUALITY`. PNG is lossless, and so is WebP where
        `lossless` is true. Lossless files give back the same pixels and alpha, though WebP forgets alpha that is opaque
        everywhere; all give back EXIF and `info`. No colour profile is stored: viewers assume sRGB, which it is (a PNG
        says so if the original did).
        Raises ThumbnailError for what a format cannot do, ImageError where the picture is too large for it.
        """
        data = _encode_pixels(self.picture, format, stored_quality(format, quality, lossless))
        return data if self.info is None else containers.put_private(data, self.info.to_bytes())

    def encode_within(self, limit: int, *, formats: Sequence[ThumbnailFormat] | None = None) -> "Encoded":
        """The best file of at most `limit` bytes, all that is in it included.

        The best is the one whose pixels, decoded, have the least squared error, of any of the `formats` (all by
        default) at any quality, lossless among them. Raises ThumbnailError where none is small enough, or a format of
        `formats` cannot hold it.
        """
        best: Encoded | None = None
        least: Encoded | None = None
        for format_, lossless in self._choices(formats):
            if best is not None and best.error == 0 and not lossless:
                break
            for encoded in self._around(limit, format_, lossless):
                if least is None or len(encoded.data) < len(least.data):
                    least = encoded
                if len(encoded.data) <= limit and (best is None or encoded.rank < best.rank):
                    best = encoded
        if best is None:
            width, height = self.picture.width, self.picture.height
            found = "" if least is None else f" (the smallest file found takes {len(least.data)}, as {least.format})"
            raise ThumbnailError(
                f"the thumbnail of {width} x {height} pixels does not fit into {limit} bytes{found}; allow more, or "
                "use a model of a larger scale."
            )
        return best

    def _choices(self, formats: Sequence[ThumbnailFormat] | None) -> Iterator[tuple[ThumbnailFormat, bool]]:
        """Format and whether lossless, of what can be written, lossless ones first."""
        chosen = get_args(ThumbnailFormat) if formats is None else formats
        yield from ((format_, True) for format_ in chosen if format_ in LOSSLESS_FORMATS)
        for format_ in chosen:
            written = f".{format_}" in images.SUFFIXES and (format_ != "jpg" or self.picture.alpha is None)
            if format_ in LOSSY_FORMATS and (written or formats is not None):
                yield format_, False

    def _around(self, limit: int, format_: ThumbnailFormat, lossless: bool) -> "Iterator[Encoded]":
        """Files of one format about as large as `limit`; the smallest there is if none is small enough."""
        if lossless:
            yield Encoded(self.encode(format_, lossless=True), format_, None, 0.0)
            return
        made: dict[int, bytes] = {}

        def size(quality: int) -> int:
            if quality not in made:
                made[quality] = self.encode(format_, quality=quality)
            return len(made[quality])

        qualities = _qualities(format_)
        # Bytes seldom fall where quality rises, and by little where they do: a look around what bisection finds.
        found = bisect.bisect_right(qualities, limit, key=size)
        # Where it finds none, the lowest few: of JPEG, 4 or 5 is sometimes a byte smaller than 1.
        for quality in qualities[found - 2 : found + 2] if found > 2 else {*qualities[:_LOWEST], *made}:
            fits = size(quality) <= limit
            yield Encoded(made[quality], format_, quality, _error(self.picture, made[quality]) if fits else np.inf)

    def save(self, path: PathLike, *, quality: int | None = None, lossless: bool | None = None) -> None:
        """Write the file, in the format that its suffix names, whole or not at all; see `encode`."""
        format_ = thumbnail_format(path)
        write_atomic(path, self.encode(format_, quality=quality, lossless=lossless))

    @classmethod
    def open(cls, path: PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> "Thumbnail":
        """The thumbnail in a file; any picture will do, `info` is None where it has no metadata of ours.

        ImageError if it is no readable picture or has more than `max_pixels`, ThumbnailError if its metadata is of a
        newer version, or of format 1 and wrong; both name the file. Warns (PictureWarning) of metadata that is damaged
        or of another picture, which is left aside.
        """
        with open_file(path) as file:
            return cls._read(file, os.fspath(path), max_pixels)

    @classmethod
    def decode(
        cls,
        data: bytes,
        *,
        name: str = "the thumbnail file",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        pixels_per_byte: float | None = None,
    ) -> "Thumbnail":
        """Like `open`, from a file's bytes; `name` is what errors call it, the limits are those of `load_image`."""
        return cls._read(io.BytesIO(data), name, max_pixels, pixels_per_byte)

    @classmethod
    def _read(cls, file: BinaryIO, name: str, max_pixels: int, pixels_per_byte: float | None = None) -> "Thumbnail":
        image = images.load_image(file, name, max_pixels=max_pixels, pixels_per_byte=pixels_per_byte)
        try:
            picture = images.picture_from_pil(image)
            file.seek(0)
            return cls(picture, _info(picture, containers.get_private(file.read()), image, file))
        except (ThumbnailError, ImageError) as error:
            raise type(error)(f"{name}: {error}") from error


@dataclass(frozen=True, eq=False)
class Encoded:
    """A thumbnail file that was made to fit."""

    data: bytes
    format: ThumbnailFormat
    quality: int | None
    """None if it is lossless."""
    error: float
    """Mean squared error of its 8-bit levels (of colours, and alpha where there is any) against the thumbnail's."""

    @property
    def rank(self) -> tuple[float, int]:
        """What is better is less: the error, then the bytes."""
        return self.error, len(self.data)


def encode_within(
    thumbnails: Iterable[Thumbnail], limit: int, *, formats: Sequence[ThumbnailFormat] | None = None
) -> tuple[Thumbnail, Encoded]:
    """The first of several thumbnails of one photograph that fits well into `limit` bytes, and its best file.

    Give them from the smallest scale to the largest: the smallest keeps the most, as long as its error is at most
    `MOST_ERROR`. Where none is that good, the last that fits. They are taken one by one, so a generator makes no more
    than needed. Raises ThumbnailError where none fits, or there are none.
    """
    refused: ThumbnailError | None = None
    found: tuple[Thumbnail, Encoded] | None = None
    for thumbnail in thumbnails:
        try:
            found = thumbnail, thumbnail.encode_within(limit, formats=formats)
        except ThumbnailError as error:
            refused = error
        else:
            if found[1].error <= MOST_ERROR:
                break
    if found is not None:
        return found
    raise refused or ThumbnailError("there is no thumbnail to encode; give at least one.")


def bytes_for(bits_per_pixel: float, width: int, height: int) -> int:
    """How many bytes a photograph of that size may take at so many bits for each of its pixels."""
    return int(bits_per_pixel * width * height / 8)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ThumbnailError(f"the thumbnail's {name} must be a whole number from {low} to {high}; {_REMEDY}")


def _crc(content: bytes, size: tuple[int, int]) -> bytes:
    return binascii.crc_hqx(content + struct.pack(">II", *size), 0xFFFF).to_bytes(2, "big")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values


def _info(
    picture: Picture, payloads: Sequence[bytes], image: Image.Image, file: BinaryIO | None
) -> ThumbnailInfo | None:
    """What the metadata in a file says, of either format; see `Thumbnail.open` for what it raises and warns of."""
    found: set[ThumbnailInfo] = set()
    for payload in payloads:
        try:
            found.add(ThumbnailInfo.from_bytes(payload, (picture.width, picture.height)))
        except NewerVersionError:
            raise
        except ThumbnailError:
            continue
    if len(found) == 1:
        return found.pop()
    if payloads:
        warnings.warn(
            "the thumbnail's metadata is damaged, or the picture was resized, turned or cropped since it was made; it "
            "is restored as a picture without metadata.",
            PictureWarning,
            stacklevel=4,
        )
        return None
    try:
        texts = legacy.json_texts(image, file)
    except ValueError as error:
        raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}") from error
    if len(texts) > 1:
        raise ThumbnailError(f"the thumbnail's metadata is there more than once; {_REMEDY}")
    return ThumbnailInfo.from_json(texts[0]) if texts else None


def thumbnail_format(path: PathLike) -> ThumbnailFormat:
    """The format that a file's suffix names; ThumbnailError where thumbnails are not written in it."""
    suffix = Path(path).suffix[1:].lower()
    format_: ThumbnailFormat
    for format_ in get_args(ThumbnailFormat):
        if suffix == format_ or (suffix, format_) == ("jpeg", "jpg"):
            return format_
    known = ", .".join(get_args(ThumbnailFormat))
    raise ThumbnailError(f"{path} cannot be written: end a thumbnail's name in one of .{known}.")


def stored_quality(format_: str, quality: int | None, lossless: bool | None) -> int | None:
    """The quality that `Thumbnail.encode` encodes at, None for lossless; ThumbnailError as it raises."""
    if format_ not in get_args(ThumbnailFormat):
        known = ", ".join(get_args(ThumbnailFormat))
        raise ThumbnailError(f"a thumbnail cannot be written as {format_!r}; use one of {known}.")
    if lossless and quality is not None:
        raise ThumbnailError("a lossless thumbnail has no quality; leave one of the two out.")
    if lossless is None:
        lossless = quality is None and format_ not in LOSSY_FORMATS
    if lossless and format_ not in LOSSLESS_FORMATS:
        raise ThumbnailError(f"a thumbnail cannot be stored in {format_} without loss; use png or webp.")
    if lossless:
        return None
    if format_ not in LOSSY_FORMATS:
        raise ThumbnailError(f"a thumbnail in {format_} is always lossless; use webp, avif or jpg for a lossy one.")
    if quality is not None and not _qualities(format_)[0] <= quality <= 100:
        raise ThumbnailError(f"quality must be from {_qualities(format_)[0]} to 100 for {format_}, not {quality}.")
    return DEFAULT_QUALITY[format_] if quality is None else quality


def _qualities(format_: str) -> range:
    return range(1 if format_ == "jpg" else 0, 101)


def _encode_pixels(picture: Picture, format_: ThumbnailFormat, quality: int | None) -> bytes:
    """A file without metadata of ours, by options chosen for pictures of 20 to 300 pixels a side: see docs."""
    if format_ == "png":
        return images.encode_picture(picture, "png", optimize=True)
    picture = replace(picture, icc_profile=None)
    if format_ == "jpg":
        if picture.alpha is not None:
            raise ThumbnailError("a transparent thumbnail cannot be stored as jpg; use webp, avif or png.")
        options: dict[str, Any] = {"qtables": [_JPEG_TABLE], "subsampling": "4:2:0", "optimize": True}
        return containers.compact_jpeg(images.encode_picture(picture, "jpg", quality=quality, **options))
    if format_ == "avif":
        options = {"subsampling": "4:4:4", "speed": 4, "codec": "aom", "advanced": {"tune": "psnr"}}
        return containers.compact_avif(images.encode_picture(picture, "avif", quality=quality, **options))
    if quality is None:
        files = (
            images.encode_picture(picture, "webp", quality=effort, method=method, lossless=True, exact=True)
            for method, effort in _WEBP_EFFORTS
        )
        return min(files, key=len)
    return _lossy_webp(picture, quality)


def _lossy_webp(picture: Picture, quality: int) -> bytes:
    """One segment, at the slowest method. Pillow always lets libwebp make four, which cost small pictures 5 to 17 %."""
    encode = _one_segment()
    if encode is None or picture.alpha is not None or max(picture.rgb.shape) > _MAX_WEBP:
        return images.encode_picture(picture, "webp", quality=quality, method=6, exact=True)
    data = encode(picture.rgb, quality)
    exif = picture.exif
    return data if exif is None else containers.extend_webp(data, {b"EXIF": exif.removeprefix(b"Exif\0\0")})


def _one_segment() -> Callable[[images.UInt8Array, int], bytes] | None:
    """The encoder of the package webp, which takes libwebp's options; None where it is not installed."""
    try:
        import webp
    except ImportError:
        return None

    def encode(rgb: images.UInt8Array, quality: int) -> bytes:
        config = webp.WebPConfig.new(quality=quality, method=6)
        config.ptr.segments = 1
        return bytes(webp.WebPPicture.from_numpy(np.ascontiguousarray(rgb), pilmode="RGB").encode(config).buffer())

    return encode


def _error(picture: Picture, data: bytes) -> float:
    """Mean squared error of a file's levels against the picture's."""
    decoded = images.picture_from_pil(images.load_image(io.BytesIO(data), "the thumbnail"))
    errors = [np.square(decoded.rgb.astype(np.float32) - picture.rgb)]
    if picture.alpha is not None:
        alpha = np.full(picture.alpha.shape, 255) if decoded.alpha is None else decoded.alpha
        errors.append(np.square(alpha.astype(np.float32) - picture.alpha))
    return float(np.concatenate([part.ravel() for part in errors]).mean())
