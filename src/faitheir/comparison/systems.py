"""What can be compared, ready to make files: models, resampling, codecs, and what is there already."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from faitheir.comparison.codecs import CODECS, SEARCH, Codec, Coded, decode, encode, encode_reaching, encode_within
from faitheir.comparison.produce import Made, Task, model_settings, model_work, produce
from faitheir.devices import resolve_device
from faitheir.errors import EvaluationError
from faitheir.evaluation.measures import PictureMetric, Weights, picture_metric
from faitheir.evaluation.metrics import METRICS
from faitheir.evaluation.pairs import pair
from faitheir.evaluation.results import Output, SystemKind
from faitheir.evaluation.store import Store
from faitheir.images import Picture, UInt8Array, pad_to_multiple, read_picture, write_picture
from faitheir.models import find_model, read_config
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail

RESAMPLINGS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

#: Ways of holding a codec to bytes, and the metrics that it can be held to.
BYTES, BYTES_REDUCED = "bytes", "bytes-reduced"
HELD_TO = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "dists", "squeezenet_distance")

_CODEC_LABELS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpegxl": "JPEG XL"}


@dataclass(frozen=True)
class Target:
    """What codecs are held to: a system, and what it left of each picture."""

    system: str
    outputs: Mapping[str, Output]


@dataclass(frozen=True)
class Setting:
    """What systems are made with. ``scale``: of thumbnails that are not a model's. ``suffix``: of thumbnail files."""

    scale: int = 16
    suffix: str = ".webp"
    device: str = "cpu"
    dtype: str = "float32"
    tile: int | None = None
    base: Path | None = None
    protocol: str = "paper"
    weights: Weights = field(default_factory=dict)


class System:
    """A system ready to make files. ``about``: what they depend on besides the original; for the result, too."""

    kind: SystemKind
    kept = "thumbnails"
    suffix = ".webp"

    def __init__(self, system: str, scale: int | None, about: dict[str, str]) -> None:
        self.system = system
        self.scale = scale
        self.about = about

    def outputs(
        self, originals: Mapping[str, Path], folder: Path, store: Store, *, progress: bool = True
    ) -> dict[str, Output]:
        """Have every picture made into ``folder``; see `produce`."""
        return produce(
            originals,
            self.work,
            folder,
            settings=self.settings,
            store=store,
            kept=self.kept,
            suffix=self.suffix,
            prepare=lambda pending: self.prepare({name: originals[name] for name in pending}, folder),
            label=f"making {self.system}",
            progress=progress,
        )

    def settings(self, picture: str) -> str:  # noqa: ARG002
        """All that the files of a picture depend on besides the original."""
        return repr(sorted(self.about.items()))

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:
        """Called once before the first of the pictures that are still to be made."""

    def work(self, task: Task) -> Made:
        """Make one picture's files."""
        raise NotImplementedError

    def note(self, outputs: Mapping[str, Output]) -> str:  # noqa: ARG002
        """What people must know to read the row."""
        return ""


class ModelSystem(System):
    """A model, through its thumbnail file."""

    kind: SystemKind = "model"

    def __init__(self, source: str, setting: Setting, label: str | None = None, *, fidelity: float = 0.0) -> None:
        """``source``: as for ``find_model``, which raises ModelError. ``fidelity``: how it restores."""
        folder = find_model(source)
        config = read_config(folder)
        name = f"{config.name}@{fidelity:g}" if fidelity else config.name
        super().__init__(label or name, config.codec.scale, {})
        self._fidelity = fidelity
        self.suffix = setting.suffix
        self._folder, self._setting = folder, setting
        self._work: Callable[[Task], Made] | None = None

    def outputs(
        self, originals: Mapping[str, Path], folder: Path, store: Store, *, progress: bool = True
    ) -> dict[str, Output]:
        """The weights are loaded first: files depend on them."""
        s = self._setting
        pipeline = FaithEIRPipeline.from_pretrained(
            self._folder, base=s.base, device=s.device, dtype=s.dtype, tile=s.tile, fidelity=self._fidelity
        )
        self.about = model_settings(pipeline)
        self._work = model_work(pipeline)
        return super().outputs(originals, folder, store, progress=progress)

    def work(self, task: Task) -> Made:
        """Down to the thumbnail's file, and back from what that file holds."""
        assert self._work is not None
        return self._work(task)


