"""Picture files and arrays: decoding, orientation, colour profile, alpha, bit depth, padding, atomic writing.

Everything else in the package sees a `Picture`: upright, sRGB, eight bits.
"""

import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    ExifTags,
    Image,
    ImageCms,
    ImageFile,
    Jpeg2KImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    features,
)

from faitheir import containers, native
from faitheir.errors import ImageError, MissingDependencyError, needs, why
from faitheir.storage import PathLike, open_file, write_atomic

UInt8Array = NDArray[np.uint8]

#: The most pixels that a picture of one's own may have.
DEFAULT_MAX_PIXELS = 400_000_000
#: The most pixels of a picture from elsewhere, for services and bulk work: decoding takes about 8 bytes for each.
UNTRUSTED_MAX_PIXELS = 64_000_000
#: The most pixels per stored byte of a picture from elsewhere. The flattest JPEG has 340, a photograph less than 100.
UNTRUSTED_PIXELS_PER_BYTE = 1000
#: What any file may decode to, however small it is: flat pictures are small files.
_ALWAYS_ALLOWED_PIXELS = 4_000_000

#: How far outside 0..1 a floating-point pixel may lie to be clipped: sharpening and resampling overshoot by as much.
_OVERSHOOT = 0.1
_ROUNDING = 0.5 / 255
#: Bytes that decoding takes at most for each pixel that a limit on pixels allows, besides the picture: pixels of what
#: takes more count more.
_MEMORY = 5.0
#: Pixels converted at a time, so that no intermediate picture is ever whole.
_STRIP = 1 << 18

_AVIF = "avif" in features.modules and bool(features.check("avif"))  # Pillow 11.3 and later

# Pillow's readers for photographs only: it also has some that run other programs (EPS) or guess (TGA).
_READERS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "GIF", "JPEG2000", "PPM")
_WRITERS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
} | ({"avif": "AVIF"} if _AVIF else {})

SUFFIXES = frozenset(
    {f".{name}" for name in _WRITERS} | {".gif", ".jp2", ".j2k", ".jfif", ".jpe", ".pbm", ".pgm", ".ppm", ".pnm"}
)

# IFD0 tags about the photograph; in a TIFF, others there describe the layout of the file.
_EXIF_KEPT = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Rating,
        ExifTags.Base.RatingPercent,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPTitle,
        ExifTags.Base.XPComment,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords,
        ExifTags.Base.XPSubject,
    }
)
# Stale once the pixels are turned, converted or resized; the maker note is also large and breaks when moved.
_EXIF_STALE = frozenset(
    {
        ExifTags.Base.MakerNote,
        ExifTags.Base.ColorSpace,
        ExifTags.Base.ExifImageWidth,
        ExifTags.Base.ExifImageHeight,
        ExifTags.IFD.Interop,
    }
)
_JPEG_EXIF_LIMIT = 65533

#: What of a photograph's EXIF goes along: "safe" is what neither tells where it was taken nor by which specimen of a
#: camera, "all" what ``Picture.exif`` holds.
ExifMode = Literal["safe", "all", "none"]

# What "safe" lets through, and nothing else: date, camera, lens, exposure, author and copyright. Not among them are
# position, time zone, serial numbers, the owner's name, unique ids, free texts and whatever is not known here.
_EXIF_SAFE = frozenset(
    {
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.DateTimeOriginal,
        ExifTags.Base.DateTimeDigitized,
        ExifTags.Base.SubsecTime,
        ExifTags.Base.SubsecTimeOriginal,
        ExifTags.Base.SubsecTimeDigitized,
        ExifTags.Base.ExposureTime,
        ExifTags.Base.FNumber,
        ExifTags.Base.ExposureProgram,
        ExifTags.Base.ISOSpeedRatings,
        ExifTags.Base.SensitivityType,
        ExifTags.Base.ShutterSpeedValue,
        ExifTags.Base.ApertureValue,
        ExifTags.Base.BrightnessValue,
        ExifTags.Base.ExposureBiasValue,
        ExifTags.Base.MaxApertureValue,
        ExifTags.Base.MeteringMode,
        ExifTags.Base.LightSource,
        ExifTags.Base.Flash,
        ExifTags.Base.FocalLength,
        ExifTags.Base.FocalLengthIn35mmFilm,
        ExifTags.Base.ExposureMode,
        ExifTags.Base.WhiteBalance,
        ExifTags.Base.DigitalZoomRatio,
        ExifTags.Base.SceneCaptureType,
        ExifTags.Base.LensSpecification,
        ExifTags.Base.LensMake,
        ExifTags.Base.LensModel,
    }
)


