"""What the server does, apart from how it is asked: models, limits, and work on the bytes of files."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from faitheir.errors import ThumbnailError
from faitheir.images import Picture, encode_picture
from faitheir.models import maker
from faitheir.pipeline import FaithEIRPipeline
from faitheir.server.errand import Errand, Slots
from faitheir.server.metrics import Metrics
from faitheir.server.problem import Problem
from faitheir.server.quota import available_cores, share
from faitheir.server.rivals import Rival, rivals
from faitheir.thumbnail import Thumbnail, ThumbnailFormat
from faitheir.untrusted import decode_untrusted, decode_untrusted_thumbnail
from faitheir.version import __version__

PictureFormat = Literal["png", "jpg", "webp", "tiff"]

MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
    "tiff": "image/tiff",
}


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    ``body_bytes``: of one request. ``held_bytes``: of all requests' bodies at once. ``pixels``: of a photograph, and of
    a picture restored. ``files``: of a batch. ``queue``: requests that wait or run, further ones are refused.
    ``seconds``: for a request, from its first byte on. ``decode_seconds``: for reading one file. ``rate``: bytes per
    second that a body must arrive with, after ``grace`` seconds.
    """

    body_bytes: int = 64 * 2**20
    held_bytes: int = 256 * 2**20
    pixels: int = 50_000_000
    files: int = 64
    queue: int = 32
    seconds: float = 300
    decode_seconds: float = 30
    rate: int = 4096
    grace: float = 20


@dataclass(frozen=True, eq=False)
class Made:
    """A file that was made: its bytes, its media type, and what is said about it (model, size, warning).

    ``timings``: seconds by stage.
    """

    data: bytes
    media_type: str
    about: Mapping[str, str]
    timings: Mapping[str, float] = field(default_factory=dict)