class Thumbnails(System):
    """A thumbnail that Pillow made, stored as ours are, and something that enlarges it."""

    def __init__(self, system: str, setting: Setting, resampling: str, about: dict[str, str]) -> None:
        about = {"thumbnail": f"{resampling}, Pillow {version('pillow')}", "scale": str(setting.scale)} | about
        super().__init__(system, setting.scale, about)
        self.suffix = setting.suffix
        self.factor = setting.scale
        self._resampling = RESAMPLINGS[resampling]

    def small(self, rgb: UInt8Array) -> UInt8Array:
        """(H, W, 3) -> (ceil(H / s), ceil(W / s), 3)."""
        padded = pad_to_multiple(rgb, self.factor)
        size = (padded.shape[1] // self.factor, padded.shape[0] // self.factor)
        return np.asarray(Image.fromarray(padded).resize(size, self._resampling))

    def work(self, task: Task) -> Made:
        """Through the thumbnail's file."""
        rgb = read_picture(task.original).rgb
        started = time.perf_counter()
        small = self.small(rgb)
        down = time.perf_counter() - started
        Thumbnail(Picture(small), None).save(task.stored)
        small = read_picture(task.stored).rgb
        started = time.perf_counter()
        large = self.large(task, small, (rgb.shape[0], rgb.shape[1]))
        up = time.perf_counter() - started
        write_picture(task.restored, Picture(large))
        return Made(down, self.seconds_up(up))

    def large(self, task: Task, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        """The thumbnail of a task, enlarged to (height, width)."""
        raise NotImplementedError

    def seconds_up(self, measured: float) -> float:
        """What is said of the time that enlarging took."""
        return measured


class Resampling(Thumbnails):
    """The same filter down and up."""

    kind: SystemKind = "resampling"

    def __init__(self, name: str, setting: Setting, label: str | None = None) -> None:
        super().__init__(label or name, setting, name, {"enlarged": name})

    def large(self, task: Task, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:  # noqa: ARG002
        """The thumbnail of a task, enlarged to (height, width)."""
        full = (small.shape[1] * self.factor, small.shape[0] * self.factor)
        return np.asarray(Image.fromarray(small).resize(full, self._resampling))[: size[0], : size[1]]


class Restored(System):
    """What another program left: ``folders`` is DIR, or DIR:THUMBNAILS."""

    kind: SystemKind = "restored"

    def __init__(self, folders: str, label: str | None = None) -> None:
        """Raises EvaluationError where a folder is missing."""
        whole, thumbnails = Path(folders), None
        if not whole.is_dir() and ":" in folders:
            first, _, second = folders.rpartition(":")
            whole, thumbnails = Path(first), Path(second)
        for path in (whole, thumbnails):
            if path is not None and not path.is_dir():
                raise EvaluationError(f"restored:{folders}: {path} is not a folder.")
        super().__init__(label or whole.name, None, {"folder": str(whole)})
        self._whole, self._thumbnails = whole, thumbnails

    def outputs(
        self,
        originals: Mapping[str, Path],
        folder: Path,  # noqa: ARG002
        store: Store,  # noqa: ARG002
        *,
        progress: bool = True,  # noqa: ARG002
    ) -> dict[str, Output]:
        """Nothing is made; raises PairingError where files do not pair."""
        return pair(originals, self._whole, self._thumbnails)


class CodecSystem(System):
    """A codec, held to the target's bytes or to its value of a metric, picture by picture."""

    kind: SystemKind = "codec"
    kept = "coded"

    def __init__(
        self, name: str, way: str, setting: Setting, target: Callable[[], Target], label: str | None = None
    ) -> None:
        """``way``: `BYTES`, `BYTES_REDUCED` or one of `HELD_TO`. Raises MissingDependencyError or ModelError."""
        self._codec: Codec = CODECS[name]()
        self._way, self._target = way, target
        self._metric: PictureMetric | None = None
        of_bytes = self._way in (BYTES, BYTES_REDUCED)
        if not of_bytes:
            self._metric = picture_metric(
                self._way,
                protocol=setting.protocol,
                scale=setting.scale,
                weights=setting.weights,
                device=resolve_device(setting.device),
            )
        held = "bytes" if of_bytes else METRICS[self._way].label
        free = ", reduced" if self._way == BYTES_REDUCED else ""
        about = {
            "codec": self._codec.name,
            "held_to": BYTES if of_bytes else self._way,
            "coder": self._codec.about,
        }
        about |= {"reduced": "freely" if free else "where needed"} if of_bytes else {"metric": self._metric_about()}
        system = label or f"{_CODEC_LABELS[self._codec.name]}{free} at equal {held}"
        super().__init__(system, setting.scale, about)
        self.suffix = self._codec.suffix

    def outputs(
        self, originals: Mapping[str, Path], folder: Path, store: Store, *, progress: bool = True
    ) -> dict[str, Output]:
        """The target's files must be there by now."""
        self.about["target"] = self._target().system
        return super().outputs(originals, folder, store, progress=progress)

    def settings(self, picture: str) -> str:
        """With what the target left of this picture: its bytes, or the picture that came back."""
        output = self._of_target(picture)
        held_to = str(_stored_bytes(output)) if self._metric is None else Store.hash(output.restored)
        about = {key: value for key, value in self.about.items() if key != "target"}
        return repr((SEARCH, sorted(about.items()), held_to))

    def work(self, task: Task) -> Made:
        """Search, then code and decode once more by the clock."""
        rgb = read_picture(task.original).rgb
        output = self._of_target(task.picture)
        coded = self._encode(rgb, output)
        started = time.perf_counter()
        data = encode(self._codec, rgb, coded.quality, coded.factor)
        down = time.perf_counter() - started
        started = time.perf_counter()
        restored = decode(self._codec, data, rgb.shape)
        up = time.perf_counter() - started
        task.stored.write_bytes(data)
        write_picture(task.restored, Picture(restored))
        return Made(down, up, {"quality": float(coded.quality), "factor": float(coded.factor)})

    def _encode(self, rgb: UInt8Array, output: Output) -> Coded:
        if self._metric is None:
            reduce: Literal["where needed", "freely"] = "freely" if self._way == BYTES_REDUCED else "where needed"
            return encode_within(self._codec, rgb, _stored_bytes(output), reduce=reduce)
        metric = self._metric
        wanted = metric(rgb, read_picture(output.restored).rgb)
        if math.isnan(wanted):
            raise EvaluationError(f"{METRICS[self._way].label} has no value for {self._target().system}'s picture.")
        sign = 1 if METRICS[self._way].direction == "higher" else -1
        return encode_reaching(self._codec, rgb, lambda back: sign * metric(rgb, back) >= sign * wanted)

    def _of_target(self, picture: str) -> Output:
        target = self._target()
        output = target.outputs[picture]
        if output.error is not None:
            raise EvaluationError(f"there is no file of {target.system} to hold it to ({output.error})")
        return output

    def _metric_about(self) -> str:
        return "" if self._metric is None else self._metric.about

    def note(self, outputs: Mapping[str, Output]) -> str:
        """What it was held to, and how many pictures had to be reduced for it."""
        made = [output for output in outputs.values() if output.error is None]
        reduced = sum(output.details.get("factor", 1) > 1 for output in made)
        target = self._target().system
        how = "sides divided by a number of 2 to 16 before coding, enlarged after, both bicubic"
        why = f"; {reduced} of {len(made)} pictures were reduced first ({how})" if reduced else ""
        if self._metric is not None:
            held = f"The fewest bytes in which each picture reaches the {METRICS[self._way].label} of {target}"
        elif self._way == BYTES_REDUCED:
            held = f"The highest PSNR in at most the bytes of {target}'s file, picture by picture"
        else:
            held = f"The largest quality in at most the bytes of {target}'s file, picture by picture"
            if reduced:
                why = (
                    f"; the lowest is larger in {reduced} of {len(made)} pictures, which were reduced first "
                    f"({how}, by what gives the highest PSNR)"
                )
        return f"{held}{why}. {self._codec.about}."


def _stored_bytes(output: Output) -> int:
    if output.bytes is not None:
        return output.bytes
    if output.thumbnail is None:
        raise EvaluationError("the target has no stored file, so its bytes are not known.")
    return output.thumbnail.stat().st_size
