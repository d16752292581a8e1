"""A pipeline on another machine: the verbs of `FaithEIRPipeline`, done by a server of `faitheir serve`."""

import http.client
import json
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args, overload
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from PIL import Image
from torch import Tensor

from faitheir.arguments import (
    Many,
    OutputType,
    PictureLike,
    ThumbnailLike,
    as_bytes,
    as_many,
    as_output,
    as_picture,
    as_thumbnail,
)
from faitheir.errors import ConfigError, ServerError, why
from faitheir.images import PictureWarning, UInt8Array, encode_picture
from faitheir.storage import open_file
from faitheir.thumbnail import Thumbnail, ThumbnailFormat

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Client:
    """A server of ``faitheir serve``, used as a pipeline is.

    >>> client = Client("http://127.0.0.1:8600")
    >>> client.downscale("photo.jpg").save("photo.thumb.png")
    >>> client.upscale("photo.thumb.png", fidelity=0.5).save("restored.png")
    """

    def __init__(self, url: str, *, token: str | None = None, model: str | None = None, timeout: float = 600.0) -> None:
        """``token``: what the server wants to be shown, by default FAITHEIR_TOKEN. ``model``: one of ``models()``.

        ``timeout``: seconds after which a call is given up, waiting for a busy server included. Raises ConfigError for
        what is no address of http or https.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError(f"{url!r} is no server's address; give one such as http://127.0.0.1:8600.")
        self.url = url.rstrip("/")
        self.model = model
        self.timeout = timeout
        token = os.environ.get("FAITHEIR_TOKEN") if token is None else token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # What is on this machine is not asked for through a proxy.
        direct = urlsplit(url).hostname in _LOOPBACK
        self._opener = build_opener(*([ProxyHandler({})] if direct else []))

    def models(self) -> list[dict[str, Any]]:
        """The server's models, the default first: name, scale, weights, fidelity (whether it can be set) and more."""
        answer: list[dict[str, Any]] = json.loads(self._ask("/v1/models", None, {}))
        return answer

    @overload
    def downscale(
        self, image: PictureLike, *, format: ThumbnailFormat = "png", quality: int | None = None
    ) -> Thumbnail: ...
    @overload
    def downscale(
        self, image: Many, *, format: ThumbnailFormat = "png", quality: int | None = None
    ) -> list[Thumbnail]: ...
    def downscale(
        self,
        image: PictureLike | Many,
        *,
        format: ThumbnailFormat = "png",  # noqa: A002 (the name that the interface has for it)
        quality: int | None = None,
    ) -> Thumbnail | list[Thumbnail]:
        """The thumbnail of a photograph, or a list of them for a list or a batch: see ``FaithEIRPipeline.downscale``.

        A file is sent as it is, anything else as a PNG. ``format``, ``quality``: in which the thumbnail travels, PNG
        without loss by default; the thumbnail is what a lossy file gives. A PictureWarning says what the server did
        not take from the file. Raises ServerError where the server refuses or cannot be reached, with its sentence.
        """
        if (many := as_many(image)) is not None:
            return [self.downscale(item, format=format, quality=quality) for item in many]
        sent = _file(image)
        data = encode_picture(as_picture(image), "png") if sent is None else sent
        query = {"model": self.model, "format": format, "quality": quality}
        return Thumbnail.decode(self._ask("/v1/thumbnails", data, query))

    @overload
    def upscale(
        self, thumbnail: ThumbnailLike, *, fidelity: float | None = None, output_type: Literal["pil"] = "pil"
    ) -> Image.Image: ...
    @overload
    def upscale(
        self, thumbnail: ThumbnailLike, *, fidelity: float | None = None, output_type: Literal["np"]
    ) -> UInt8Array: ...
    @overload
    def upscale(
        self, thumbnail: ThumbnailLike, *, fidelity: float | None = None, output_type: Literal["pt"]
    ) -> Tensor: ...
    @overload
    def upscale(self, thumbnail: Many, *, fidelity: float | None = None, output_type: OutputType = "pil") -> Any: ...
    def upscale(
        self,
        thumbnail: ThumbnailLike | Many,
        *,
        fidelity: float | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """The full-size picture of a thumbnail, or a list of them: see ``FaithEIRPipeline.upscale``.

        Raises ServerError as ``downscale`` does, and ConfigError for another ``output_type``.
        """
        if output_type not in get_args(OutputType):
            raise ConfigError(f"output_type is {output_type!r}; choose one of {', '.join(get_args(OutputType))}.")
        if (many := as_many(thumbnail)) is not None:
            return [self.upscale(item, fidelity=fidelity, output_type=output_type) for item in many]
        sent = _file(thumbnail)
        data = as_thumbnail(thumbnail).encode("png") if sent is None else sent
        query = {"model": self.model, "format": "png", "fidelity": fidelity}
        picture = as_picture(self._ask("/v1/pictures", data, query))
        return as_output(picture, output_type)

    def describe(self, thumbnail: ThumbnailLike) -> dict[str, Any]:
        """What a thumbnail says of its making, and which of the server's models restores it."""
        sent = _file(thumbnail)
        data = as_thumbnail(thumbnail).encode("png") if sent is None else sent
        answer: dict[str, Any] = json.loads(self._ask("/v1/thumbnails/describe", data, {}))
        return answer

    def _ask(self, path: str, data: bytes | None, query: Mapping[str, Any]) -> bytes:
        """The body of the answer; a busy server is asked again when it says so."""
        given = {key: value for key, value in query.items() if value is not None}
        address = f"{self.url}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = self._headers | ({"Content-Type": "application/octet-stream"} if data is not None else {})
        deadline = time.monotonic() + self.timeout
        while True:
            left = deadline - time.monotonic()
            try:
                with self._opener.open(Request(address, data, headers), timeout=max(0.01, left)) as response:
                    if text := response.headers.get("FaithEIR-Warning"):
                        warnings.warn(text, PictureWarning, stacklevel=3)
                    return bytes(response.read())
            except HTTPError as error:
                with error:
                    text, wait = _sentence(error), error.headers.get("Retry-After", "")
                if error.code != 429 or not wait.isdecimal() or int(wait) > deadline - time.monotonic():
                    raise ServerError(text) from None
                time.sleep(int(wait))
            except (URLError, http.client.HTTPException, OSError) as error:
                cause = error.reason if isinstance(error, URLError) else error
                text = why(cause) if isinstance(cause, Exception) else str(cause)
                raise ServerError(f"{self.url} cannot be reached ({text}); check that the server runs.") from None


def _file(source: Any) -> bytes | None:
    """The bytes of a file, where that is what the caller has."""
    if isinstance(source, (str, os.PathLike)):
        with open_file(source) as file:
            return file.read()
    found = None if isinstance(source, (Image.Image, np.ndarray, Tensor)) else as_bytes(source)
    return None if found is None else found[0]


def _sentence(error: HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"the server answered {error.code} ({error.reason})."
