"""Picture files and arrays: decoding, orientation, colour profile, alpha, bit depth, padding, atomic writing.

Everything else in the package sees a `Picture`: upright, sRGB, eight bits. Of several frames, the first.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, features

from faitheir.errors import ImageError, why
from faitheir.storage import PathLike, open_file, write_atomic

UInt8Array = NDArray[np.uint8]

DEFAULT_MAX_PIXELS = 400_000_000

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
        """The picture as a Pillow image, RGB or RGBA, with `exif` and `icc_profile` in its `info`."""
        image = Image.fromarray(self.rgb)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        image.info = {key: value for key, value in (("exif", self.exif), ("icc_profile", self.icc_profile)) if value}
        return image


def is_picture_path(path: PathLike) -> bool:
    """Whether the file name ends like a picture that `read_picture` reads."""
    return Path(path).suffix.lower() in SUFFIXES


def load_image(
    file: BinaryIO,
    name: str,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    decode: bool = True,
    enough: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Image.Image:
    """The first frame as Pillow decodes it, for `picture_from_pil` while `file` is still open.

    The size is checked from the header before pixels are allocated. `name` is what errors call the file. `enough`
    maps its (width, height) to one that would do: a JPEG is decoded at 1/2, 1/4 or 1/8 if that is not below it. Without
    `decode` only the header is read.
    """
    Image.init()
    prefix = file.read(16)
    try:
        # Image.open would apply Pillow's process-wide pixel limit, which belongs to the host program.
        for reader in _READERS:
            factory, accept = Image.OPEN.get(reader, (None, None))
            if factory is not None and accept is not None and accept(prefix) is True:
                file.seek(0)
                image = factory(file, "")
                break
        else:
            raise ImageError(f"{name} is not a picture of a kind read here; convert it to PNG or JPEG.")
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name} says it is {width} x {height} pixels, above the limit of {max_pixels} pixels; "
                "reduce it or raise the limit."
            )
        if enough is not None:
            image.draft(None, enough((width, height)))
        if decode:
            image.load()
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({why(error)}); reduce it first.") from error
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        raise ImageError(f"{name} is damaged or cut short ({why(error)}); use another copy.") from error
    return image


def read_picture(path: PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """The picture in a file; ImageError, naming the file, if there is none or it is damaged or too large."""
    with open_file(path) as file:
        return decode_picture(file, str(path), max_pixels=max_pixels)


def decode_picture(
    file: BinaryIO,
    name: str,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    enough: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Picture:
    """The picture in an open file, as `read_picture`; `name` is what errors call it, `enough` as for `load_image`."""
    image = load_image(file, name, max_pixels=max_pixels, enough=enough)
    try:
        return picture_from_pil(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def picture_size(path: PathLike) -> tuple[int, int]:
    """Width and height of the upright picture in a file, from its header; ImageError as for `read_picture`."""
    with open_file(path) as file:
        image = load_image(file, str(path), decode=False)
        width, height = image.size
        return (height, width) if _read_exif(image)[0] >= 5 else (width, height)


def picture_from_pil(image: Image.Image) -> Picture:
    """The picture in a Pillow image of any mode, with its orientation, profile and transparency applied.

    Modes of more than 8 bits are grey: `I;16*` spans 0..65535; `I` does too, unless nothing in it exceeds
    255, when it holds 8-bit levels; `F` spans 0..1, or 0..255 if anything exceeds 1. ImageError for values
    outside these. Pillow itself cuts 16-bit colour files down to their high bytes.
    """
    if 0 in image.size:
        raise ImageError("the picture has no pixels.")
    try:
        image.load()
    except Exception as error:
        name = getattr(image, "filename", "") or "the picture"
        raise ImageError(f"{name} is damaged or cut short ({why(error)}); use another copy.") from error
    colour, alpha = _split_alpha(image)
    colour, tagged = _convert_to_srgb(colour, image.info)
    orientation, exif = _read_exif(image)
    return Picture(
        rgb=_orient(np.array(colour), orientation),
        alpha=None if alpha is None else _orient(alpha, orientation),
        exif=exif,
        icc_profile=srgb_profile() if tagged else None,
    )


def picture_from_array(array: NDArray[Any]) -> Picture:
    """The picture in an array (H, W) or (H, W, C): grey, grey + alpha, RGB or RGBA.

    uint8, bool, uint16 (rounded to 8 bits) or floating point from 0 to 1, where at most half an 8-bit level
    beyond is clipped. ImageError for anything else, NaN included.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or array.size == 0:
        raise ImageError(f"a picture array must be (H, W) or (H, W, 1 to 4), channels last, not {array.shape}.")
    levels = _to_uint8(array)
    channels = levels.shape[2]
    colour = levels[..., :3] if channels >= 3 else np.repeat(levels[..., :1], 3, axis=2)
    return Picture(
        rgb=np.array(colour, order="C"),
        alpha=np.array(levels[..., -1], order="C") if channels in (2, 4) else None,
    )


