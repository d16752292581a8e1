"""What the server does, apart from how it is asked: models, limits, and work on the bytes of files."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from faitheir.errors import FaithEIRError, ThumbnailError, one_line
from faitheir.images import encode_picture
from faitheir.models import maker
from faitheir.pipeline import FaithEIRPipeline
from faitheir.server.errand import Errand, Slots
from faitheir.server.metrics import Metrics
from faitheir.server.problem import Problem
from faitheir.server.quota import available_cores, share
from faitheir.server.rivals import Rival, rivals
from faitheir.thumbnail import DEFAULT_FORMAT, Thumbnail, ThumbnailFormat
from faitheir.untrusted import decode_untrusted, decode_untrusted_thumbnail
from faitheir.version import __version__

T = TypeVar("T")

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
    decode_seconds: float = 60
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


class Notes(list[str]):
    """What is to be said of a file that was read: what was not taken from it, and what may be off."""

    def append(self, text: str) -> None:
        """Add a note, without what concerns the command line, as plain text of one line."""
        super().append(one_line(text).partition("; --")[0].rstrip("."))

    @property
    def header(self) -> dict[str, str]:
        """The header that says them, if there are any."""
        text = "; ".join(self)[:1000].encode("latin-1", "replace").decode("latin-1")
        return {"FaithEIR-Warning": text} if self else {}


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
        # What a thumbnail says is known at once.
        self.reading = Slots(1, "reading")
        self._all = (self.slots, self.aside, self.reading)
        self.metrics = Metrics(
            lambda: sum(slots.waiting for slots in self._all),
            lambda: sum(slots.running for slots in self._all),
            lambda: self.held,
        )
        #: Results that are known beforehand, by their entity tags.
        self.prepared: dict[str, Made] = {}

    def load(self) -> None:
        """Load the models. Raises ModelError, ConfigError or DeviceError; ProblemError where two have one name."""
        for source in self._models:
            pipeline = FaithEIRPipeline.from_pretrained(source, **self._options)
            self.pipelines[pipeline.name] = pipeline
        self.ready = True

    def check_ready(self) -> None:
        """Raise Problem (503) where no work is taken."""
        if self.closing:
            raise Problem(503, "This server is closing; try again in a moment.", retry_after=5)
        if not self.ready:
            raise Problem(503, "This server is loading its models; try again in a moment.", retry_after=2)

    async def prepare(self, photograph: bytes) -> None:
        """Have the thumbnail of the page's example ready, and its picture, as the page asks for them at first."""
        pipeline, errand = self.pipeline(None), Errand()
        self.errands.add(errand)
        try:
            make = partial(self.make_thumbnail, photograph, errand, pipeline=pipeline, suffix=DEFAULT_FORMAT)
            thumbnail = await self.slots.run(errand, make)
            self.prepared[self.etag(photograph, "thumbnail", pipeline.name, DEFAULT_FORMAT, None)] = thumbnail
            restore = partial(self.make_picture, thumbnail.data, errand, model=pipeline.name, suffix="jpg")
            picture = await self.slots.run(errand, restore)
            self.prepared[self.etag(thumbnail.data, "picture", pipeline.name, "jpg", None, None)] = picture
        except (FaithEIRError, MemoryError, OSError, RuntimeError):
            return  # then it is made when it is asked for, and what is wrong is said there
        finally:
            self.errands.discard(errand)

    def close(self) -> None:
        """Refuse what comes and what waits; what runs goes on."""
        self.closing = True
        self.ready = False
        for errand in list(self.errands):
            if not errand.running:
                errand.stop("closing")

    def end(self) -> None:
        """Let go of the threads, once nothing runs."""
        for slots in self._all:
            slots.close()

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
        errand: Errand,
        waited: float = 0,
        *,
        pipeline: FaithEIRPipeline,
        suffix: ThumbnailFormat,
        quality: int | None = None,
    ) -> Made:
        """The thumbnail file of a photograph's file."""
        timings, notes = {"wait": waited}, Notes()
        with self.metrics.stage("decode", timings):
            picture = self._decoded(decode_untrusted, data, notes)
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
            **notes.header,
        }
        return Made(encoded, MEDIA_TYPES[suffix], about, timings)

    def make_picture(
        self,
        data: bytes,
        errand: Errand,
        waited: float = 0,
        *,
        model: str | None,
        suffix: PictureFormat,
        quality: int | None = None,
        fidelity: float | None = None,
    ) -> Made:
        """The picture of a thumbnail's file."""
        timings, notes = {"wait": waited}, Notes()
        with self.metrics.stage("decode", timings):
            thumbnail = self._decoded(decode_untrusted_thumbnail, data, notes)
        pipeline = self.restorer(thumbnail, model)
        self._check_size(thumbnail, pipeline)
        errand.check()
        with self.metrics.stage("model", timings):
            picture = pipeline.upscale_thumbnail(thumbnail, fidelity=fidelity, callback=errand.check)
        errand.check()
        with self.metrics.stage("encode", timings):
            encoded = encode_picture(picture, suffix, quality=quality)
        self.metrics.worked("picture", picture.width * picture.height)
        info = thumbnail.info
        if info is not None and info.weights != pipeline.weights:
            notes.append(
                f"it was made by weights {info.weights} and is restored by {pipeline.weights} of {pipeline.name}: "
                "details and colours may be off"
            )
        about = {
            "FaithEIR-Model": pipeline.name,
            "FaithEIR-Size": f"{picture.width}x{picture.height}",
            **notes.header,
        }
        return Made(encoded, MEDIA_TYPES[suffix], about, timings)

    def describe(self, data: bytes) -> dict[str, Any]:
        """What a thumbnail's file says."""
        notes = Notes()
        with self.metrics.stage("decode"):
            thumbnail = self._decoded(decode_untrusted_thumbnail, data, notes)
        picture, info = thumbnail.picture, thumbnail.info
        said: dict[str, Any] = {
            "width": picture.width,
            "height": picture.height,
            "bytes": len(data),
            "alpha": picture.alpha is not None,
            "made_by": None,
            "restored_by": None,
            "warnings": list(notes),
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
            photograph = self._decoded(decode_untrusted, data, Notes())
        for rival in rivals(photograph.rgb, budget, scale, errand.check):
            yield rival
            errand.check()

    # What was sent is decoded in a process of its own, which can be killed.

    def _decoded(self, decode: Callable[..., T], data: bytes, notes: "Notes") -> T:
        limits = self.limits
        name = "the photograph" if decode is decode_untrusted else "the thumbnail"
        return decode(data, name=name, max_pixels=limits.pixels, seconds=limits.decode_seconds, tell=notes.append)

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
