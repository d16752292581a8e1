"""Pictures from strangers, decoded in a process of their own, which has a limit on memory and on time.

What a hostile file does to a decoder written in C happens there, and ends with that process. ``python -m
faitheir.untrusted`` is that process: a file's bytes on stdin; on stdout a line of JSON, then the picture's arrays.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import warnings
from typing import Any, BinaryIO

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
) -> Picture:
    """The picture in a file's bytes, as ``decode_picture``, whatever they are.

    ``name`` is what errors call the file. ``seconds`` of wall-clock time and ``memory`` in bytes are what it may take;
    memory is limited where the system can (Linux), elsewhere the limits on pixels alone hold. Raises ImageError for
    what is no picture, is damaged, or takes more than that.
    """
    return _decode("picture", data, name, max_pixels, seconds, memory)[0]


def decode_untrusted_thumbnail(
    data: bytes,
    *,
    name: str = "the file",
    max_pixels: int = UNTRUSTED_MAX_PIXELS,
    seconds: float = DEFAULT_SECONDS,
    memory: int = DEFAULT_MEMORY,
) -> Thumbnail:
    """The thumbnail in a file's bytes, as ``Thumbnail.decode``, within the limits of ``decode_untrusted``.

    ``max_pixels`` are those of the thumbnail itself; what its metadata asks to be restored is for the caller to limit.
    Raises ImageError, and ThumbnailError where the metadata is wrong.
    """
    picture, info = _decode("thumbnail", data, name, max_pixels, seconds, memory)
    return Thumbnail(picture, None if info is None else ThumbnailInfo(**info))


def _decode(
    kind: str, data: bytes, name: str, max_pixels: int, seconds: float, memory: int
) -> tuple[Picture, dict[str, Any] | None]:
    request = json.dumps({"kind": kind, "name": name, "max_pixels": max_pixels, "memory": memory})
    # Threads of a numerical library would take address space, and nothing here computes with them.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # -P: modules that lie in the working directory are not imported.
    command = [sys.executable, "-P", "-m", "faitheir.untrusted", request]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, stop)
    sender = threading.Thread(target=_send, args=(process.stdin, data), daemon=True)
    timer.start()
    sender.start()
    try:
        line = process.stdout.readline()
        answer = json.loads(line) if line.endswith(b"\n") else None
        picture = _receive(process.stdout, answer) if answer and "error" not in answer else None
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        sender.join()
        process.stdout.close()
    if picture is not None and answer is not None:
        for text in answer["warnings"]:
            warnings.warn(text, PictureWarning, stacklevel=3)
        return picture, answer["info"]
    if late.is_set():
        raise ImageError(f"{name} takes longer than {seconds:g} s to read; save it anew as PNG or JPEG.")
    if answer is None:
        raise ImageError(f"{name} cannot be read: the decoder broke off ({process.returncode}); use another copy.")
    raise _ERRORS.get(answer["error"], ImageError)(answer["text"])


def _send(pipe: BinaryIO, data: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # the process may have ended, or been ended
        pipe.write(data)


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
