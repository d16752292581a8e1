"""Restored pictures measured against their originals under a protocol, per picture and over the whole set."""

import contextlib
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from faitheir.devices import resolve_device
from faitheir.errors import DeviceError, EvaluationError, FaithEIRError, ImageError, ModelError, StorageError, reason
from faitheir.evaluation.distributions import FeatureExtractor, caution, fid, kid, load_inception
from faitheir.evaluation.lattice import error_spectra, lattice
from faitheir.evaluation.measures import NETWORKS, PictureMetric, Weights, installed, picture_metric
from faitheir.evaluation.metrics import METRICS, psnr, ssim
from faitheir.evaluation.pairs import check_sizes, find_scale, list_originals, pair
from faitheir.evaluation.protocols import Protocol, find_protocol
from faitheir.evaluation.results import Output, PictureResult, SystemKind, SystemResult, means
from faitheir.evaluation.store import Store
from faitheir.images import UInt8Array, bicubic_thumbnail, picture_size, read_picture
from faitheir.version import __version__

#: Read from files and clocks, whichever metrics are chosen.
FREE = ("thumbnail_bytes", "bytes", "bits_per_pixel", "seconds_down", "seconds_up")

#: The metrics that ``evaluate`` computes.
COMPUTED = tuple(name for name in METRICS if name != "lpips")

_NOTED = ("torch", "torchvision", "numpy", "pillow", "lpips", "torchmetrics", "torch-fidelity", "ssimulacra2", "pyiqa")


def evaluate(
    originals: str | Path | Mapping[str, Path],
    outputs: str | Path | Mapping[str, Path | Output],
    *,
    system: str,
    kind: SystemKind = "restored",
    scale: int | None = None,
    protocol: str | Protocol = "paper",
    metrics: Sequence[str] | None = None,
    weights: Weights | None = None,
    store: Store | None = None,
    batch: int = 16,
    device: str | torch.device = "cpu",
    dataset: str | None = None,
    about: Mapping[str, str] | None = None,
    note: str = "",
    progress: bool = True,
) -> SystemResult:
    """Measure what a system restored, as 8-bit files on disk.

    >>> result = evaluate("photos/", "restored/", system="mine")
    >>> result = evaluate({"a": Path("a.jpg")}, {"a": Output(Path("a.png"), Path("a.thumb.png"))}, system="mine")
    >>> result.summary["psnr"]

    ``originals``, ``outputs``: folders, whose files pair by name (see `pair`), or mappings with the same keys.
    ``scale``: of the thumbnails; by default it is found from their sizes. ``metrics``: names from `METRICS`, by default
    those of the protocol; `FREE` ones are always measured. ``weights``: local files by network (see `NETWORKS`); other
    weights are fetched by the libraries. ``store``: keeps what was computed, by the contents of the files. ``batch``:
    patches that go through Inception at once; whole pictures go one by one, since their sizes differ. ``dataset``,
    ``about``, ``note``: copied into the result.

    A metric that is not available is in the result's ``missing``, with the reason; a picture that cannot be read has
    its ``error``. Raises PairingError, EvaluationError (an unknown metric or protocol) or DeviceError.
    """
    protocol, wanted = check_request(protocol, metrics, weights)
    device = resolve_device(device)
    store = Store() if store is None else store
    if isinstance(originals, (str, Path)):
        dataset = Path(originals).absolute().name if dataset is None else dataset
        originals = list_originals(originals)
    outputs = pair(originals, outputs) if isinstance(outputs, (str, Path)) else _as_outputs(originals, outputs)
    check_sizes(originals, {name: output.restored for name, output in outputs.items() if output.error is None})
    scale = scale or find_scale(originals, outputs)
    tools, missing = _open(wanted, protocol, scale, weights or {}, device, batch)
    if not any(output.thumbnail for output in outputs.values()):
        for name in ("thumbnail_psnr", "thumbnail_ssim"):
            tools.thumbnails.pop(name, None)
            missing.pop(name, None)
            if name in (metrics or ()):
                missing[name] = "no thumbnails are stored; if there are some, name their folder with --thumbnails."

    results: list[PictureResult] = []
    shares: list[_Share] = []
    with tqdm(originals, desc=f"measuring {system}", unit="picture", disable=None if progress else True) as bar:
        for picture in bar:
            result, share = _measure(picture, originals[picture], outputs[picture], tools, store)
            results.append(result)
            shares += [] if share is None else [share]

    summary, warnings = means(result.values for result in results), dict[str, str]()
    for name in (*tools.pairs, *tools.thumbnails):
        count = sum(name in result.values for result in results)
        if count == 0:
            missing[name] = "no picture has a value: see their errors, or they are too small."
        elif count < len(results):
            warnings[name] = f"the mean of {count} of {len(results)} pictures: the others failed or are too small"
    patches = sum(len(share.features[0]) for share in shares if share.features is not None)
    for name in tools.sets:
        try:
            summary[name] = _of_set(name, shares, tools, store)
        except Exception as error:  # of any kind: it concerns this metric only
            missing[name] = reason(error)
            continue
        cautions = [caution(name, patches)]
        if len(shares) < len(results):
            cautions.append(f"of {len(shares)} of {len(results)} pictures: the others failed")
        if any(cautions):
            warnings[name] = "; ".join(filter(None, cautions))

    facts = {
        "protocol": protocol.description,
        "dataset": dataset or "",
        "files": files_hash(originals),
        "pictures": str(len(originals)),
        "patches": str(patches or ""),
        "device": f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device),
        "faitheir": __version__,
        "python": platform.python_version(),
    }
    facts |= {name: installed(name) or "" for name in _NOTED}
    facts |= {f"metric {name}": text for name, text in tools.abouts().items()}
    return SystemResult(
        system=system,
        kind=kind,
        protocol=protocol.name,
        scale=scale,
        pictures=tuple(results),
        summary=summary,
        missing=missing,
        warnings=warnings,
        about={key: value for key, value in facts.items() if value} | dict(about or {}),
        note=note,
    )


