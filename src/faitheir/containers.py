"""Picture files as rows of chunks: a few private bytes put where viewers skip them, and what costs bytes left out.

Private bytes are called ``faIr`` in every format:

- PNG: a chunk of that name after the header. By its letters it is ancillary, private and safe to copy.
- WebP: a chunk of that name at the end, which asks for an extended file (VP8X); readers skip chunks they do not know.
- JPEG: a comment that begins with the name. Of all segments it is the one that tools copy most often.
- AVIF: a box of that name at the end; readers skip boxes they do not know.

Nothing here raises for a damaged file: what cannot be followed is not found.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

NAME = b"faIr"

_PNG = b"\x89PNG\r\n\x1a\n"
#: Longer private bytes are nobody's of ours, and are not read.
_MOST = 4096

# Flags of VP8X.
_ALPHA, _EXIF = 0x10, 0x08
# JPEG markers: tables, comment, JFIF header, start of scan.
_DHT, _DQT, _COM, _APP0, _SOS = 0xC4, 0xDB, 0xFE, 0xE0, 0xDA


def put_private(data: bytes, payload: bytes) -> bytes:
    """The PNG, WebP, JPEG or AVIF file ``data``, as an encoder wrote it, with ``payload`` in it.

    It grows by 12 bytes (PNG), 8 (JPEG and AVIF) or 8 (WebP; 26 where it was no extended file), and the payload.
    """
    kind = _kind(data)
    if kind == "png":
        end_of_header = len(_PNG) + 25
        return data[:end_of_header] + _png_chunk(NAME, payload) + data[end_of_header:]
    if kind == "webp":
        return extend_webp(data, {NAME: payload})
    if kind == "jpeg":
        at = 2
        while 0xE0 <= data[at + 1] <= 0xEF:  # EXIF wants to be the first segment
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        return data[:at] + _jpeg_segment(_COM, NAME + payload) + data[at:]
    if kind == "avif":
        return data + _box(NAME, payload)
    raise ValueError("not a PNG, WebP, JPEG or AVIF file")


def get_private(data: bytes) -> list[bytes]:
    """Every payload that ``put_private`` put into a file, or that another tool copied; at most 4096 bytes each."""
    kind = _kind(data)
    if kind == "jpeg":
        comments = (bytes(content) for marker, content in _jpeg_segments(data) if marker == _COM)
        return [comment[4:] for comment in comments if comment[:4] == NAME and len(comment) <= _MOST]
    chunks = {"png": _png_chunks, "webp": webp_chunks, "avif": _avif_boxes}.get(kind or "", lambda _: iter(()))(data)
    return [bytes(content) for name, content in chunks if name == NAME and len(content) <= _MOST]


def extend_webp(data: bytes, chunks: Mapping[bytes, bytes]) -> bytes:
    """A WebP file with further chunks at its end, such as EXIF, in the extended format that they ask for."""
    found = list(webp_chunks(data))
    if found[0][0] != b"VP8X":
        width, height, alpha = webp_size(*found[0])
        header = bytes([_ALPHA if alpha else 0, 0, 0, 0]) + (width - 1).to_bytes(3, "little")
        found.insert(0, (b"VP8X", memoryview(header + (height - 1).to_bytes(3, "little"))))
    if b"EXIF" in chunks:
        header = bytes(found[0][1])
        found[0] = b"VP8X", memoryview(bytes([header[0] | _EXIF]) + header[1:])
    found += [(name, memoryview(content)) for name, content in chunks.items()]
    return _webp(found)


def compact_jpeg(data: bytes) -> bytes:
    """A JPEG without its JFIF header and with all tables of a kind in one segment: the same picture in fewer bytes.

    JFIF's header says nothing that readers do not assume, and files with EXIF must not have it. Not for progressive
    files, whose tables change from scan to scan.
    """
    segments = [(marker, bytes(content)) for marker, content in _jpeg_segments(data)]
    end = 2 + sum(4 + len(content) for _, content in segments)
    kept: list[tuple[int, bytes]] = []
    for marker, content in segments:
        if marker in (_DQT, _DHT):
            if marker not in dict(kept):
                kept.append((marker, b"".join(table for kind, table in segments if kind == marker)))
        elif marker != _APP0:
            kept.append((marker, content))
    return data[:2] + b"".join(_jpeg_segment(*segment) for segment in kept) + data[end:]


#: The colours that readers assume of an AVIF that does not name them, sRGB in full range; brands that nobody asks for;
#: and the mark that an encoder sets before each picture of a film.
_COLOURS = b"nclx\0\x01\0\x0d\0\x06\x80"
_PROFILE_BRANDS = (b"MA1A", b"MA1B")
_DELIMITER = b"\x12\0"


def compact_avif(data: bytes) -> bytes:
    """An AVIF, as libavif writes it, without what readers assume: the same picture in some 30 bytes less.

    Left out are the colour property where it says sRGB, which the AV1 data says too (ISO/IEC 23000-22, 7.3.6.4: it is
    also what holds where neither does), the names of items, the brand of the profile and the temporal delimiters,
    which the AV1 image file format asks to leave out. What is built otherwise is returned as it is.
    """
    try:
        return _compact_avif(data)
    except (struct.error, ValueError, IndexError, KeyError):
        return data


def _compact_avif(data: bytes) -> bytes:
    top = [(name, bytes(content)) for name, content in _avif_boxes(data)]
    if [name for name, _ in top] != [b"ftyp", b"meta", b"mdat"]:
        raise ValueError("not one picture of libavif's")
    brands = top[0][1]
    brands = brands[:8] + b"".join(b for b in _pieces(brands[8:], 4) if b not in _PROFILE_BRANDS)
    boxes = {name: bytes(content) for name, content in _avif_boxes(top[1][1][4:])}
    boxes[b"iinf"] = boxes[b"iinf"][:6] + b"".join(
        # A version, an item's id and protection and its kind; then its name up to a zero.
        _box(name, bytes(item[:12]) + b"\0" if bytes(item[8:12]) == b"av01" else item)
        for name, item in _avif_boxes(boxes[b"iinf"][6:])
    )
    boxes[b"iprp"] = _without_colours(boxes[b"iprp"])
    # Offsets count from the start of the file, so the boxes before the data must have their final length.
    items = _avif_places(boxes[b"iloc"])
    parts = [data[at : at + length].removeprefix(_DELIMITER) for _, at, length in items]
    if sum(length for _, _, length in items) != len(top[2][1]):
        raise ValueError("data that no item has, or that items share")
    before = len(_box(b"ftyp", brands)) + len(_box(b"meta", top[1][1][:4] + _boxes(boxes))) + 8
    places = b""
    for (head, _, _), part in zip(items, parts, strict=True):
        places += head + struct.pack(">II", before, len(part))
        before += len(part)
    boxes[b"iloc"] = boxes[b"iloc"][:8] + places
    meta = _box(b"meta", top[1][1][:4] + _boxes(boxes))
    return _box(b"ftyp", brands) + meta + _box(b"mdat", b"".join(parts))


def _avif_places(content: bytes) -> list[tuple[bytes, int, int]]:
    """The items of an iloc box: the first 6 bytes of each entry, then its extent's offset and length."""
    if content[:6] != b"\0\0\0\0\x44\0":  # version 0, offsets and lengths of 32 bits, no bases
        raise ValueError("places of another form")
    items = [(item[:6], *struct.unpack(">II", item[6:])) for item in _pieces(content[8:], 14)]
    if any(head[2:] != b"\0\0\0\x01" for head, _, _ in items):
        raise ValueError("data in another file or in several parts")
    return items