def encode_picture(picture: Picture, format: str, *, quality: int | None = None, **options: Any) -> bytes:  # noqa: A002
    """The picture as the bytes of a file.

    `format` is a file suffix without its dot. `quality` is for JPEG (1..100, default 95), AVIF (0..100, 90)
    and WebP (0..100, lossless by default); other formats are always lossless. `options` go to Pillow's writer. JPEG and
    BMP hold no alpha: the picture is laid on white; BMP holds neither EXIF nor profile.
    """
    writer = _WRITERS.get(format.lower())
    if writer is None:
        raise ImageError(f"pictures cannot be written as {format!r}; use one of {', '.join(_WRITERS)}.")
    lowest = 0 if writer in ("WEBP", "AVIF") else 1
    if quality is not None and not lowest <= quality <= 100:
        raise ImageError(f"quality must be from {lowest} to 100, not {quality}.")
    image = picture.to_pil()
    image.info = {}
    if picture.alpha is not None and writer in ("JPEG", "BMP"):
        image = Image.new("RGB", image.size, "white")
        image.paste(Image.fromarray(picture.rgb), mask=Image.fromarray(picture.alpha))
    settings = _writer_settings(picture, writer, quality) | options
    if writer == "PNG" and picture.icc_profile is not None:
        settings.setdefault("pnginfo", PngImagePlugin.PngInfo()).add(b"sRGB", b"\x01")  # one byte, not a profile
    buffer = io.BytesIO()
    try:
        image.save(buffer, writer, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"a picture of {picture.width} x {picture.height} cannot be written as {writer} ({why(error)}); use PNG."
        ) from error
    return buffer.getvalue()


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


def _to_uint8(values: NDArray[Any]) -> UInt8Array:
    """Levels 0..255; ImageError for a type or value that has none."""
    kind, bits = values.dtype.kind, values.dtype.itemsize * 8
    if kind == "u" and bits == 8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and bits == 16:
        wide = values.astype(np.uint32)
        wide += 128
        wide //= 257  # 65535 / 255
        return wide.astype(np.uint8)
    if kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -0.5 / 255 and high <= 255.5 / 255):  # NaN fails both
            raise ImageError(f"floating-point pixels must be from 0 to 1, not {low:g} to {high:g}.")
        levels = values.astype(np.float32)
        levels *= 255
        return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)
    raise ImageError(f"pixels of type {values.dtype} are not supported; use uint8, uint16, bool or float.")


