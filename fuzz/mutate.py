"""A few lines of mutation: bits, bytes, lengths, pieces and tokens; checksums of PNGs are mended half of the time."""

import random
import struct
import zlib
from collections.abc import Sequence

_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 257, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
#: What parsers of text and of chunks take notice of.
_TOKENS = (
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"1e-999", b"9" * 400, b"null", b"true", b'""', b"[]", b"{}", b'"a":'),
    *(b"[" * 3000, b'{"a":' * 3000, b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\0", b"[[a]]\n", b"extends = "),
    *(b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"eXIf", b"gAMA", b"cHRM", b"cICP"),
    *(b"\xff\xc0", b"\xff\xc4", b"\xff\xda", b"\xff\xe1", b"\xff\xe2", b"VP8 ", b"VP8L", b"VP8X", b"ANMF", b"XMP "),
)


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes], longest: int = 100_000) -> bytes:
    """One to eight changes of ``data``; ``others`` are inputs that pieces are taken from."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        _change(rng, out, others)
    if out[:4] == b"\x89PNG" and rng.random() < 0.5:
        _mend_checksums(out)
    return bytes(out[:longest])


def _change(rng: random.Random, out: bytearray, others: Sequence[bytes]) -> None:
    # Headers are at the beginning: half of the changes are made there.
    at = rng.randrange(min(len(out), 200) if rng.random() < 0.5 else len(out)) if out else 0
    length = rng.choice((1, 2, 4, 8, 16, 64, rng.randrange(1, len(out) + 2)))
    kind = rng.randrange(9)
    if kind == 0 and out:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and out:
        out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + length]
    elif kind == 4:
        out[at:at] = out[at : at + length] * rng.choice((1, 2, 20))
    elif kind == 5:
        form = rng.choice(("<H", ">H", "<I", ">I"))
        number = rng.choice(_NUMBERS) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
        out[at : at + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == 6:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        out[at : at + rng.choice((0, length))] = other[start : start + length]
    elif kind == 7:
        out[at : at + rng.choice((0, 1, 4))] = rng.choice(_TOKENS)
    else:
        out[at:at] = rng.randbytes(length % 300)


def _mend_checksums(out: bytearray) -> None:
    at = 8
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        end = at + 8 + length
        if end + 4 > len(out):
            return
        struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
        at = end + 4