def check_request(
    protocol: str | Protocol, metrics: Sequence[str] | None = None, weights: Weights | None = None
) -> tuple[Protocol, list[str]]:
    """The protocol and the metrics to measure; EvaluationError for an unknown protocol, metric or network."""
    protocol = find_protocol(protocol)
    wanted = list(protocol.metrics if metrics is None else metrics)
    for name in wanted:
        if name not in COMPUTED:
            raise EvaluationError(f"Unknown metric '{name}'; choose from {', '.join(COMPUTED)}.")
    for name in weights or ():
        if name not in NETWORKS.values():
            known = ", ".join(dict.fromkeys(NETWORKS.values()))
            raise EvaluationError(f"Weights are given for the unknown network '{name}'; the networks are {known}.")
    return protocol, wanted


def files_hash(originals: Mapping[str, Path]) -> str:
    """16 hexadecimal digits over the names and contents of the originals: they identify the data set."""

    def content(path: Path) -> str:
        try:
            return Store.hash(path)
        except (ImageError, StorageError):
            return "unreadable"

    return Store.key(*(f"{picture}\0{content(path)}" for picture, path in sorted(originals.items())))[:16]


def _as_outputs(originals: Mapping[str, Path], outputs: Mapping[str, Path | Output]) -> dict[str, Output]:
    if originals.keys() != outputs.keys():
        odd = sorted(originals.keys() ^ outputs.keys())
        raise EvaluationError(f"originals and outputs must have the same names; '{odd[0]}' is in one of them only.")
    return {name: value if isinstance(value, Output) else Output(Path(value)) for name, value in outputs.items()}


