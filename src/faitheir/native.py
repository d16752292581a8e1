"""Decoders in C that come with Pillow, called without the copies of the picture that Pillow's readers make.

Where Pillow has them linked into itself (Windows), their functions cannot be seen: the getters here give None then, and
Pillow's readers do. Decoders take a whole file, and give pixels (H, W, C) with C of 1 to 4; OSError if it is damaged.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import _imaging

UInt8Array = NDArray[np.uint8]

#: Strips that a picture is done in where that saves memory: OpenJPEG takes some 36 bytes for each pixel of one.
_STRIPS = 32


@cache
def quiet_libtiff() -> None:
    """Keep libtiff from printing to the process's stderr; Pillow raises what it has to say."""
    signature = ([c_void_p], c_void_p)
    names = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
    for function in (_functions(_imaging, dict.fromkeys(names, signature)) or {}).values():
        function(None)


class _WebpConfig(ctypes.Structure):
    """libwebp's WebPDecoderConfig."""

    _fields_ = (
        ("_input", c_int * 10),
        ("colours", c_int),
        ("size", c_int * 2),
        ("external", c_int),
        ("pixels", c_void_p),
        ("row_bytes", c_int),
        ("bytes", c_size_t),
        ("_planes", c_size_t * 7),
        ("_output", c_uint32 * 4),
        ("_memory", c_void_p),
        *((name, c_int) for name in ("no_filter", "no_upsampling", "crop", "left", "top", "width", "height")),
        ("_options", c_int * 64),
    )


@cache
def webp_decoder() -> Callable[..., None] | None:
    """What decodes a still WebP into C-contiguous rows (H, W, 3 or 4) of a larger picture, and of it all or some rows.

    It is called with the file, the rows, and where only some of its rows are wanted, the number of the first of these.
    """
    try:
        from PIL import _webp
    except ImportError:
        return None
    config = POINTER(_WebpConfig)
    found = _functions(
        _webp,
        {
            "WebPInitDecoderConfigInternal": ([config, c_int], c_int),
            "WebPDecode": ([c_char_p, c_size_t, config], c_int),
        },
    )
    if found is None or not found["WebPInitDecoderConfigInternal"](_WebpConfig(), 0x0200):
        return None

    def decode(data: bytes, into: UInt8Array, first: int | None = None) -> None:
        height, width, channels = into.shape
        config = _WebpConfig()
        found["WebPInitDecoderConfigInternal"](config, 0x0200)
        config.colours, config.external = channels - 3, 1
        config.pixels, config.row_bytes = into.ctypes.data, into.strides[0]
        config.bytes = (height - 1) * into.strides[0] + width * channels
        if first is not None:
            config.crop, config.top, config.width, config.height = 1, first, width, height
        result = found["WebPDecode"](data, len(data), config)
        if result == 1:  # VP8_STATUS_OUT_OF_MEMORY
            raise MemoryError
        if result:
            raise OSError(f"libwebp cannot decode it ({result})")

    return decode


class _AvifDecoder(ctypes.Structure):
    """The beginning of libavif's avifDecoder, as it is since 1.0."""

    _fields_ = (
        *((name, c_int) for name in ("codec", "threads", "source", "progressive", "incremental", "no_exif", "no_xmp")),
        *((name, c_uint32) for name in ("size_limit", "dimension_limit", "count_limit", "strict")),
        ("image", c_void_p),
    )


class _AvifRgb(ctypes.Structure):
    """The beginning of libavif's avifRGBImage, as it is since 1.0, with room for what may follow."""

    _fields_ = (
        *((name, c_uint32) for name in ("width", "height", "depth", "format", "up", "down", "slow", "no_alpha")),
        *((name, c_int) for name in ("premultiplied", "float", "threads")),
        ("pixels", c_void_p),
        ("row_bytes", c_uint32),
        ("_more", ctypes.c_uint8 * 256),
    )


#: What of AVIF's rules must hold: as in Pillow, neither pixi nor a valid clap.
_AVIF_STRICT = 4