def _split_alpha(image: Image.Image) -> tuple[Image.Image, UInt8Array | None]:
    """Colours as an image of mode L, RGB, CMYK or LAB, and alpha if the image has any transparency."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        key = image.info.get("transparency")
        alpha = np.where(values == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
        return Image.fromarray(_to_uint8(_deep_grey(values))), alpha
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode in ("1", "L", "P", "RGB") and image.has_transparency_data):
        key = image.info.get("transparency")
        if mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in key)  # as Pillow cut the pixels
        grey = mode in ("1", "L", "LA", "La")
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), np.array(image.getchannel("A"))
    if mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if mode == "1" else "RGB"), None


def _deep_grey(values: NDArray[Any]) -> NDArray[Any]:
    """Values of the modes I;16, I and F (see `picture_from_pil`) in a type and range of `_to_uint8`."""
    if values.dtype.kind == "u":
        return values
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        return values / np.float32(255) if 255.5 / 255 < high <= 255.5 else values
    if low < 0 or high > 65535:
        raise ImageError(f"its pixels run from {low:.0f} to {high:.0f}, beyond 16 bits; convert it to 16-bit.")
    return values.astype(np.uint8 if high <= 255 else np.uint16)


def _convert_to_srgb(image: Image.Image, info: Mapping[Any, Any]) -> tuple[Image.Image, bool]:
    """The image (L, RGB, CMYK or LAB) in sRGB, and whether it declared its colours in a way we understood."""
    data = info.get("icc_profile")
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            space = profile.profile.xcolor_space.strip()
            if space == "RGB" and image.mode == "L":
                image = image.convert("RGB")
            if space == {"L": "GRAY", "LAB": "Lab"}.get(image.mode, image.mode):
                return _apply_profile(image, profile), True
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a broken profile is as good as none
    if image.mode == "LAB":
        return _apply_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), False
    return image.convert("RGB"), "srgb" in info


def _apply_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if image.mode == "RGB":
        steps = np.linspace(0, 255, 16).astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
        changed = np.array(ImageCms.applyTransform(Image.fromarray(probe), transform))
        if np.abs(changed.astype(np.int16) - probe).max() <= 1:
            return image  # one of the many sRGB profiles: no rounding twice
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only in place gives None
    return converted


def _read_exif(image: Image.Image) -> tuple[int, bytes | None]:
    """Orientation (1..8) and the EXIF worth keeping; broken EXIF counts as none."""
    orientation = 1
    try:
        source = image.getexif()
        stored = source.get(ExifTags.Base.Orientation, 1)
        orientation = stored if stored in range(1, 9) else 1
        kept = Image.Exif()
        for tag in _EXIF_KEPT & source.keys():
            kept[tag] = source[tag]
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            values = {tag: value for tag, value in source.get_ifd(ifd).items() if tag not in _EXIF_STALE}
            if values:
                kept.get_ifd(ifd).update(values)
        data = kept.tobytes()
    except Exception:  # what a damaged directory raises is anyone's guess
        return orientation, None
    return orientation, data if len(data) > len(Image.Exif().tobytes()) else None


def _orient(array: UInt8Array, orientation: int) -> UInt8Array:
    """(H, W[, C]) as stored, turned upright."""
    if orientation in (2, 3, 7, 8):
        array = array[:, ::-1]
    if orientation in (3, 4, 6, 7):
        array = array[::-1]
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(array)


def _writer_settings(picture: Picture, writer: str, quality: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if writer == "JPEG":
        settings = {"quality": 95 if quality is None else quality, "subsampling": 0}
    elif writer == "WEBP":
        settings = {"lossless": True, "exact": True} if quality is None else {"quality": quality}
    elif writer == "AVIF":
        settings = {"quality": 90 if quality is None else quality}
    elif writer == "TIFF":
        # Pillow's compressing writer refuses the EXIF and GPS directories.
        settings = {"compression": None if picture.exif else "tiff_adobe_deflate"}
    if picture.exif and not (writer == "BMP" or (writer == "JPEG" and len(picture.exif) > _JPEG_EXIF_LIMIT)):
        settings["exif"] = picture.exif
    if picture.icc_profile and writer not in ("BMP", "PNG"):
        settings["icc_profile"] = picture.icc_profile
    return settings