@dataclass
class _Tools:
    """Metrics ready to use: of pairs of pictures, of thumbnails, and of the whole set."""

    protocol: Protocol
    scale: int | None
    batch: int
    pairs: dict[str, PictureMetric] = field(default_factory=dict)
    thumbnails: dict[str, PictureMetric] = field(default_factory=dict)
    sets: list[str] = field(default_factory=list)
    inception: FeatureExtractor | None = None

    def abouts(self) -> dict[str, str]:
        """Metric -> library, version and weights."""
        abouts = {name: metric.about for name, metric in (self.pairs | self.thumbnails).items()}
        if self.inception is not None:
            abouts |= {name: self.inception.about for name in self.sets if name != "lattice"}
        return abouts


@dataclass
class _Share:
    """What one picture contributes to the metrics of the set; ``key``: of the files that it was computed from."""

    key: str
    features: tuple[np.ndarray, np.ndarray] | None = None
    spectra: np.ndarray | None = None


def _open(
    wanted: Iterable[str], protocol: Protocol, scale: int | None, weights: Weights, device: torch.device, batch: int
) -> tuple[_Tools, dict[str, str]]:
    """The tools, and metric -> why it is not available."""
    tools, missing = _Tools(protocol, scale, batch), dict[str, str]()
    for name in wanted:
        try:
            if name in ("fid", "kid"):
                if other := {"fid", "kid"} & missing.keys():  # one failed download is enough
                    raise EvaluationError(missing[other.pop()])
                tools.inception = tools.inception or load_inception(weights.get("inception"), device)
                tools.sets.append(name)
            elif name == "lattice":
                if scale is None or scale < 4:
                    raise EvaluationError("a lattice is that of a scale of 4 or more; give it with --scale.")
                tools.sets.append(name)
            elif name in ("thumbnail_psnr", "thumbnail_ssim"):
                if scale is None:
                    raise EvaluationError("the scale of the thumbnails is not known; give it with --scale.")
                function = psnr if name == "thumbnail_psnr" else ssim
                tools.thumbnails[name] = PictureMetric(name, f"faitheir {__version__}, scale {scale}", function)
            elif name not in FREE:
                tools.pairs[name] = picture_metric(name, protocol=protocol, scale=scale, weights=weights, device=device)
        except Exception as error:  # of any kind: this metric is missing, and the others are computed
            missing[name] = reason(error)
            if isinstance(error, ModelError):
                missing[name] += f" (--weights {NETWORKS[name]}=PATH)"
    return tools, missing


class _Problems:
    """What went wrong with one picture, in order, every sentence once."""

    def __init__(self) -> None:
        self.sentences: dict[str, None] = {}

    @contextlib.contextmanager
    def noted(self, what: str = "") -> Iterator[None]:
        """Errors of any kind concern this picture only, and the rest goes on."""
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:
            text = reason(error)
            self.sentences[text if isinstance(error, FaithEIRError) or not what else f"{what}: {text}"] = None


def _measure(
    picture: str, original: Path, output: Output, tools: _Tools, store: Store
) -> tuple[PictureResult, _Share | None]:
    """One picture, measured as far as its files can be read; its share of the set's metrics only if all can."""
    problems = _Problems()
    values: dict[str, float] = {}
    share = None
    width = height = 0
    with problems.noted():
        width, height = picture_size(original)
    if output.error is not None:
        problems.sentences[output.error] = None
    if not problems.sentences:
        with problems.noted():
            values |= _free(output, width * height)
        with problems.noted():
            hashes = Store.hash(original), Store.hash(output.restored)
            both = cache(lambda: (read_picture(original).rgb, read_picture(output.restored).rgb))
            values |= _remembered(store, Store.key("values", *hashes), tools.pairs, both, problems)
            share = _share(hashes, both, tools, store)
        if output.thumbnail is not None and tools.thumbnails:
            with problems.noted():
                key = Store.key("values", hashes[0], Store.hash(output.thumbnail))
                small = cache(partial(_thumbnails, original, output.thumbnail, tools.scale or 0))
                values |= _remembered(store, key, tools.thumbnails, small, problems)
    files = (original, output.thumbnail, output.restored)
    paths = [str(path.absolute()) if path is not None and path.is_file() else None for path in files]
    error = " ".join(problems.sentences) or None
    return PictureResult(picture, width, height, values, error, *paths), None if error else share