def _without_colours(content: bytes) -> bytes:
    """An iprp box's content without the properties that say sRGB: the others are numbered anew."""
    (_, properties), (_, associations) = _avif_boxes(content)
    numbers, kept = {}, []
    for number, (name, part) in enumerate(_avif_boxes(bytes(properties)), 1):
        if (name, bytes(part)) != (b"colr", _COLOURS):
            kept.append(_box(name, part))
            numbers[number] = len(kept)
    links, anew = bytes(associations), b""
    if links[:4] != b"\0\0\0\0":
        raise ValueError("associations of another form")
    rest = links[8:]
    while rest:
        count = rest[2]
        # The highest bit says whether a reader must know the property.
        found = [link & 0x80 | numbers[link & 0x7F] for link in rest[3 : 3 + count] if link & 0x7F in numbers]
        anew += rest[:2] + bytes([len(found), *found])
        rest = rest[3 + count :]
    return _box(b"ipco", b"".join(kept)) + _box(b"ipma", links[:8] + anew)


def _box(name: bytes, content: bytes | memoryview) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def _boxes(boxes: Mapping[bytes, bytes]) -> bytes:
    return b"".join(_box(name, content) for name, content in boxes.items())


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _kind(data: bytes) -> str | None:
    if data.startswith(_PNG):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "avif" if data[4:12] in (b"ftypavif", b"ftypavis") else None


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        name, content = bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length]
        if len(content) < length:
            return
        yield name, content
        at += 12 + length


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of a WebP file's chunks, up to one that is cut short."""
    yield from _riff_chunks(memoryview(data)[12 : 8 + int.from_bytes(data[4:8], "little")])


def _riff_chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(view):
        length = int.from_bytes(view[at + 4 : at + 8], "little")
        if at + 8 + length > len(view):
            return
        yield bytes(view[at : at + 4]), view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def webp_size(name: bytes, content: memoryview) -> tuple[int, int, bool]:
    """Width, height and whether there is alpha, from the first chunk: VP8X, VP8L or VP8."""
    if name == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (4, 7))
        return width, height, bool(content[0] & _ALPHA)
    if name == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    width, height = struct.unpack("<HH", content[6:10])
    return width & 0x3FFF, height & 0x3FFF, False