class Service:
    """One pipeline per model, and a bounded number of pictures at once on them. For one event loop."""

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        limits: Limits | None = None,
        fidelity: float = 0.0,
        **options: Any,
    ) -> None:
        """``models``: as for ``FaithEIRPipeline.from_pretrained``, which gets ``options``; the first is the default.

        ``fidelity``: how thumbnails are restored where a request does not say. Nothing is loaded yet: see ``load``.
        """
        self.limits = limits or Limits()
        self.pipelines: dict[str, FaithEIRPipeline] = {}
        self.ready = False
        self.closing = False
        self.held = 0
        self.errands: set[Errand] = set()
        self._models = models
        self._options = {"fidelity": fidelity, **options}
        self.share = share(available_cores())
        self.slots = Slots(self.share.workers, "model", partial(torch.set_num_threads, self.share.threads))
        # Codecs search for long and need no model: one photograph at a time, beside the models.
        self.aside = Slots(1, "codecs", partial(torch.set_num_threads, 1))
        self.metrics = Metrics(
            lambda: self.slots.waiting + self.aside.waiting,
            lambda: self.slots.running + self.aside.running,
            lambda: self.held,
        )

    def load(self) -> None:
        """Load the models. Raises ModelError, ConfigError or DeviceError; ProblemError where two have one name."""
        for source in self._models:
            pipeline = FaithEIRPipeline.from_pretrained(source, **self._options)
            self.pipelines[pipeline.name] = pipeline
        self.ready = True

    def close(self) -> None:
        """Refuse what comes and what waits; what runs goes on."""
        self.closing = True
        self.ready = False
        for errand in list(self.errands):
            if not errand.running:
                errand.stop("closing")

    def end(self) -> None:
        """Let go of the threads, once nothing runs."""
        self.slots.close()
        self.aside.close()

    # Models.

    def pipeline(self, name: str | None) -> FaithEIRPipeline:
        """The pipeline of that name, by default the first. Raises Problem (422) for a name that is not here."""
        if name is None:
            return next(iter(self.pipelines.values()))
        if name not in self.pipelines:
            raise Problem(422, f"There is no model '{name[:100]}' here; choose from {', '.join(self.pipelines)}.")
        return self.pipelines[name]

    def restorer(self, thumbnail: Thumbnail, name: str | None) -> FaithEIRPipeline:
        """The pipeline that is asked for, or else the one that made the thumbnail, or else the first.

        Raises Problem (422) where the thumbnail was made by a model that is not here.
        """
        info = thumbnail.info
        if name is not None or info is None:
            return self.pipeline(name)
        for pipeline in self.pipelines.values():
            if pipeline.weights == info.weights:
                return pipeline
        if info.model in self.pipelines:
            return self.pipelines[info.model]
        raise Problem(
            422,
            f"The thumbnail was made by {maker(info)}, which is not here; this server has "
            f"{', '.join(self.pipelines)}, any of which can be named with model=NAME.",
        )

    def models(self) -> list[dict[str, Any]]:
        """What is said of the models."""
        return [
            {
                "name": name,
                "scale": pipeline.scale,
                "weights": pipeline.weights,
                "fidelity": pipeline.model.fidelity is not None,
                "parameters": sum(p.numel() for p in pipeline.model.parameters()),
                "device": str(pipeline.device),
                "default": pipeline is self.pipeline(None),
            }
            for name, pipeline in self.pipelines.items()
        ]

    # Work, in a thread.

    def make_thumbnail(
        self,
        data: bytes,
        pipeline: FaithEIRPipeline,
        suffix: ThumbnailFormat,
        quality: int | None,
        errand: Errand,
        waited: float = 0,
    ) -> Made:
        """The thumbnail file of a photograph's file."""
        timings = {"wait": waited}
        with self.metrics.stage("decode", timings):
            picture = self._photograph(data)
        errand.check()
        with self.metrics.stage("model", timings):
            thumbnail = pipeline.downscale_picture(picture, callback=errand.check)
        errand.check()
        with self.metrics.stage("encode", timings):
            encoded = thumbnail.encode(suffix, quality=quality)
        self.metrics.worked("thumbnail", picture.width * picture.height)
        small = thumbnail.picture
        about = {
            "FaithEIR-Model": pipeline.name,
            "FaithEIR-Size": f"{small.width}x{small.height}",
            "FaithEIR-Original-Size": f"{picture.width}x{picture.height}",
        }
        return Made(encoded, MEDIA_TYPES[suffix], about, timings)

    def make_picture(
        self,
        data: bytes,
        model: str | None,
        suffix: PictureFormat,
        quality: int | None,
        fidelity: float | None,
        errand: Errand,
        waited: float = 0,
    ) -> Made:
        """The picture of a thumbnail's file."""
        timings = {"wait": waited}
        with self.metrics.stage("decode", timings):
            thumbnail = self._thumbnail(data)
        pipeline = self.restorer(thumbnail, model)
        self._check_size(thumbnail, pipeline)
        errand.check()
        with self.metrics.stage("model", timings):
            picture = pipeline.upscale_thumbnail(thumbnail, fidelity=fidelity, callback=errand.check)
        errand.check()
        with self.metrics.stage("encode", timings):
            encoded = encode_picture(picture, suffix, quality=quality)
        self.metrics.worked("picture", picture.width * picture.height)
        about = {"FaithEIR-Model": pipeline.name, "FaithEIR-Size": f"{picture.width}x{picture.height}"}
        info = thumbnail.info
        if info is not None and info.weights != pipeline.weights:
            about["FaithEIR-Warning"] = (
                f"made by weights {info.weights}, restored by {pipeline.weights} of {pipeline.name}: "
                "details and colours may be off"
            )
        return Made(encoded, MEDIA_TYPES[suffix], about, timings)

    def describe(self, data: bytes) -> dict[str, Any]:
        """What a thumbnail's file says."""
        with self.metrics.stage("decode"):
            thumbnail = self._thumbnail(data)
        picture, info = thumbnail.picture, thumbnail.info
        said: dict[str, Any] = {
            "width": picture.width,
            "height": picture.height,
            "bytes": len(data),
            "alpha": picture.alpha is not None,
            "made_by": None,
            "restored_by": None,
        }
        if info is not None:
            said["made_by"] = {
                "scale": info.scale,
                "width": info.width,
                "height": info.height,
                "model": info.model,
                "weights": info.weights,
            }
        with contextlib.suppress(Problem):
            said["restored_by"] = self.restorer(thumbnail, None).name
        return said

    def compare(self, data: bytes, scale: int, budget: int, errand: Errand) -> Iterator[Rival]:
        """What other systems give for as many bytes, one after the other."""
        with self.metrics.stage("decode"):
            photograph = self._photograph(data)
        for rival in rivals(photograph.rgb, budget, scale, errand.check):
            yield rival
            errand.check()

    # What was sent is decoded in a process of its own, which can be killed.

    def _photograph(self, data: bytes) -> Picture:
        limits = self.limits
        return decode_untrusted(data, name="the photograph", max_pixels=limits.pixels, seconds=limits.decode_seconds)

    def _thumbnail(self, data: bytes) -> Thumbnail:
        limits = self.limits
        return decode_untrusted_thumbnail(
            data, name="the thumbnail", max_pixels=limits.pixels, seconds=limits.decode_seconds
        )

    def _check_size(self, thumbnail: Thumbnail, pipeline: FaithEIRPipeline) -> None:
        small = thumbnail.picture
        size = thumbnail.size or (small.width * pipeline.scale, small.height * pipeline.scale)
        if size[0] * size[1] > self.limits.pixels:
            raise ThumbnailError(
                f"restored it would be {size[0]} x {size[1]} pixels, above this server's limit of "
                f"{self.limits.pixels:,}; is this a thumbnail?"
            )

    # Requests.

    def etag(self, data: bytes | Sequence[bytes], *settings: object) -> str:
        """A strong entity tag: of what was sent, what was asked for, and what makes it."""
        digest = hashlib.sha256(repr((__version__, [p.weights for p in self.pipelines.values()], settings)).encode())
        for part in [data] if isinstance(data, bytes) else data:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return f'"{digest.hexdigest()[:32]}"'
