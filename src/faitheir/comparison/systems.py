"""What can be compared: models, resampling, codecs, and what is there already. `peers` has other people's."""

import math
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faitheir.comparison.codecs import CODECS, SEARCH, Coded, decode, encode, encode_reaching, encode_within
from faitheir.comparison.produce import Setting, System
from faitheir.comparison.tables import RATE
from faitheir.devices import resolve_device
from faitheir.errors import EvaluationError
from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import METRICS
from faitheir.evaluation.pairs import find_scale, pair
from faitheir.evaluation.results import Output, SystemKind
from faitheir.evaluation.roundtrip import rescale
from faitheir.evaluation.store import Store
from faitheir.images import Picture, UInt8Array, pad_to_multiple, read_picture, write_picture
from faitheir.models import find_model, read_config
from faitheir.pipeline import FaithEIRPipeline
from faitheir.storage import write_atomic
from faitheir.thumbnail import Thumbnail, thumbnail_format

RESAMPLINGS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

#: Ways of holding a codec to bytes, and the metrics that it can be matched to.
BYTES, BYTES_REDUCED = "bytes", "bytes-reduced"
HELD_TO = ("psnr", "ssim", "lpips_alex", "lpips_vgg", "dists", "squeezenet_distance")

_CODEC_LABELS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpegxl": "JPEG XL"}


class ModelSystem(System):
    """A model, through its thumbnail file.

    It is given pixels only: EXIF and profile would count as bytes of its thumbnails, and of no codec's files.
    """

    kind = "model"

    def __init__(
        self,
        source: str,
        setting: Setting,
        label: str | None = None,
        *,
        fidelity: float = 0.0,
        stored: tuple[str, int] | None = None,
    ) -> None:
        """``source``: as for ``find_model``, which raises ModelError. ``fidelity``: how it restores.

        ``stored``: format and quality of lossy thumbnails; the setting's lossless ones otherwise.
        """
        self._folder, self._setting, self._fidelity, self._stored = find_model(source), setting, fidelity, stored
        config = read_config(self._folder)
        self._name = f"{config.name}@{fidelity:g}" if fidelity else config.name
        lossy = f"[{stored[0]}:{stored[1]}]" if stored else ""
        super().__init__(label or self._name + lossy, config.codec.scale, {})
        self.suffix = f".{stored[0]}" if stored else setting.suffix

    def load(self) -> None:
        """The weights, which name what files depend on."""
        s = self._setting
        self.pipeline = FaithEIRPipeline.from_pretrained(
            self._folder, base=s.base, device=s.device, dtype=s.dtype, tile=s.tile, fidelity=self._fidelity
        )
        self.about = {
            "model": self.pipeline.name,
            "model_weights": self.pipeline.weights,
            "model_device": self.pipeline.device.type,
            "model_dtype": str(self.pipeline.dtype).removeprefix("torch."),
            "model_tile": str(self.pipeline.tile),
            "model_fidelity": f"{self.pipeline.fidelity:g}",
        }
        if self._stored:
            name, quality = self._stored
            self.about |= {"held_to": RATE, "curve": f"{self._name} {name}", "thumbnail_quality": str(quality)}

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:  # noqa: ARG002
        """The first picture of a process pays for what the later ones do not: here it is one that is not measured."""
        self.pipeline.upscale_thumbnail(self.pipeline.downscale_picture(Picture(np.zeros((64, 64, 3), np.uint8))))

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:  # noqa: ARG002
        """Down to the thumbnail's file, and back from what that file holds."""
        photograph = Picture(read_picture(original).rgb)
        quality = self._stored[1] if self._stored else None

        def stored_as(thumbnail: Thumbnail) -> tuple[bytes, str]:
            format_ = thumbnail_format(stored)
            return thumbnail.encode(format_, quality=quality, lossless=quality is None), format_

        done = rescale(self.pipeline, photograph, stored_as)
        write_atomic(stored, done.data)
        write_picture(restored, done.restored)
        return {"seconds_down": done.seconds_down, "seconds_up": done.seconds_up}