@cache
def avif_decoder() -> Callable[[bytes, int, UInt8Array], None] | None:
    """What decodes one frame of an AVIF into a picture (H, W, 3 or 4)."""
    try:
        from PIL import _avif
    except ImportError:
        return None
    found = _functions(
        _avif,
        {
            "avifDecoderCreate": ([], POINTER(_AvifDecoder)),
            "avifDecoderDestroy": ([POINTER(_AvifDecoder)], None),
            "avifDecoderSetIOMemory": ([POINTER(_AvifDecoder), c_char_p, c_size_t], c_int),
            "avifDecoderParse": ([POINTER(_AvifDecoder)], c_int),
            "avifDecoderNthImage": ([POINTER(_AvifDecoder), c_uint32], c_int),
            "avifImageCreateEmpty": ([], c_void_p),
            "avifImageSetViewRect": ([c_void_p, c_void_p, POINTER(c_uint32 * 4)], c_int),
            "avifImageDestroy": ([c_void_p], None),
            "avifRGBImageSetDefaults": ([POINTER(_AvifRgb), c_void_p], None),
            "avifImageYUVToRGB": ([c_void_p, POINTER(_AvifRgb)], c_int),
        },
    )
    if found is None or not _avif.libavif_version.startswith("1."):
        return None

    def decode(data: bytes, frame: int, into: UInt8Array) -> None:
        decoder = found["avifDecoderCreate"]()
        if not decoder:
            raise MemoryError
        try:
            decoder.contents.threads = os.cpu_count() or 1
            decoder.contents.strict = _AVIF_STRICT
            check(found["avifDecoderSetIOMemory"](decoder, data, len(data)))
            check(found["avifDecoderParse"](decoder))
            check(found["avifDecoderNthImage"](decoder, frame))
            convert(decoder.contents.image, into)
        finally:
            found["avifDecoderDestroy"](decoder)

    def convert(image: int, into: UInt8Array) -> None:
        rgb, height, width, channels = _AvifRgb(), *into.shape
        found["avifRGBImageSetDefaults"](rgb, image)
        if (rgb.width, rgb.height) != (width, height):
            raise OSError("its picture is not of the size in its header")
        # In strips, since libyuv has all of what it converts from more than 8 bits once more; with rows that chroma is
        # interpolated from above and below.
        view, step = found["avifImageCreateEmpty"](), 2 * -(-height // (2 * _STRIPS))
        if not view:
            raise MemoryError
        try:
            for top in range(0, height, step):
                first, last = max(0, top - 2), min(top + step + 2, height)
                check(found["avifImageSetViewRect"](view, image, (c_uint32 * 4)(0, first, width, last - first)))
                found["avifRGBImageSetDefaults"](rgb, view)
                strip = np.empty((last - first, width, channels), np.uint8)
                rgb.depth, rgb.format = 8, channels - 3
                rgb.pixels, rgb.row_bytes = strip.ctypes.data, strip.strides[0]
                check(found["avifImageYUVToRGB"](view, rgb))
                into[top : top + step] = strip[top - first :][:step]
        finally:
            found["avifImageDestroy"](view)

    def check(result: int) -> None:
        if result == 26:  # AVIF_RESULT_OUT_OF_MEMORY
            raise MemoryError
        if result:
            raise OSError(f"libavif cannot decode it ({result})")

    return decode


class _Component(ctypes.Structure):
    """OpenJPEG's opj_image_comp_t."""

    _fields_ = (
        *((name, c_uint32) for name in ("dx", "dy", "width", "height", "x0", "y0", "bits", "bpp", "signed")),
        *((name, c_uint32) for name in ("resolutions", "factor")),
        ("data", POINTER(ctypes.c_int32)),
        ("alpha", ctypes.c_uint16),
    )


class _Jpeg2000(ctypes.Structure):
    """OpenJPEG's opj_image_t."""

    _fields_ = (
        *((name, c_uint32) for name in ("x0", "y0", "x1", "y1", "count")),
        ("colours", c_int),
        ("components", POINTER(_Component)),
        ("profile", c_void_p),
        ("profile_length", c_uint32),
    )


_READ = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_size_t, c_void_p)
_SKIP = ctypes.CFUNCTYPE(c_int64, c_int64, c_void_p)
_SEEK = ctypes.CFUNCTYPE(c_int, c_int64, c_void_p)
#: OpenJPEG's colour spaces: unknown, unspecified, sRGB, grey, which are taken as they are, as is CMYK; and sYCC.
_AS_THEY_ARE, _SYCC, _CMYK = (-1, 0, 1, 2), 3, 5


