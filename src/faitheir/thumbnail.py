"""The thumbnail file: an ordinary PNG or lossless WebP, with what restoring it needs in its metadata.

The metadata is a line of JSON: in a PNG the text chunk "FaithEIR", in a WebP a property of the XMP packet. It
is never trusted: types, ranges and the thumbnail's own size are checked before anything else happens.
"""

import io
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin

from faitheir import images
from faitheir.errors import ImageError, ThumbnailError
from faitheir.images import DEFAULT_MAX_PIXELS, Picture
from faitheir.storage import PathLike, open_file, write_atomic

FORMAT_VERSION = 1
ThumbnailFormat = Literal["png", "webp"]

_PNG_KEYWORD = "FaithEIR"
_XMP_NAMESPACE = "urn:faitheir:"
_MAX_JSON = 4096
_MAX_SIDE = 2**24
_REMEDY = "make the thumbnail again, or remove its metadata and say the scale and model yourself."


@dataclass(frozen=True)
class ThumbnailInfo:
    """What a thumbnail file says about its making; ThumbnailError for values that cannot be."""

    scale: int
    """Thumbnails are this many times smaller per side, 2..256."""
    width: int
    """Of the original, in pixels."""
    height: int
    model: str
    """Model id, at most 100 characters."""
    weights: str
    """Hexadecimal hash of the weights, 8..128 digits."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _check_int("format_version", self.format_version, 1, FORMAT_VERSION)
        _check_int("scale", self.scale, 2, 256)
        _check_int("width", self.width, 1, _MAX_SIDE)
        _check_int("height", self.height, 1, _MAX_SIDE)
        if not (isinstance(self.model, str) and 0 < len(self.model) <= 100 and self.model.isprintable()):
            raise ThumbnailError(f"the thumbnail's model must be a name of 1 to 100 characters; {_REMEDY}")
        if not (isinstance(self.weights, str) and re.fullmatch("[0-9a-f]{8,128}", self.weights)):
            raise ThumbnailError(f"the thumbnail's weights must be a hexadecimal hash; {_REMEDY}")

    def to_json(self) -> str:
        """One compact ASCII line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ThumbnailInfo":
        """The inverse of `to_json`; ThumbnailError if a key is missing, unknown, repeated or out of range."""
        if len(text) > _MAX_JSON:
            raise ThumbnailError(f"the thumbnail's metadata is too long; {_REMEDY}")
        try:
            values = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}") from error
        if not isinstance(values, dict):
            raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}")
        version = values.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise ThumbnailError("the thumbnail was made by a newer FaithEIR; upgrade this one to restore it.")
        expected = {field.name for field in fields(cls)}
        if values.keys() != expected:
            wrong = ", ".join(sorted(repr(key)[:40] for key in values.keys() ^ expected))
            raise ThumbnailError(f"the thumbnail's metadata has missing or unknown keys ({wrong}); {_REMEDY}")
        return cls(**values)

    def check(self, width: int, height: int) -> None:
        """ThumbnailError unless a thumbnail of width x height pixels is what this original gives."""
        expected = (-(-self.width // self.scale), -(-self.height // self.scale))
        if (width, height) != expected:
            raise ThumbnailError(
                f"the thumbnail is {width} x {height} pixels, but its metadata names an original of "
                f"{self.width} x {self.height}, so {expected[0]} x {expected[1]} at scale {self.scale}; "
                "use the thumbnail as it was written, or remove its metadata."
            )


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
    def image(self) -> Image.Image:
        """The thumbnail's pixels as a Pillow image, RGB or RGBA, its metadata in the image's `info`."""
        image = self.picture.to_pil()
        if self.info is not None:
            image.info[_PNG_KEYWORD] = self.info.to_json()
        return image

    @classmethod
    def from_pil(cls, image: Image.Image) -> "Thumbnail":
        """The thumbnail in a Pillow image: one that `image` gave, or that was opened from a thumbnail file."""
        found = [image.info[_PNG_KEYWORD]] if _PNG_KEYWORD in image.info else _xmp_values(image.info.get("xmp", b""))
        info = ThumbnailInfo.from_json(str(found[0])) if found else None
        return cls(images.picture_from_pil(image), info)

    def encode(self, format: ThumbnailFormat = "png") -> bytes:  # noqa: A002
        """The bytes of a file from which `decode` gives the same pixels, profile, EXIF and info.

        WebP does not keep an alpha channel that is opaque everywhere.
        """
        options: dict[str, Any] = {}
        if format == "png":
            options["optimize"] = True
            if self.info is not None:
                options["pnginfo"] = PngImagePlugin.PngInfo()
                options["pnginfo"].add_text(_PNG_KEYWORD, self.info.to_json())
        elif format == "webp":
            options |= {"quality": 100, "method": 6, "lossless": True, "exact": True}
            if self.info is not None:
                options["xmp"] = _xmp_packet(self.info.to_json())
        else:
            raise ThumbnailError(f"a thumbnail cannot be written as {format!r}; use png or webp.")
        return images.encode_picture(self.picture, format, **options)

    def save(self, path: PathLike) -> None:
        """Write the file, PNG or WebP by its suffix, whole or not at all."""
        suffix = Path(path).suffix[1:].lower()
        if suffix not in get_args(ThumbnailFormat):
            raise ThumbnailError(f"{path} cannot be written: end a thumbnail's name in .png or .webp.")
        write_atomic(path, self.encode(suffix))  # type: ignore[arg-type]  # narrowed above

    @classmethod
    def open(cls, path: PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> "Thumbnail":
        """The thumbnail in a file; any picture will do, `info` is None where it has no metadata of ours.

        ImageError if it is no readable picture or has more than `max_pixels`, ThumbnailError if its metadata is wrong;
        both name the file.
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
            text = _metadata(image, file)
            info = None if text is None else ThumbnailInfo.from_json(text)
            return cls(images.picture_from_pil(image), info)
        except (ThumbnailError, ImageError) as error:
            raise type(error)(f"{name}: {error}") from error


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ThumbnailError(f"the thumbnail's {name} must be a whole number from {low} to {high}; {_REMEDY}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values


def _metadata(image: Image.Image, file: BinaryIO) -> str | None:
    """Our JSON in the loaded image, unchecked, or None."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        count = _count_text_chunks(file)
        found = [image.text[_PNG_KEYWORD]] * count if _PNG_KEYWORD in image.text else [""] * count
    elif image.format == "WEBP":
        found = _xmp_values(image.info.get("xmp", b""))
    else:
        return None
    if len(found) > 1:
        raise ThumbnailError(f"the thumbnail's metadata is there more than once; {_REMEDY}")
    return found[0] if found else None


def _count_text_chunks(file: BinaryIO) -> int:
    """How many text chunks of a PNG have our keyword; Pillow shows only the last."""
    count = 0
    file.seek(8)
    while len(head := file.read(8)) == 8:
        start = file.tell()
        if head[4:] in (b"tEXt", b"zTXt", b"iTXt"):
            count += file.read(len(_PNG_KEYWORD) + 1) == _PNG_KEYWORD.encode() + b"\0"
        file.seek(start + int.from_bytes(head[:4], "big") + 4)
    return count


def _xmp_packet(text: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:f="{_XMP_NAMESPACE}" f:thumbnail={quoteattr(text)}/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def _xmp_values(packet: bytes) -> list[str]:
    """Our property in an XMP packet, as an attribute or (where a tool rewrote the packet) as an element."""
    if _XMP_NAMESPACE.encode() not in packet:
        return []
    name = f"{{{_XMP_NAMESPACE}}}thumbnail"
    try:
        if b"<!" in packet:  # XMP has no use for declarations, and entities can expand without end
            raise ElementTree.ParseError("a declaration in XMP")
        root = ElementTree.fromstring(packet.strip(b"\0"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ThumbnailError(f"the thumbnail's metadata is damaged; {_REMEDY}") from error
    attributes = [element.attrib[name] for element in root.iter() if name in element.attrib]
    return attributes + [element.text or "" for element in root.iter(name)]
