"""Pictures from strangers, decoded in a process of their own, which has a limit on memory and on time.

What a hostile file does to a decoder written in C happens there, and ends with that process. ``python -m
faitheir.untrusted`` is that process: a file's bytes on stdin; on stdout a line of JSON, then the picture's arrays.
"""

import contextlib
import faulthandler
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from faitheir.errors import FaithEIRError, ImageError, MissingDependencyError, ThumbnailError
from faitheir.images import (
    UNTRUSTED_MAX_PIXELS,
    UNTRUSTED_PIXELS_PER_BYTE,
    Picture,
    PictureWarning,
    UInt8Array,
    decode_picture,
)
from faitheir.thumbnail import Thumbnail, ThumbnailInfo

#: What decoding may take besides what the process itself does: enough for ``UNTRUSTED_MAX_PIXELS`` of common formats.
DEFAULT_MEMORY = 1 << 30
DEFAULT_SECONDS = 20.0

_ERRORS = {kind.__name__: kind for kind in (ImageError, ThumbnailError, MissingDependencyError)}


def decode_untrusted(
    data: bytes,
    *,
    name: str = "the file",
    max_pixels: int = UNTRUSTED_MAX_PIXELS,
    seconds: float = DEFAULT_SECONDS,
    memory: int = DEFAULT_MEMORY,
    tell: Callable[[str], object] | None = None,
) -> Picture:
    """The picture in a file's bytes, as ``decode_picture``, whatever they are.

    ``name`` is what errors call the file. ``seconds`` of wall-clock time and ``memory`` in bytes are what it may take;
    memory is limited where the system can (Linux), elsewhere the limits on pixels alone hold. ``tell`` gets the text of
    what is otherwise a PictureWarning. Raises ImageError for what is no picture, is damaged, or takes more than that.
    """
    return _decode("picture", data, name, max_pixels, seconds, memory, tell)[0]


def decode_untrusted_thumbnail(
    data: bytes,
    *,
    name: str = "the file",
    max_pixels: int = UNTRUSTED_MAX_PIXELS,
    seconds: float = DEFAULT_SECONDS,
    memory: int = DEFAULT_MEMORY,
    tell: Callable[[str], object] | None = None,
) -> Thumbnail:
    """The thumbnail in a file's bytes, as ``Thumbnail.decode``, within the limits of ``decode_untrusted``.

    ``max_pixels`` are those of the thumbnail itself; what its metadata asks to be restored is for the caller to limit.
    Raises ImageError, and ThumbnailError where the metadata is wrong.
    """
    picture, info = _decode("thumbnail", data, name, max_pixels, seconds, memory, tell)
    return Thumbnail(picture, None if info is None else ThumbnailInfo(**info))


def _decode(
    kind: str,
    data: bytes,
    name: str,
    max_pixels: int,
    seconds: float,
    memory: int,
    tell: Callable[[str], object] | None,
) -> tuple[Picture, dict[str, Any] | None]:
    request = {"kind": kind, "name": name, "max_pixels": max_pixels, "memory": memory, "seconds": seconds}
    # Threads of a numerical library would take address space, and nothing here computes with them.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # -P: modules that lie in the working directory are not imported.
    command = [sys.executable, "-P", "-m", "faitheir.untrusted", json.dumps(request)]
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    # No threads here, neither to send nor to watch the time: where memory is short, starting one may never return
    # (CPython's issue 140746). The process reads all before it says anything, and ends itself when its time is over.
    try:
        with contextlib.suppress(OSError), process.stdin:  # it may have ended
            process.stdin.write(data)
        line = process.stdout.readline()
        answer = json.loads(line) if line.endswith(b"\n") else None
        picture = _receive(process.stdout, answer) if answer and "error" not in answer else None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if picture is not None and answer is not None:
        for text in answer["warnings"]:
            if tell is None:
                warnings.warn(text, PictureWarning, stacklevel=3)
            else:
                tell(text)
        return picture, answer["info"]
    if answer is not None and "error" in answer:
        raise _ERRORS.get(answer["error"], ImageError)(answer["text"])
    if time.monotonic() - started >= seconds:
        raise ImageError(f"{name} takes longer than {seconds:g} s to read; save it anew as PNG or JPEG.")
    raise ImageError(f"{name} cannot be read: the decoder broke off ({process.returncode}); use another copy.")


def _receive(pipe: Any, answer: dict[str, Any]) -> Picture | None:
    """The picture after its line of JSON; None where the process ended before it was sent."""

    def array(shape: list[int] | None) -> UInt8Array | None:
        if shape is None:
            return None
        pixels = np.empty(shape, np.uint8)
        if pipe.readinto(pixels.data.cast("B")) != pixels.nbytes:
            raise EOFError
        return pixels

    try:
        rgb, alpha = array(answer["rgb"]), array(answer["alpha"])
        exif, profile = (pipe.read(answer[key]) or None for key in ("exif", "icc_profile"))
    except EOFError:
        return None
    assert rgb is not None
    return Picture(rgb, alpha, exif, profile)


def _limit_memory(room: int) -> None:
    """Let this process take ``room`` bytes of address space more than it has."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + room, taken + room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # no Linux, or a limit of the system's is lower
        return


def _serve() -> None:
    """Do one request: see the module."""
    request = json.loads(sys.argv[1])
    # A thread of C's, which needs no Python: it ends the process whatever a decoder is doing.
    faulthandler.dump_traceback_later(request["seconds"], exit=True)
    out = sys.stdout.buffer
    data = sys.stdin.buffer.read()
    _limit_memory(request["memory"])
    answer: dict[str, Any]
    parts: list[Any] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            name, max_pixels, density = request["name"], request["max_pixels"], UNTRUSTED_PIXELS_PER_BYTE
            info = None
            if request["kind"] == "thumbnail":
                thumbnail = Thumbnail.decode(data, name=name, max_pixels=max_pixels, pixels_per_byte=density)
                picture, info = thumbnail.picture, thumbnail.info and vars(thumbnail.info)
            else:
                picture = decode_picture(io.BytesIO(data), name, max_pixels=max_pixels, pixels_per_byte=density)
        parts = [picture.rgb, picture.alpha, picture.exif, picture.icc_profile]
        answer = {
            "rgb": picture.rgb.shape,
            "alpha": None if picture.alpha is None else picture.alpha.shape,
            "exif": len(picture.exif or b""),
            "icc_profile": len(picture.icc_profile or b""),
            "info": info,
            "warnings": [str(w.message) for w in caught if issubclass(w.category, PictureWarning)],
        }
    except FaithEIRError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        answer = {"error": "ImageError", "text": f"{request['name']}: not enough memory to read it; reduce it first."}
    out.write(json.dumps(answer).encode() + b"\n")
    for part in parts:
        if part is not None:
            out.write(part)
    out.flush()


if __name__ == "__main__":
    _serve()
