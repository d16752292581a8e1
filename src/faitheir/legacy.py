"""Thumbnails of format 1: a line of JSON, in a PNG the text chunk "FaithEIR", in a WebP a property of the XMP packet.

Only read, for ever; what is written since is in `thumbnail`.
"""

from typing import BinaryIO
from xml.etree import ElementTree

from PIL import Image, PngImagePlugin

_PNG_KEYWORD = "FaithEIR"
_XMP_NAMESPACE = "urn:faitheir:"


def json_texts(image: Image.Image, file: BinaryIO | None) -> list[str]:
    """The JSON, unchecked, in a loaded image: one text for each place that has it.

    `file`: that of the image, where repeated text chunks are counted; Pillow shows only the last. Raises ValueError
    for XMP of ours that cannot be read.
    """
    texts = [str(image.info.get(_PNG_KEYWORD, ""))]
    if file is not None and isinstance(image, PngImagePlugin.PngImageFile):
        return texts * _count_text_chunks(file)
    return texts if texts[0] else _xmp_values(image.info.get("xmp", b""))


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
        raise ValueError("damaged XMP") from error
    attributes = [element.attrib[name] for element in root.iter() if name in element.attrib]
    return attributes + [element.text or "" for element in root.iter(name)]