class Resampling(System):
    """A thumbnail that Pillow made, stored as ours are, and enlarged by the same filter.

    Its subclasses enlarge it otherwise.
    """

    kind: SystemKind = "resampling"

    def __init__(self, name: str, setting: Setting, label: str | None = None) -> None:
        self.factor = setting.scale or 16
        about = {"thumbnail": f"{name}, Pillow {version('pillow')}", "scale": str(self.factor), "enlarged": name}
        super().__init__(label or name, self.factor, about)
        self.suffix = setting.suffix
        self._filter = RESAMPLINGS[name]

    def small(self, rgb: UInt8Array) -> UInt8Array:
        """(H, W, 3) -> (ceil(H / s), ceil(W / s), 3)."""
        padded = pad_to_multiple(rgb, self.factor)
        return self._resized(padded, (padded.shape[1] // self.factor, padded.shape[0] // self.factor))

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        """Through the thumbnail's file."""
        rgb = read_picture(original).rgb
        started = time.perf_counter()
        small = self.small(rgb)
        down = time.perf_counter() - started
        Thumbnail(Picture(small), None).save(stored, lossless=True)
        small = read_picture(stored).rgb
        started = time.perf_counter()
        large = self.large(picture, small, (rgb.shape[0], rgb.shape[1]))
        up = time.perf_counter() - started
        write_picture(restored, Picture(np.ascontiguousarray(large[: rgb.shape[0], : rgb.shape[1]])))
        return {"seconds_down": down, "seconds_up": up}

    def large(self, picture: str, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:  # noqa: ARG002
        """A picture's thumbnail enlarged by the scale, or to the original's (height, width)."""
        return self._resized(small, (small.shape[1] * self.factor, small.shape[0] * self.factor))

    def _resized(self, rgb: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        return np.array(Image.fromarray(rgb).resize(size, self._filter))


class Restored(System):
    """What another program has restored: ``folders`` is DIR, or DIR:THUMBNAILS.

    The setting's scale is for thumbnails that do not tell theirs.
    """

    kind = "restored"

    def __init__(self, folders: str, setting: Setting, label: str | None = None) -> None:
        """Raises EvaluationError where a folder is missing."""
        whole, thumbnails = Path(folders), None
        if not whole.is_dir() and ":" in folders:
            whole, thumbnails = map(Path, folders.rsplit(":", 1))
        for path in (whole, thumbnails):
            if path is not None and not path.is_dir():
                raise EvaluationError(f"restored:{folders}: {path} is not a folder.")
        super().__init__(label or whole.name, setting.scale, {"folder": str(whole)})
        self._whole, self._thumbnails = whole, thumbnails

    def outputs(self, originals: Mapping[str, Path], *_: Any, **__: Any) -> dict[str, Output]:
        """Nothing is made; raises PairingError where files do not pair."""
        self.made = pair(originals, self._whole, self._thumbnails)
        self.scale = find_scale(originals, self.made) or self.scale
        return self.made


class CodecSystem(System):
    """A codec, matched to a rate, to the target's bytes or to its value of a metric, picture by picture.

    ``needs_target``: then ``target`` must be set, and have made its files, before this one makes its own.
    """

    kind = "codec"
    kept = "coded"
    target: System

    def __init__(self, name: str, setting: Setting, label: str | None = None, *, way: str = BYTES) -> None:
        """``way``: `BYTES`, `BYTES_REDUCED`, one of `HELD_TO`, or a rate such as "0.05bpp".

        Raises MissingDependencyError or ModelError.
        """
        self._codec, self._way, self._metric = CODECS[name](), way, None
        self.needs_target = not way.endswith("bpp")
        about = {"codec": name, "held_to": BYTES if self.needs_target else RATE, "coder": self._codec.about}
        held, free = "bytes", ""
        if not self.needs_target:
            held, about["rate"] = way.replace("bpp", " bpp"), way
        elif way in (BYTES, BYTES_REDUCED):
            about["reduced"] = "where needed" if way == BYTES else "freely"
            free = "" if way == BYTES else ", reduced"
        else:
            held, device = METRICS[way].label, resolve_device(setting.device)
            self._metric = picture_metric(
                way, protocol=setting.protocol, scale=setting.scale, weights=setting.weights, device=device
            )
            about |= {"held_to": way, "metric": self._metric.about}
        equal = "equal " if self.needs_target else ""
        super().__init__(label or f"{_CODEC_LABELS[name]}{free} at {equal}{held}", setting.scale or 16, about)
        self.suffix = self._codec.suffix

    def settings(self, picture: str) -> str:
        """With what the target left of this picture, if there is one: its bytes, or the picture that came back."""
        if not self.needs_target:
            return repr((SEARCH, sorted(self.about.items())))
        self.about["target"] = self.target.system
        output = self._of_target(picture)
        held_to = str(_stored_bytes(output)) if self._metric is None else Store.hash(output.restored)
        about = {key: value for key, value in self.about.items() if key != "target"}
        return repr((SEARCH, sorted(about.items()), held_to))

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        """Search, then encode and decode once more and measure the time."""
        rgb = read_picture(original).rgb
        coded = self._encode(rgb, picture)
        started = time.perf_counter()
        data = encode(self._codec, rgb, coded.quality, coded.factor)
        down = time.perf_counter() - started
        started = time.perf_counter()
        back = decode(self._codec, data, rgb.shape)
        up = time.perf_counter() - started
        stored.write_bytes(data)
        write_picture(restored, Picture(back))
        details = {"quality": float(coded.quality), "factor": float(coded.factor)}
        return {"seconds_down": down, "seconds_up": up, "details": details}

    def _encode(self, rgb: UInt8Array, picture: str) -> Coded:
        if not self.needs_target:
            pixels = rgb.shape[0] * rgb.shape[1]
            return encode_within(self._codec, rgb, int(float(self._way.removesuffix("bpp")) * pixels / 8))
        output = self._of_target(picture)
        if (metric := self._metric) is None:
            freely = self._way == BYTES_REDUCED
            return encode_within(self._codec, rgb, _stored_bytes(output), freely=freely)
        wanted = metric(rgb, read_picture(output.restored).rgb)
        if math.isnan(wanted):
            raise EvaluationError(f"{METRICS[self._way].label} is not defined for {self.target.system}'s picture.")
        sign = 1 if METRICS[self._way].direction == "higher" else -1
        return encode_reaching(self._codec, rgb, lambda back: sign * metric(rgb, back) >= sign * wanted)

    def _of_target(self, picture: str) -> Output:
        output = self.target.made[picture]
        if output.error is not None:
            raise EvaluationError(f"there is no file of {self.target.system} to hold it to ({output.error})")
        return output

    def note(self) -> str:
        """What it was matched to, and how many pictures had to be reduced for it."""
        made = [output for output in self.made.values() if output.error is None]
        reduced = sum(output.details.get("factor", 1) > 1 for output in made)
        rate = self._way.replace("bpp", " bits per pixel")
        bytes_of = f"the bytes of {self.target.system}'s file" if self.needs_target else rate
        how = "sides divided by a number of 2 to 16 before coding, enlarged after, both bicubic"
        why = f"; {reduced} of {len(made)} pictures were reduced first ({how})" if reduced else ""
        if self._metric is not None:
            label = METRICS[self._way].label
            held = f"The fewest bytes in which each picture reaches the {label} of {self.target.system}"
        elif self._way == BYTES_REDUCED:
            held = f"The highest PSNR in at most {bytes_of}, picture by picture"
        else:
            held = f"The largest quality in at most {bytes_of}, reduced where none fits, picture by picture"
        return f"{held}{why}. {self._codec.about}."


def _stored_bytes(output: Output) -> int:
    if output.bytes is not None:
        return output.bytes
    if output.thumbnail is None:
        raise EvaluationError("the target has no stored file, so its bytes are not known.")
    return output.thumbnail.stat().st_size