class PictureWarning(UserWarning):
    """Something in a picture file was left aside or changed; the text says what."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright sRGB picture of at least 1 x 1 pixels; ImageError if the arrays do not fit that."""

    rgb: UInt8Array
    """(H, W, 3)."""
    alpha: UInt8Array | None = None
    """(H, W), 255 is opaque; not premultiplied."""
    exif: bytes | None = None
    """Without orientation (applied), preview picture and maker note."""
    icc_profile: bytes | None = None
    """An sRGB profile if the source declared its colours, else None."""

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.size == 0:
            raise ImageError(f"a picture must be uint8 (H, W, 3), not {self.rgb.dtype} {self.rgb.shape}")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != self.rgb.shape[:2]):
            raise ImageError(f"alpha must be uint8 {self.rgb.shape[:2]}, not {self.alpha.dtype} {self.alpha.shape}")

    @property
    def width(self) -> int:
        """Pixels per row."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.rgb.shape[0])

    def to_pil(self) -> Image.Image:
        """The picture as a Pillow image, RGB or RGBA, with `exif` and `icc_profile` in its `info`.

        Its `save` writes the EXIF, which Pillow's own does only where it is told to; `save(path, exif=b"")` leaves it
        out. What Pillow derives from it (`resize`, `convert`) is an image of Pillow's: `save(path,
        exif=image.info["exif"])`.
        """
        image = Image.fromarray(self.rgb)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        image.info = {key: value for key, value in (("exif", self.exif), ("icc_profile", self.icc_profile)) if value}
        image.__class__ = _SavedWithExif
        return image


class _SavedWithExif(Image.Image):
    """See `Picture.to_pil`."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
        exif = self.info.get("exif", b"")
        # Pillow refuses EXIF beyond what a JPEG holds, and in compressed TIFFs.
        if exif and len(exif) <= _JPEG_EXIF_LIMIT and "compression" not in params:
            params.setdefault("exif", exif)
        super().save(fp, format, **params)


def is_picture_path(path: PathLike) -> bool:
    """Whether the file name ends like a picture that `read_picture` reads."""
    return Path(path).suffix.lower() in SUFFIXES


def load_image(
    file: BinaryIO,
    name: str,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    pixels_per_byte: float | None = None,
    frame: int | None = None,
    enough: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Image.Image:
    """One frame as Pillow decodes it, for `picture_from_pil` while `file` is still open.

    The size is checked from the header before pixels are allocated: against ``max_pixels`` (pixels of kinds that take
    more memory count more), and against ``pixels_per_byte`` times the file's length where that is given or it is a JPEG
    (see `UNTRUSTED_PIXELS_PER_BYTE`). ``name`` is what errors call the file. ``frame`` counts from 0; without it the
    first is taken, with a PictureWarning where there are more. ``enough`` maps its (width, height) to one that would
    do: a JPEG is decoded at 1/2, 1/4 or 1/8 if that is not below it.
    """
    with _translated(name) as about:
        image = _open(file, name, frame or 0, max_pixels, pixels_per_byte)
        about.size = image.size
        if frame is None and _frames(image, at_most=2) > 1:
            _warn("several frames or pages are in this file, and only the first is read; --all-frames writes each")
        if enough is not None:
            image.draft(None, enough(image.size))
        image.load()
    return image


def read_picture(
    path: PathLike,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    pixels_per_byte: float | None = None,
    frame: int | None = None,
) -> Picture:
    """The picture in a file; ImageError, naming the file, if there is none or it is damaged or too large.

    See `load_image` for the limits and ``frame``.
    """
    with open_file(path) as file:
        return decode_picture(file, str(path), max_pixels=max_pixels, pixels_per_byte=pixels_per_byte, frame=frame)


def decode_picture(
    file: BinaryIO,
    name: str,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    pixels_per_byte: float | None = None,
    frame: int | None = None,
    enough: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Picture:
    """The picture in an open file, as `read_picture`; `name` is what errors call it, `enough` as for `load_image`."""
    image = load_image(file, name, max_pixels=max_pixels, pixels_per_byte=pixels_per_byte, frame=frame, enough=enough)
    try:
        return picture_from_pil(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def picture_size(path: PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Width and height of the upright picture in a file, from its header; ImageError as for `read_picture`."""
    with open_file(path) as file, _translated(str(path)):
        image = _open(file, str(path), max_pixels=max_pixels)
        width, height = image.size
        # Pillow turns a TIFF by itself, and gives its upright size.
        turned = image.format != "TIFF" or isinstance(image, _DeepTiff)
        return (height, width) if turned and _read_exif(image)[0] >= 5 else (width, height)


def frame_count(path: PathLike) -> int:
    """How many frames or pages are in a picture file, at least 1; ImageError as for `read_picture`.

    The further pictures of a JPEG (previews, depth, gain maps: MPO) are no frames of it.
    """
    with open_file(path) as file, _translated(str(path)):
        return _frames(_open(file, str(path)))


def picture_from_pil(image: Image.Image) -> Picture:
    """The picture in a Pillow image of any mode, with its orientation, profile and transparency applied.

    Modes of more than 8 bits are grey: `I` and `I;16*` span 0..65535, `F` spans 0..1, never anything else.
    ImageError for values outside these; a PictureWarning where floats a little outside are clipped, or where what the
    file says of its colours is left aside. Pillow itself cuts 16-bit colour files down to their high bytes.
    """
    if 0 in image.size:
        raise ImageError("the picture has no pixels.")
    with _translated(getattr(image, "filename", "")) as about:
        about.size = image.size
        image.load()
        return _upright_srgb(image)


def picture_from_array(array: NDArray[Any]) -> Picture:
    """The picture in an array (H, W) or (H, W, C): grey, grey + alpha, RGB or RGBA.

    uint8, bool, uint16 (rounded to 8 bits) or floating point from 0 to 1, where a tenth beyond is clipped with a
    PictureWarning. ImageError for anything else, NaN included.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or array.size == 0:
        raise ImageError(f"a picture array must be (H, W) or (H, W, 1 to 4), channels last, not {array.shape}.")
    height, width, channels = array.shape
    with _translated("the array") as about:
        about.size = (width, height)
        rgb = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if channels in (2, 4) else None
        levels = _Levels()
        for rows in _strips(width, height):
            strip = levels(array[rows])
            rgb[rows] = strip[..., :3] if channels >= 3 else strip[..., :1]
            if alpha is not None:
                alpha[rows] = strip[..., -1]
        levels.report()
    return Picture(rgb, alpha)


def fill_transparent(picture: Picture, cell: int) -> Picture:
    """The picture with colours that its alpha hides replaced, for an encoder that averages cells of cell x cell pixels.

    The mean colour of every cell becomes its alpha-weighted mean, as if it were averaged premultiplied: what is fully
    transparent gets the colour around it (black where nothing is visible), and bleeds into nothing. Pixels of the
    highest alpha in their cell keep their values, so an opaque picture is returned as it is. Alpha stays.
    """
    alpha = picture.alpha
    if alpha is None or alpha.min() == 255:
        return picture
    rows, columns = -(-picture.height // cell), -(-picture.width // cell)
    means, weights = np.zeros((rows, columns, 3)), np.zeros((rows, columns))
    bands = [slice(row * cell, min((row + 1) * cell, picture.height)) for row in range(rows)]
    starts = np.arange(columns) * cell
    for row, band in enumerate(bands):
        weight = alpha[band].astype(np.float32)
        sums = np.add.reduceat((picture.rgb[band] * weight[..., None]).sum(0, dtype=np.float64), starts, axis=0)
        weights[row] = np.add.reduceat(weight.sum(0, dtype=np.float64), starts)
        means[row] = sums / np.maximum(weights[row], 1)[:, None]
    means = _spread(means, weights)
    rgb = picture.rgb.copy()
    for row, band in enumerate(bands):
        a = alpha[band]
        peak = np.maximum.reduceat(a.max(0), starts).repeat(cell)[: picture.width]
        hidden = a < peak
        hidden |= peak == 0
        share = a[hidden] / np.maximum(peak, 1)[np.nonzero(hidden)[1]]
        around = means[row].repeat(cell, axis=0)[np.nonzero(hidden)[1]]
        band_rgb = rgb[band]
        band_rgb[hidden] = np.rint(around + share[:, None] * (band_rgb[hidden] - around)).astype(np.uint8)
    return replace(picture, rgb=rgb)


def encode_picture(picture: Picture, format: str, *, quality: int | None = None, **options: Any) -> bytes:  # noqa: A002
    """The picture as the bytes of a file.

    `format` is a file suffix without its dot. `quality` is for JPEG (1..100), AVIF (0..100) and WebP (0..100), see
    `written_quality` for their defaults; other formats are always lossless. `options` go to Pillow's writer. JPEG and
    BMP hold no alpha: the picture is laid on white; BMP holds neither EXIF nor profile.
    """
    writer = _WRITERS.get(format.lower())
    if writer is None:
        raise ImageError(f"pictures cannot be written as {format!r}; use one of {', '.join(_WRITERS)}.")
    lowest = 0 if writer in ("WEBP", "AVIF") else 1
    if quality is not None and not lowest <= quality <= 100:
        raise ImageError(f"quality must be from {lowest} to 100, not {quality}.")
    settings = _writer_settings(picture, writer, written_quality(format, quality)) | options
    if writer == "PNG" and picture.icc_profile is not None:
        settings.setdefault("pnginfo", PngImagePlugin.PngInfo()).add(b"sRGB", b"\x01")  # one byte, not a profile
    buffer = io.BytesIO()
    size = f"{picture.width} x {picture.height}"
    try:
        image = picture.to_pil()
        image.info = {}
        if picture.alpha is not None and writer in ("JPEG", "BMP"):
            image = Image.new("RGB", image.size, "white")
            image.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
        image.save(buffer, writer, **settings)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or _short_of_memory(picture.width, picture.height):
            text = f"not enough memory to write a picture of {size} pixels; close other programs."
            raise ImageError(text) from error
        raise ImageError(f"a picture of {size} cannot be written as {writer} ({why(error)}); use PNG.") from error
    return buffer.getvalue()


def written_quality(format: str, quality: int | None) -> int | None:  # noqa: A002
    """The quality that `encode_picture` writes a format at; None for lossless."""
    return {"JPEG": 95, "AVIF": 90}.get(_WRITERS[format.lower()]) if quality is None else quality


def writer_version(format: str) -> str:  # noqa: A002
    """Which libraries write a format, such as "Pillow 12.0.0, libwebp 1.6.0"."""
    writer = _WRITERS[format.lower()]
    library, feature = {"JPEG": ("libjpeg-turbo", "libjpeg_turbo"), "WEBP": ("libwebp", "webp")}.get(
        writer, (f"lib{writer.lower()}", writer.lower())
    )
    version = features.version(feature)
    return f"Pillow {PIL.__version__}" + (f", {library} {version}" if version else "")


def write_picture(path: PathLike, picture: Picture, *, quality: int | None = None) -> None:
    """Write the picture in the format its suffix names, whole or not at all; see `encode_picture`."""
    path = Path(path)
    suffix = path.suffix[1:].lower()
    if suffix not in _WRITERS:
        raise ImageError(f"{path} cannot be written: end its name in one of .{', .'.join(_WRITERS)}.")
    write_atomic(path, encode_picture(picture, suffix, quality=quality))


def pad_to_multiple(array: NDArray[Any], multiple: int) -> NDArray[Any]:
    """(H, W[, C]) with right and bottom edges repeated up to a multiple; the array itself if it fits."""
    bottom, right = (-size % multiple for size in array.shape[:2])
    if bottom == right == 0:
        return array
    return np.pad(array, [(0, bottom), (0, right)] + [(0, 0)] * (array.ndim - 2), mode="edge")


def resize_bicubic(rgb: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """(H, W, 3) resized to `size` (width, height) by Pillow's bicubic, anti-aliased when shrinking."""
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def bicubic_thumbnail(rgb: UInt8Array, scale: int) -> UInt8Array:
    """The reference thumbnail, (ceil(H / scale), ceil(W / scale), 3): pads to a multiple, then resizes."""
    padded = pad_to_multiple(rgb, scale)
    return resize_bicubic(padded, (padded.shape[1] // scale, padded.shape[0] // scale))


def resize_alpha(alpha: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """(H, W) resized to `size` (width, height), as the colours are."""
    return np.array(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))


@cache
def srgb_profile() -> bytes:
    """The bytes of the ICC profile every tagged picture carries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # date of creation: the same picture gives the same file
    return bytes(profile)


@dataclass
class _About:
    """What is known of a picture while it is decoded."""

    size: tuple[int, int] | None = None


@contextmanager
def _translated(name: str) -> Iterator[_About]:
    """Whatever goes wrong in decoding as an ImageError: damaged files make Pillow's readers raise nearly anything."""
    about, subject = _About(), name or "it"
    try:
        yield about
    except (ImageError, MissingDependencyError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{subject} is too large ({why(error)}); reduce it first.") from error
    except Exception as error:
        if isinstance(error, MemoryError) or (about.size and _short_of_memory(*about.size)):
            size = "it" if about.size is None else "{} x {} pixels".format(*about.size)
            text = f"not enough memory for {size}; close other programs or reduce it first."
            raise ImageError(f"{name}: {text}" if name else text) from error
        cause = f" ({why(error)})" if str(error) else ""
        raise ImageError(f"{subject} is damaged or cut short{cause}; use another copy.") from error


def _short_of_memory(width: int, height: int) -> bool:
    """Whether there is no room for the pixels: readers in C call that a broken file."""
    try:
        np.empty(4 * width * height, np.uint8)
    except MemoryError:
        return True
    return False


def _warn(text: str) -> None:
    warnings.warn(text, PictureWarning, stacklevel=3)


def _open(
    file: BinaryIO,
    name: str,
    frame: int = 0,
    max_pixels: int | None = None,
    pixels_per_byte: float | None = None,
) -> Image.Image:
    """The image in a file at a frame, its header read, its size checked where there is a limit, and no pixels."""
    Image.init()
    prefix = file.read(21)
    # Image.open would apply Pillow's process-wide pixel limit, which belongs to the host program.
    for reader in _READERS:
        factory, accept = Image.OPEN.get(reader, (None, None))
        if factory is not None and accept is not None and accept(prefix[:16]) is True:
            break
    else:
        raise ImageError(f"{name} is not a picture of a kind read here; convert it to PNG or JPEG.")
    image: Image.Image | None = None
    file.seek(0)
    if reader == "TIFF":
        if not logging.getLogger("faitheir").isEnabledFor(logging.DEBUG):
            native.quiet_libtiff()
        image = _deep_tiff(file, name, frame)
        file.seek(0)
    if reader == "WEBP" and native.webp_decoder():
        factory = _Webp
    elif reader == "AVIF" and native.avif_decoder():
        factory = _Avif
    elif reader == "JPEG2000" and native.jpeg2000_decoder():
        factory = _Jpeg2000
    cicp = _cicp(file) if reader == "PNG" else None
    image = image or factory(file, "")
    if isinstance(image, _Jpeg2000):
        image.name = name
    if cicp is not None:
        image.info["cicp"] = cicp
    if reader == "JPEG":  # a whole one has no more, whoever it is from
        pixels_per_byte = min(pixels_per_byte or UNTRUSTED_PIXELS_PER_BYTE, UNTRUSTED_PIXELS_PER_BYTE)
    memory = image.memory if isinstance(image, _Direct) else _PILLOW_MEMORY.get(reader, 0.0)
    weight = max(1.0, memory / _MEMORY)
    if max_pixels is not None:  # before the frame is looked for: to get there, Pillow decodes those before it
        _check_size(image.size, name, file, max_pixels, pixels_per_byte, weight)
    if frame and not isinstance(image, _DeepTiff):
        if not 0 <= frame < _frames(image):
            raise ImageError(f"{name} has no frame {frame}; its frames are 0 to {_frames(image) - 1}.")
        image.seek(frame)
        if max_pixels is not None:  # pages have sizes of their own
            _check_size(image.size, name, file, max_pixels, pixels_per_byte, weight)
    return image


def _check_size(
    size: tuple[int, int],
    name: str,
    file: BinaryIO,
    max_pixels: int,
    pixels_per_byte: float | None = None,
    weight: float = 1.0,
) -> None:
    width, height = size
    if not (isinstance(width, int) and isinstance(height, int)):  # a TIFF may store fractions
        raise ValueError("its size is no whole number")
    if width * height * weight > max_pixels:
        counted = f", which count {weight:g} times for the memory that their kind takes" if weight > 1 else ""
        raise ImageError(
            f"{name} says it is {width} x {height} pixels{counted}, above the limit of {max_pixels} pixels; "
            "reduce it or raise the limit."
        )
    if pixels_per_byte is not None and width * height > _ALWAYS_ALLOWED_PIXELS:
        position = file.tell()
        length = file.seek(0, io.SEEK_END)
        file.seek(position)
        if width * height > pixels_per_byte * length:
            raise ImageError(
                f"{name} says it is {width} x {height} pixels, too many for its {length} bytes: it is damaged, or must "
                "be saved in a format or quality that takes more."
            )


def _frames(image: Image.Image, at_most: int | None = None) -> int:
    """Frames or pages of a file, counted no further than the second where that is enough."""
    if image.format == "MPO":
        return 1
    if at_most is not None:
        return at_most if getattr(image, "is_animated", False) else 1
    return int(getattr(image, "n_frames", 1))


def _cicp(file: BinaryIO) -> bytes | None:
    """The four bytes of a PNG's cICP chunk, which Pillow leaves aside."""
    start, found = file.tell(), None
    file.seek(8, io.SEEK_CUR)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        if head[4:] == b"cICP" and head[:4] == b"\0\0\0\4":
            found = file.read(4)
            break
        file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
    file.seek(start)
    return found if found and len(found) == 4 else None


class _Direct(ImageFile.ImageFile):
    """A picture whose decoder in C is called at once, without the copies that Pillow's reader makes."""

    memory = 0.0
    """Bytes per pixel that decoding takes above the picture, where they are more than `_MEMORY`."""

    def _become(self, pixels: UInt8Array) -> Any:
        """Be the image of pixels (H, W, C) from now on."""
        mode = self.mode
        image = Image.frombuffer(mode, self.size, pixels, "raw", mode, 0, 1)
        image.info = self.info
        self.__class__, self.__dict__ = image.__class__, image.__dict__  # type: ignore[assignment]  # as Pillow's stubs
        return image.load()

    def _room(self) -> UInt8Array:
        return np.zeros((self.height, self.width, len(self.mode)), np.uint8)


class _Webp(_Direct):
    """A WebP, animated or not: Pillow's reader is that of animations, and holds four copies."""

    format = "WEBP"
    _frame = 0

    def _open(self) -> None:
        assert self.fp is not None
        self.data = self.fp.read()
        self.chunks = list(containers.webp_chunks(self.data))
        width, height, alpha = containers.webp_size(*self.chunks[0])
        self._size, self._mode = (width, height), "RGBA" if alpha else "RGB"
        flags = self.chunks[0][1][0] if self.chunks[0][0] == b"VP8X" else 0
        self.n_frames = sum(name == b"ANMF" for name, _ in self.chunks) if flags & 2 else 1
        self.is_animated = self.n_frames > 1
        for flag, name, key in _WEBP_METADATA:
            if flags & flag and name in (found := dict(reversed(self.chunks))):
                self.info[key] = bytes(found[name])

    def seek(self, frame: int) -> None:
        """Have `load` give this frame."""
        self._frame = frame

    def load(self, *_: Any) -> Any:
        """Decode with libwebp, and become the image."""
        decode, pixels = native.webp_decoder(), self._room()
        assert decode is not None
        frames = containers.webp_frames(self.chunks)[: self._frame + 1]
        if not frames:
            decode(self.data, pixels)
        begun = False
        for number in range(self._first_needed(frames), len(frames)):
            frame = frames[number]
            if frame is None:
                raise OSError(f"its frame {number} is not whole")
            into = pixels[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
            if into.shape[:2] != (frame.height, frame.width):
                raise OSError(f"its frame {number} is larger than the picture")
            if begun and frame.blends and self.mode == "RGBA":
                self._lay(frame.still(), into)
            else:
                decode(frame.still(), into)
            if frame.clears and number < self._frame:
                into[:] = 0
            begun = True
        return self._become(pixels)

    def _first_needed(self, frames: Sequence[containers.WebpFrame | None]) -> int:
        """The last frame that shows nothing of those before it."""
        whole = [frame is not None and (frame.width, frame.height) == self.size for frame in frames]
        for number in range(len(frames) - 1, 0, -1):
            frame, before = frames[number], frames[number - 1]
            replaces = frame is not None and whole[number] and not (frame.blends and self.mode == "RGBA")
            if replaces or (before is not None and whole[number - 1] and before.clears):
                return number
        return 0

    @staticmethod
    def _lay(data: bytes, into: UInt8Array) -> None:
        """Lay a frame on the pixels before it, in strips: libwebp decodes all rows above a strip once more."""
        decode, height = native.webp_decoder(), len(into)
        assert decode is not None
        step = 2 * -(-height // (2 * _LAID_STRIPS))

        def lay(top: int) -> None:
            # With rows that chroma is interpolated from above and below.
            first, last = max(0, top - 2), min(top + step + 2, height)
            strip = np.empty((last - first, *into.shape[1:]), np.uint8)
            decode(data, strip, first)
            below, above = (Image.fromarray(x) for x in (into[top : top + step], strip[top - first :][:step]))
            into[top : top + step] = np.asarray(Image.alpha_composite(below, above))

        for top in range(0, height, step):
            lay(top)


class _Avif(_Direct, AvifImagePlugin.AvifImageFile):
    """An AVIF: Pillow's reader holds its planes and two copies beside them."""

    def _open(self) -> None:
        assert self.fp is not None
        self.data = self.fp.read()
        self.fp.seek(0)
        super()._open()
        colours, alpha = list(containers.avif_colours(self.data)), self.mode == "RGBA"
        if any(deep and (full or alpha) for deep, full in colours):
            self.memory = 10.0
        elif alpha and any(full for _, full in colours):
            self.memory = 6.0

    def load(self, *_: Any) -> Any:
        """Decode with libavif, and become the image; grey, which takes little, as Pillow does."""
        if self.mode not in ("RGB", "RGBA"):
            return super().load()
        decode, pixels = native.avif_decoder(), self._room()
        assert decode is not None
        decode(self.data, self.tell(), pixels)
        return self._become(pixels)


class _Jpeg2000(_Direct, Jpeg2KImagePlugin.Jpeg2KImageFile):
    """A JPEG 2000: Pillow's reader holds 32 bits for each channel of a tile, and gives 0 for the 255 of 16 bits."""

    name = "it"

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        start = self.fp.tell()
        self.fp.seek(0)
        self.data = self.fp.read()
        self.fp.seek(start)
        self.header = containers.read_jpeg2000(self.data)
        if self._plain is None:
            self.memory = _PILLOW_MEMORY["JPEG2000"]

    @property
    def _plain(self) -> containers.Jpeg2000 | None:
        """The header of one that is decoded here."""
        header, known = self.header, self.mode in ("L", "LA", "RGB", "RGBA", "CMYK")
        return header if header is not None and known and header.is_plain(*self.size, len(self.mode)) else None

    def load(self, *_: Any) -> Any:
        """Decode with OpenJPEG in strips, and become the image; what is not plain, as Pillow does."""
        if not self.tile:
            return super().load()
        plain = self._plain
        if plain is not None:
            decode = native.jpeg2000_decoder()
            assert decode is not None
            one = plain.tile[0] >= self.width and plain.tile[1] >= self.height
            if decode(self.data, self.mode, one, pixels := self._room(), _rgb_of_ycc):
                return self._become(pixels)
        if plain is not None or (self.header is not None and self.header.deep):
            text = "a JPEG 2000 of these colours, or of this kind with more than 8 bits, is not supported"
            raise ImageError(f"{self.name}: {text}; convert it to sRGB in 8 bits.")
        return super().load()


def _rgb_of_ycc(strip: UInt8Array) -> UInt8Array:
    return np.asarray(Image.frombuffer("YCbCr", strip.shape[1::-1], strip, "raw", "YCbCr", 0, 1).convert("RGB"))


#: Bytes per pixel that Pillow's readers take above the picture, where they are the ones to read it.
_PILLOW_MEMORY = {"WEBP": 12.0, "AVIF": 12.0, "JPEG2000": 16.0}
#: Strips in which a frame is laid on another: 1 byte per pixel for all that is held of one.
_LAID_STRIPS = 8
#: A flag of VP8X, the chunk that it announces, and what Pillow calls it.
_WEBP_METADATA = ((0x20, b"ICCP", "icc_profile"), (0x08, b"EXIF", "exif"), (0x04, b"XMP ", "xmp"))


def _grey_bits(image: Image.Image) -> int:
    """Bits of a deep grey pixel; Pillow leaves 12-bit TIFFs at 0..4095."""
    tags = getattr(image, "tag_v2", {})
    return 12 if image.mode.startswith("I;16") and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 16


def _deep_tiff(file: BinaryIO, name: str, frame: int) -> "_DeepTiff | None":
    """The image at a page of a TIFF that Pillow reads wrongly or not at all, for tifffile to decode; else None."""
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" or head[3:4] == b"+" else b""
    page = TiffImagePlugin.ImageFileDirectory_v2(head)
    seen: list[int] = []
    while page.next and page.next not in seen and len(seen) <= frame:
        seen.append(page.next)
        file.seek(page.next)
        page.load(file)
    if len(seen) <= frame:
        return None  # Pillow says what is wrong
    bits = page.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    samples, planes = len(bits), page.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1)
    kind = max(page.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    photometric = page.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1)
    if kind == 1 and max(bits) <= 8:
        return None
    wide = samples > 1 and (planes == 2 or samples == 2)
    if not wide and photometric != 0 and ((kind == 1 and max(bits) <= 16) or (kind == 3 and bits == (32,))):
        return None
    words = {1: "whole", 2: "signed whole", 3: "floating-point"}.get(kind, "complex or unknown")
    if kind not in (1, 3) or len(set(bits)) > 1 or (kind == 1 and bits[0] != 16) or photometric not in (0, 1, 2, 5):
        raise ImageError(
            f"{name}: a TIFF of {bits[0]}-bit {words} numbers is not supported; convert it to 8 or 16 bits."
        )
    file.seek(0)
    return _DeepTiff(file, page, frame, name)


class _DeepTiff(_Direct):
    """A page of a TIFF that tifffile decodes: floating point in colour or of 16 and 64 bits, 16 bits in planes."""

    format = "TIFF"

    def __init__(self, file: BinaryIO, page: TiffImagePlugin.ImageFileDirectory_v2, frame: int, name: str) -> None:
        self.page, self.frame, self.name = page, frame, name
        super().__init__(file, "")

    def _open(self) -> None:
        tags = TiffImagePlugin
        samples = len(self.page.get(tags.BITSPERSAMPLE, (1,)))
        self.photometric = self.page.get(tags.PHOTOMETRIC_INTERPRETATION, 1)
        colours = {2: 3, 5: 4}.get(self.photometric, 1)
        if samples < colours:
            raise ValueError("fewer channels than its colours need")
        extra = self.page.get(tags.EXTRASAMPLES, (0,))[0] if samples > colours else 0
        # 1 is premultiplied alpha, 2 is not; other channels are no part of the picture.
        alpha = {1: "a", 2: "A"}.get(extra, "") if colours < 4 else ""
        self._mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours] + alpha
        self._size = (self.page[tags.IMAGEWIDTH], self.page[tags.IMAGELENGTH])
        exif = Image.Exif()
        for tag in (_EXIF_KEPT | {ExifTags.Base.Orientation}) & {*self.page}:
            exif[tag] = self.page[tag]
        self.info["exif"] = exif.tobytes()
        if tags.ICCPROFILE in self.page:
            self.info["icc_profile"] = self.page[tags.ICCPROFILE]

    @property
    def is_animated(self) -> bool:
        """Whether pages follow."""
        return self.frame > 0 or self.page.next != 0

    @property
    def n_frames(self) -> int:
        """Pages of the file."""
        return len(self._tifffile().pages)

    def load(self, *_: Any) -> Any:
        """Decode with tifffile, and become the image."""
        try:
            pixels = self._decode()
        except ImageError as error:
            raise ImageError(f"{self.name}: {error}") from None
        return self._become(pixels)

    def _tifffile(self) -> Any:
        with needs(
            f"{self.name}: a TIFF of this kind needs tifffile and imagecodecs; pip install 'faitheir[formats]'."
        ):
            import imagecodecs  # noqa: F401  # tifffile's decoders
            import tifffile
        return tifffile.TiffFile(self.fp, name=self.name)

    def _decode(self) -> UInt8Array:
        page = self._tifffile().pages[self.frame]
        width, height = self.size
        channels = len(self.mode) if self.mode != "La" else 2
        levels, pixels = _Levels(), np.zeros((height, width, channels), np.uint8)
        for segment, (plane, _, top, left, _), _ in page.segments(maxworkers=1, buffersize=1 << 22):
            if segment is None:
                continue
            values = levels(segment[0])[: height - top, : width - left]
            into = pixels[top : top + len(values), left : left + values.shape[1]]
            if page.planarconfig == 1:
                into[:] = values[..., :channels]
            elif plane < channels:
                into[..., plane] = values[..., 0]
        levels.report()
        if self.photometric == 0:
            np.subtract(255, pixels[..., :1], out=pixels[..., :1])
        return pixels


class _Levels:
    """Values of one picture to levels 0..255, strip after strip; ImageError for a type or value that has none."""

    def __init__(self, curve: Callable[[NDArray[Any]], NDArray[Any]] | None = None) -> None:
        self.curve = curve
        self.low, self.high = 0.0, 1.0

    def __call__(self, values: NDArray[Any]) -> UInt8Array:
        kind, bits = values.dtype.kind, values.dtype.itemsize * 8
        if kind == "u" and bits == 8:
            return values
        if kind == "b":
            return values.astype(np.uint8) * np.uint8(255)
        if kind == "u" and bits == 16 and self.curve is None:
            wide = values.astype(np.uint32)
            wide += 128
            wide //= 257  # 65535 / 255
            return wide.astype(np.uint8)
        if kind == "u" and bits == 16:
            values = values / np.float32(65535)
        elif kind != "f":
            raise ImageError(f"pixels of type {values.dtype} are not supported; use uint8, uint16, bool or float.")
        low, high = float(values.min()), float(values.max())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # NaN fails both
            raise ImageError(
                f"floating-point pixels must be from 0 to 1, not {low:g} to {high:g}; scale or tone-map it first."
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        levels: NDArray[np.float32] = np.clip(values, 0, 1, dtype=np.float32)
        if self.curve is not None:
            levels = self.curve(levels)
        levels *= 255
        rounded: UInt8Array = np.rint(levels, out=levels).astype(np.uint8)
        return rounded

    def report(self) -> None:
        """Warn where more than rounding was clipped."""
        if self.low < -_ROUNDING or self.high > 1 + _ROUNDING:
            _warn(f"its floating-point pixels run from {self.low:g} to {self.high:g}, and are clipped to 0..1")


def _upright_srgb(image: Image.Image) -> Picture:
    """A loaded image of any mode as a picture, converted in strips: beside it only the result is ever whole."""
    width, height = image.size
    convert = _Converter(image)
    orientation, exif = _read_exif(image)
    upright = (width, height) if orientation >= 5 else (height, width)
    rgb = np.empty((*upright, 3), np.uint8)
    alpha = np.empty(upright, np.uint8) if convert.has_alpha else None
    stored_rgb, stored_alpha = _as_stored(rgb, orientation), None if alpha is None else _as_stored(alpha, orientation)
    for rows in _strips(width, height):
        # Image.crop applies Pillow's process-wide pixel limit, which belongs to the host program.
        colours, opacity = convert(image._new(image.im.crop((0, rows.start, width, rows.stop))))
        stored_rgb[rows] = colours
        if stored_alpha is not None:
            stored_alpha[rows] = 255 if opacity is None else opacity
    convert.levels.report()
    return Picture(rgb, alpha, exif, srgb_profile() if convert.tagged else None)


class _Converter:
    """What turns strips of one image into sRGB levels (H, W, 3) and alpha (H, W) or None."""

    def __init__(self, image: Image.Image) -> None:
        mode = image.mode
        self.deep = mode in ("I", "F") or mode.startswith("I;16")
        self.key = image.info.get("transparency")
        if mode == "RGB" and isinstance(self.key, tuple) and max(self.key) > 255:
            self.key = tuple(value >> 8 for value in self.key)  # as Pillow cut the pixels
        keyed = mode in ("1", "L", "P", "RGB") and image.has_transparency_data
        self.has_alpha = isinstance(self.key, int) if self.deep else keyed or mode in _WITH_ALPHA
        self.mode = "L" if self.deep or mode in ("1", "L", "LA", "La") else mode if mode in ("CMYK", "LAB") else "RGB"
        self.profile_mode, self.transform, self.tagged = _profile(self.mode, image.info)
        curve = None if self.transform is not None or self.tagged else _gamma_curve(image.info)
        self.table = None if curve is None else _Levels()(curve(np.linspace(0, 1, 256, dtype=np.float32)))
        self.tagged |= curve is not None
        self.levels = _Levels(curve if self.deep else None)
        #: The value of a deep grey pixel that stands for white.
        self.white = {"F": 1, "I": 65535}.get(mode) or (1 << _grey_bits(image)) - 1

    def __call__(self, strip: Image.Image) -> tuple[UInt8Array, UInt8Array | None]:
        alpha: UInt8Array | None = None
        if self.deep:
            values = np.asarray(strip)
            if self.has_alpha:
                alpha = np.where(values == self.key, 0, 255).astype(np.uint8)
            strip = Image.fromarray(self.levels(self._sixteen_bits(values)))
        elif self.has_alpha:
            if "transparency" in strip.info:
                strip.info["transparency"] = self.key
            strip = strip.convert("LA" if self.mode == "L" else "RGBA")
            alpha = np.asarray(strip.getchannel("A"))
        strip = strip.convert(self.mode)
        if self.transform is not None:
            converted = ImageCms.applyTransform(strip.convert(self.profile_mode), self.transform)
            assert converted is not None  # only in place gives None
            strip = converted
        colours = np.asarray(strip.convert("RGB"))
        if self.table is not None and not self.deep:
            colours = np.take(self.table, colours)
        return colours, alpha

    def _sixteen_bits(self, values: NDArray[Any]) -> NDArray[Any]:
        """Deep grey in a type and range of `_Levels`."""
        if values.dtype.kind == "f":
            return values
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > self.white:
            raise ImageError(f"its pixels run from {low} to {high}, beyond 16 bits; convert it to 16-bit.")
        if self.white < 65535:
            values = values.astype(np.uint32) * 65535 // self.white
        return values.astype(np.uint16)


_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def _strips(width: int, height: int) -> Iterator[slice]:
    """Rows of a picture, some at a time."""
    step = max(1, _STRIP // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _spread(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W, C), where the weight is 0 the weighted mean around it: of the smallest power of two that has any."""
    if weights.all() or weights.size == 1:
        return values
    height, width = weights.shape
    pad = ((0, height % 2), (0, width % 2))
    w = np.pad(weights, pad)
    v = np.pad(values, (*pad, (0, 0))) * w[..., None]
    w, v = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2] for x in (w, v))
    coarse = _spread(v / np.where(w, w, 1)[..., None], w).repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.where(weights[..., None] > 0, values, coarse)


def _profile(mode: str, info: dict[Any, Any]) -> tuple[str, Any, bool]:
    """For colours of a mode L, RGB, CMYK or LAB: the mode to convert, how, and whether the file told its colours."""
    data = info.get("icc_profile")
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            space = profile.profile.xcolor_space.strip()
            wanted = "RGB" if space == "RGB" and mode == "L" else mode
            if space == {"L": "GRAY", "LAB": "Lab"}.get(wanted, wanted):
                return wanted, _transform(wanted, profile), True
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass
        _warn("its colour profile is damaged or of other colours than its pixels, and is left aside")
    if mode == "LAB":
        return mode, _transform(mode, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), False
    return mode, None, "srgb" in info


def _gamma_curve(info: dict[Any, Any]) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """What a PNG without profile says of its colours (PNG 3rd edition, 4.3): a curve to sRGB, or None where it is that.

    PictureWarning for what is not converted: HDR, and primaries other than sRGB's.
    """
    if "cicp" in info:
        primaries, transfer = info["cicp"][:2]
        if (primaries, transfer) not in ((1, 1), (1, 13)):
            kind = {16: "HDR (PQ)", 18: "HDR (HLG)"}.get(transfer, f"cICP {primaries}/{transfer}")
            _warn(f"its colours are {kind} and are taken for sRGB; convert it to sRGB for the right ones")
        return None
    whites = info.get("chromaticity")
    if whites and max(abs(x - y) for x, y in zip(whites, _SRGB_CHROMATICITY, strict=True)) > 0.01:
        _warn("its primaries (cHRM) are taken for sRGB's; convert it to sRGB for the right colours")
    gamma = float(info.get("gamma") or 1 / 2.2)
    # As libpng: within 5 % it is the usual one. Below 0.1 or above 10 it is an error in the file.
    if abs(gamma * 2.2 - 1) <= 0.05 or not 0.1 <= gamma <= 10:
        return None

    def curve(values: NDArray[Any]) -> NDArray[Any]:
        light = values ** np.float32(1 / gamma)
        encoded: NDArray[Any] = np.where(
            light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055
        )
        return encoded

    return curve


#: White, red, green and blue (x, y), as Pillow gives cHRM.
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


def _transform(mode: str, profile: ImageCms.ImageCmsProfile) -> Any:
    """The way from a profile to sRGB; None where it changes nothing."""
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "RGB":
        steps = np.linspace(0, 255, 16).astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
        changed = np.array(ImageCms.applyTransform(Image.fromarray(probe), transform))
        if np.abs(changed.astype(np.int16) - probe).max() <= 1:
            return None  # one of the many sRGB profiles: no rounding twice
    return transform


def filter_exif(exif: bytes | None, mode: ExifMode) -> bytes | None:
    """What of a picture's EXIF goes along; None where nothing is left. Raises ImageError for an unknown mode."""
    if mode not in get_args(ExifMode):
        raise ImageError(f"exif must be one of {', '.join(get_args(ExifMode))}, not {mode!r}.")
    if exif is None or mode == "none":
        return None
    if mode == "all":
        return exif
    source = Image.Exif()
    try:
        source.load(exif)
        return _exif_of(source, _EXIF_SAFE, {ExifTags.IFD.Exif: _EXIF_SAFE})
    except Exception:  # what a damaged directory raises is anyone's guess
        return None


def _exif_of(source: Image.Exif, tags: Container[int], ifds: Mapping[int, Container[int]]) -> bytes | None:
    """Some of the tags of a photograph, and of its directories; None if there are none."""
    kept = Image.Exif()
    for tag in source:
        if tag in tags:
            kept[tag] = source[tag]
    for ifd, wanted in ifds.items():
        if values := {tag: value for tag, value in source.get_ifd(ifd).items() if tag in wanted}:
            kept.get_ifd(ifd).update(values)
    data = kept.tobytes()
    return data if len(data) > len(Image.Exif().tobytes()) else None


def _read_exif(image: Image.Image) -> tuple[int, bytes | None]:
    """Orientation (1..8) and the EXIF worth keeping; broken EXIF counts as none."""
    orientation = 1
    try:
        source = image.getexif()
        stored = source.get(ExifTags.Base.Orientation, 1)
        orientation = stored if stored in range(1, 9) else 1
        ifds = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
        return orientation, _exif_of(
            source, _EXIF_KEPT, {ifd: source.get_ifd(ifd).keys() - _EXIF_STALE for ifd in ifds}
        )
    except Exception:  # what a damaged directory raises is anyone's guess
        return orientation, None


def _as_stored(upright: UInt8Array, orientation: int) -> UInt8Array:
    """A view of (H, W[, C]) in which its pixels lie as they are stored."""
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    if orientation in (3, 4, 6, 7):
        upright = upright[::-1]
    if orientation in (2, 3, 7, 8):
        upright = upright[:, ::-1]
    return upright


def _writer_settings(picture: Picture, writer: str, quality: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if writer == "JPEG":
        settings = {"quality": quality, "subsampling": 0}
    elif writer == "WEBP":
        settings = {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    elif writer == "AVIF":
        settings = {"quality": quality}
    elif writer == "TIFF":
        # Pillow's compressing writer refuses the EXIF and GPS directories.
        settings = {"compression": None if picture.exif else "tiff_adobe_deflate"}
    if picture.exif and not (writer == "BMP" or (writer == "JPEG" and len(picture.exif) > _JPEG_EXIF_LIMIT)):
        settings["exif"] = picture.exif
    if picture.icc_profile and writer not in ("BMP", "PNG"):
        settings["icc_profile"] = picture.icc_profile
    return settings