def _free(output: Output, pixels: int) -> dict[str, float]:
    thumbnail = None if output.thumbnail is None else output.thumbnail.stat().st_size
    stored = thumbnail if output.bytes is None else output.bytes
    found = {
        "thumbnail_bytes": thumbnail,
        "bytes": stored,
        "bits_per_pixel": None if stored is None else 8 * stored / pixels,
        "seconds_down": output.seconds_down,
        "seconds_up": output.seconds_up,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _remembered(
    store: Store,
    key: str,
    metrics: Mapping[str, PictureMetric],
    pictures: Callable[[], tuple[UInt8Array, UInt8Array]],
    problems: _Problems,
) -> dict[str, float]:
    """The metrics' values where they are defined; files are opened only for what the store does not hold."""
    entry = store.entry(key)
    values = {}
    for name, metric in metrics.items():
        bound = f"{name}: {metric.about}"
        if bound not in entry:
            with problems.noted(METRICS[name].label):
                entry[bound] = metric(*pictures())
                store.write_entry(key, entry)
        if not math.isnan(value := entry.get(bound, math.nan)):
            values[name] = value
    return values


def _thumbnails(original: Path, thumbnail: Path, scale: int) -> tuple[UInt8Array, UInt8Array]:
    """The bicubic thumbnail and the stored one."""
    reference, small = bicubic_thumbnail(read_picture(original).rgb, scale), read_picture(thumbnail).rgb
    if reference.shape != small.shape:
        (h, w), (g, v) = reference.shape[:2], small.shape[:2]
        raise EvaluationError(f"{thumbnail} is {v} x {g} pixels, and at scale {scale} it should be {w} x {h}.")
    return reference, small


def _share(
    hashes: tuple[str, str], both: Callable[[], tuple[UInt8Array, UInt8Array]], tools: _Tools, store: Store
) -> _Share | None:
    if not tools.sets:
        return None
    share = _Share(Store.key(*hashes))
    if tools.inception is not None:
        protocol, extract = tools.protocol, tools.inception

        def features(which: int) -> np.ndarray:
            def compute() -> np.ndarray:
                rgb = both()[which]
                return extract(rgb, list(protocol.patches(*rgb.shape[:2])), protocol.patch, tools.batch)

            key = Store.key("features", hashes[which], extract.about, protocol.patch, *protocol.shifts)
            return store.array(key, compute)

        share.features = features(0), features(1)
    if "lattice" in tools.sets:
        scale = tools.scale or 0
        share.spectra = store.array(Store.key("spectra", *hashes, scale), lambda: error_spectra(*both(), scale))
    return share


def _of_set(name: str, shares: Sequence[_Share], tools: _Tools, store: Store) -> float:
    """Raises EvaluationError where the pictures are too few or too small."""
    if name == "lattice":
        spectra = [share.spectra for share in shares if share.spectra is not None]
        if not spectra:
            raise EvaluationError("no picture could be measured: see their errors.")
        return lattice(spectra, tools.scale or 0)
    pairs = [share.features for share in shares if share.features is not None]
    if sum(len(features[0]) for features in pairs) < 2:
        side = tools.protocol.patch
        raise EvaluationError(f"there are not two patches of {side} x {side} pixels in these pictures.")
    a, b = (np.concatenate(features) for features in zip(*pairs, strict=True))
    assert tools.inception is not None
    key = Store.key(name, tools.inception.about, tools.protocol.patch, *tools.protocol.shifts, *(s.key for s in shares))
    entry = store.entry(key)
    if name not in entry:
        entry = {name: (fid if name == "fid" else kid)(a, b)}
        store.write_entry(key, entry)
    return float(entry[name])