@cache
def jpeg2000_decoder() -> Callable[..., bool] | None:
    """What decodes a JPEG 2000 of one tile, or not, and unreduced components into a picture (H, W, 1 to 4), in strips.

    It is called with the file, Pillow's mode of the picture, and what converts strips of sYCC. It gives False for
    colours of other kinds. More than 8 bits are rounded.
    """
    image, void = POINTER(_Jpeg2000), c_void_p
    found = _functions(
        _imaging,
        {
            "opj_stream_create": ([c_size_t, c_int], void),
            "opj_stream_destroy": ([void], None),
            "opj_stream_set_read_function": ([void, _READ], None),
            "opj_stream_set_skip_function": ([void, _SKIP], None),
            "opj_stream_set_seek_function": ([void, _SEEK], None),
            "opj_stream_set_user_data_length": ([void, ctypes.c_uint64], None),
            "opj_create_decompress": ([c_int], void),
            "opj_destroy_codec": ([void], None),
            "opj_set_default_decoder_parameters": ([void], None),
            "opj_setup_decoder": ([void, void], c_int),
            "opj_read_header": ([void, void, POINTER(image)], c_int),
            "opj_set_decode_area": ([void, image, c_int, c_int, c_int, c_int], c_int),
            "opj_decode": ([void, void, image], c_int),
            "opj_image_destroy": ([image], None),
        },
    )
    if found is None:
        return None

    def decode(
        data: bytes, mode: str, one_tile: bool, into: UInt8Array, to_rgb: Callable[[UInt8Array], UInt8Array]
    ) -> bool:
        height, _, channels = into.shape
        step = -(-height // (_STRIPS if channels < 4 else 2 * _STRIPS))
        strips = [slice(top, min(top + step, height)) for top in range(0, height, step)]
        # OpenJPEG can go on with another part of a tile, but not of several.
        for some in [strips] if one_tile else ([strip] for strip in strips):
            with _opened(found, data) as (codec, stream, image):
                colours = image.contents.colours
                if colours not in {"CMYK": (_CMYK,), "RGB": (*_AS_THEY_ARE, _SYCC)}.get(mode, _AS_THEY_ARE):
                    return False
                for strip in some:
                    area = (0, strip.start, into.shape[1], strip.stop)
                    if not found["opj_set_decode_area"](codec, image, *area):
                        raise OSError("OpenJPEG cannot decode a part of it")
                    if not found["opj_decode"](codec, stream, image):
                        raise OSError("OpenJPEG cannot decode it")
                    copy(image.contents, into[strip])
                    if colours == _SYCC:
                        into[strip] = to_rgb(into[strip])
        return True

    def copy(image: _Jpeg2000, into: UInt8Array) -> None:
        height, width, channels = into.shape
        for channel in range(channels):
            part = image.components[channel]
            if not part.data or (part.width, part.height) != (width, height):
                raise OSError("OpenJPEG cannot decode all of it")
            values, most = np.ctypeslib.as_array(part.data, (height, width)), (1 << part.bits) - 1
            into[..., channel] = values if most == 255 else (values * 255 + most // 2) // most

    return decode


@contextlib.contextmanager
def _opened(found: dict[str, Any], data: bytes) -> Iterator[tuple[Any, Any, Any]]:
    """OpenJPEG's codec, stream and image of a file, its header read."""
    at, source = 0, (ctypes.c_char * len(data)).from_buffer_copy(data)

    def read(buffer: int, size: int, _: Any) -> int:
        nonlocal at
        size = min(size, len(data) - at)
        if size <= 0:
            return -1  # as size_t: the end
        ctypes.memmove(buffer, ctypes.addressof(source) + at, size)
        at += size
        return size

    def skip(size: int, _: Any) -> int:
        nonlocal at
        size = min(size, len(data) - at)
        at += size
        return size

    def seek(position: int, _: Any) -> int:
        nonlocal at
        at = position
        return int(position <= len(data))

    callbacks = _READ(read), _SKIP(skip), _SEEK(seek)
    stream, codec = found["opj_stream_create"](1 << 20, 1), found["opj_create_decompress"](0 if data[0] == 0xFF else 2)
    image = POINTER(_Jpeg2000)()
    try:
        if not stream or not codec:
            raise MemoryError
        for name, callback in zip(("read", "skip", "seek"), callbacks, strict=True):
            found[f"opj_stream_set_{name}_function"](stream, callback)
        found["opj_stream_set_user_data_length"](stream, len(data))
        parameters = ctypes.create_string_buffer(1 << 16)  # opj_dparameters_t, of which nothing is changed
        found["opj_set_default_decoder_parameters"](parameters)
        if not (found["opj_setup_decoder"](codec, parameters) and found["opj_read_header"](stream, codec, image)):
            raise OSError("OpenJPEG cannot read its header")
        yield codec, stream, image
    finally:
        if image:
            found["opj_image_destroy"](image)
        for name, thing in (("opj_destroy_codec", codec), ("opj_stream_destroy", stream)):
            if thing:
                found[name](thing)


def _functions(module: ModuleType, signatures: dict[str, tuple[list[Any], Any]]) -> dict[str, Any] | None:
    """Functions in C that a part of Pillow is linked with, by name; None where one cannot be seen."""
    try:
        library = ctypes.CDLL(module.__file__)
        found = {name: getattr(library, name) for name in signatures}
    except (AttributeError, OSError):  # built without it, or linked so that its functions cannot be seen
        return None
    for name, (arguments, result) in signatures.items():
        found[name].argtypes, found[name].restype = arguments, result
    return found