@dataclass(frozen=True)
class Jpeg2000:
    """What the SIZ segment of a JPEG 2000 says."""

    size: tuple[int, int]
    """Width and height with the offset."""
    offset: tuple[int, int]
    tile: tuple[int, int]
    components: list[tuple[int, int, int]]
    """Bits less one (and 128 if there are signs), and how much narrower and lower it is."""

    @property
    def deep(self) -> bool:
        """Whether a component has more than 8 bits."""
        return any(bits & 127 > 7 for bits, _, _ in self.components)

    def is_plain(self, width: int, height: int, channels: int) -> bool:
        """Whether it is of that size without offset, and of components of 8 to 16 bits, none of them reduced."""
        plain = all(7 <= bits < 16 and across == down == 1 for bits, across, down in self.components)
        return plain and (self.size, self.offset, len(self.components)) == ((width, height), (0, 0), channels)


def read_jpeg2000(data: bytes) -> Jpeg2000 | None:
    """The SIZ segment of a JPEG 2000; None where there is none."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 42:
        return None
    width, height, left, top, tile_x, tile_y, _, _, count = struct.unpack(">8IH", data[at + 8 : at + 42])
    components = list(struct.iter_unpack("3B", data[at + 42 : at + 42 + 3 * count][: 3 * ((len(data) - at - 42) // 3)]))
    return Jpeg2000((width, height), (left, top), (tile_x, tile_y), components)


@dataclass(frozen=True)
class WebpFrame:
    """A frame of an animated WebP."""

    left: int
    top: int
    width: int
    height: int
    blends: bool
    """Whether it is laid on what was there before it, and does not replace it."""
    clears: bool
    """Whether its place is transparent afterwards."""
    parts: dict[bytes, memoryview]
    """Its chunks."""

    def still(self) -> bytes:
        """A file of it alone."""
        size = (self.width - 1).to_bytes(3, "little") + (self.height - 1).to_bytes(3, "little")
        extended = bytes([_ALPHA if b"ALPH" in self.parts else 0, 0, 0, 0]) + size
        return _webp({b"VP8X": memoryview(extended), **self.parts}.items())


def webp_frames(chunks: list[tuple[bytes, memoryview]]) -> list[WebpFrame | None]:
    """The frames of an animated WebP, from its chunks; None for one that is not whole."""
    return [_webp_frame(content) for name, content in chunks if name == b"ANMF"]


def _webp_frame(content: memoryview) -> WebpFrame | None:
    if len(content) < 16:
        return None
    left, top, width, height = (int.from_bytes(content[at : at + 3], "little") for at in (0, 3, 6, 9))
    parts = {name: part for name, part in _riff_chunks(content[16:]) if name in _PICTURE}
    name = next((name for name in (b"VP8 ", b"VP8L") if name in parts), b"")
    if not name or webp_size(name, parts[name])[:2] != (width + 1, height + 1):
        return None
    blends, clears = not content[15] & 2, bool(content[15] & 1)
    return WebpFrame(2 * left, 2 * top, width + 1, height + 1, blends, clears, dict(sorted(parts.items())))


#: Chunks that a picture of WebP consists of.
_PICTURE = (b"ALPH", b"VP8 ", b"VP8L")


def _webp(chunks: Iterable[tuple[bytes, memoryview]]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg_segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """All up to the first scan, its header among them."""
    view, at = memoryview(data), 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(view[at + 2 : at + 4], "big")
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if length < 2 or at + 2 + length > len(data):
            return
        yield marker, view[at + 4 : at + 2 + length]
        if marker == _SOS:
            return
        at += 2 + length


def avif_colours(data: bytes) -> Iterator[tuple[bool, bool]]:
    """Of each part of an AVIF, as its av1C says: whether it has more than 8 bits, and whether it has all its chroma."""
    at = data.find(b"av1C")
    while 0 <= at < len(data) - 6:
        flags = data[at + 6]
        monochrome, subsampled = flags & 0x10, flags & 0x0C == 0x0C
        yield bool(flags & 0x40), not (monochrome or subsampled)
        at = data.find(b"av1C", at + 4)


def _avif_boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), 0
    while at + 8 <= len(data):
        length, header = int.from_bytes(view[at : at + 4], "big"), 8
        if length == 1:  # a size of 64 bits follows
            length, header = int.from_bytes(view[at + 8 : at + 16], "big"), 16
        elif length == 0:  # up to the end of the file
            length = len(data) - at
        if length < header or at + length > len(data):
            return
        yield bytes(view[at + 4 : at + 8]), view[at + header : at + length]
        at += length
