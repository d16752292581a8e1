"""Metrics of one picture, ready to be called, and what their values depend on: library, version, weights."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from faitheir.errors import EvaluationError, ModelError, needs
from faitheir.evaluation.metrics import METRICS, psnr, ssim
from faitheir.evaluation.niqe import load_niqe, niqe
from faitheir.evaluation.protocols import Protocol, find_protocol
from faitheir.evaluation.store import file_hash
from faitheir.features import (
    average_pooled,
    feature_distance,
    load_feature_network,
    load_lpips,
    read_state,
    wasserstein_distortion,
)
from faitheir.images import UInt8Array
from faitheir.models import weights_hash
from faitheir.version import __version__

#: Metric -> the network whose weights it needs, by the name under which a local file of them is given.
NETWORKS = {
    "lpips_alex": "alexnet",
    "lpips_vgg": "vgg16",
    "dists": "vgg16",
    "dists_256": "vgg16",
    "wasserstein": "vgg16",
    "niqe": "niqe",
    "fid": "inception",
    "kid": "inception",
    "musiq": "musiq",
    "squeezenet_distance": "squeezenet",
}

#: Pictures with a side below this leave the networks no features, so these metrics are nan there.
MIN_SIDE = 32

Weights = Mapping[str, str | Path]


@dataclass(frozen=True)
class PictureMetric:
    """Call it with original and restored picture, uint8 (H, W, 3): the value, nan where it is not defined.

    ``about``: what the values depend on besides the pictures: library and version, hash of weights, settings.
    """

    name: str
    about: str
    measure: Callable[[UInt8Array, UInt8Array], float]

    def __call__(self, original: UInt8Array, restored: UInt8Array) -> float:
        """Raises ValueError where sizes differ."""
        if original.shape != restored.shape:
            raise ValueError(f"both pictures must have one size, not {original.shape} and {restored.shape}.")
        return self.measure(original, restored)


def picture_metric(
    name: str,
    *,
    protocol: str | Protocol = "paper",
    scale: int | None = None,
    weights: Weights | None = None,
    device: str | torch.device = "cpu",
) -> PictureMetric:
    """The metric ``name`` of one picture, under a protocol.

    ``scale``: needed where the protocol's border is as wide as it. ``weights``: local files by network (`NETWORKS`);
    others are fetched by the library that publishes them. Raises EvaluationError, ModelError or
    MissingDependencyError, which say what to do, where the metric is not available.
    """
    protocol = find_protocol(protocol)
    weights = {} if weights is None else weights
    device = torch.device(device)
    if name in ("psnr", "ssim"):
        return _fidelity(name, protocol, scale)
    if name in ("lpips_alex", "lpips_vgg"):
        net: Literal["alex", "vgg"] = "alex" if name == "lpips_alex" else "vgg"
        lpips = load_lpips(net, weights.get("alexnet" if net == "alex" else "vgg16"))
        return _of_network(name, f"lpips {version('lpips')}", lpips, lpips, device)
    if name in ("dists", "dists_256"):
        dists = _load_dists(weights.get("vgg16"))
        metric = _of_network(name, f"torchmetrics {version('torchmetrics')}", dists, dists, device)
        return metric if name == "dists" else _at_256(metric)
    if name == "wasserstein":
        vgg16 = average_pooled(load_feature_network("vgg16", weights.get("vgg16")))
        distortion = partial(wasserstein_distortion, vgg16)
        return _of_network(name, f"faitheir {__version__}", vgg16, distortion, device, 64)
    if name == "ms_ssim":
        return _ms_ssim(device)
    if name == "ssimulacra2":
        return _ssimulacra2()
    if name == "niqe":
        if "niqe" not in weights:
            raise ModelError("NIQE needs a local file of its model, niqe_pris_params.npz as BasicSR publishes it.")
        model, digest = load_niqe(weights["niqe"]), file_hash(Path(weights["niqe"]))[:16]
        about = f"faitheir {__version__}, model {digest}"
        return PictureMetric(name, about, lambda _, restored: niqe(restored, model))
    if name == "musiq":
        musiq = _load_musiq(weights.get("musiq"), device)
        return _of_network(name, f"pyiqa {version('pyiqa')}", musiq, lambda _, restored: musiq(restored), device)
    if name == "squeezenet_distance":
        if "squeezenet" not in weights:
            raise ModelError("the SqueezeNet distance needs a local file of squeezenet1_0 as torchvision names it.")
        squeezenet = load_feature_network("squeezenet", weights["squeezenet"])
        distance = partial(feature_distance, squeezenet)
        return _of_network(name, f"faitheir {__version__}", squeezenet, distance, device)
    known = ", ".join(METRICS)
    raise EvaluationError(f"'{name}' is no metric of one picture that is computed here; the metrics are {known}.")


def to_tensor(rgb: UInt8Array, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(2, 0, 1)[None].float() / 255


def network_hash(network: nn.Module) -> str:
    """16 hexadecimal digits over all of a network's weights, however they were stored."""
    return weights_hash(network.state_dict())


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """No gradients, and float32 that is float32 on every GPU."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        yield


def _fidelity(name: str, protocol: Protocol, scale: int | None) -> PictureMetric:
    border = scale if protocol.border is None else protocol.border
    if border is None:
        raise EvaluationError(
            f"the protocol '{protocol.name}' leaves out a border as wide as the scale, and the scale is not known; "
            "give it with --scale."
        )

    def measure(original: UInt8Array, restored: UInt8Array) -> float:
        if border and min(original.shape[:2]) <= 2 * border:
            return float("nan")
        a, b = (p[border : len(p) - border, border : p.shape[1] - border] for p in (original, restored))
        return (psnr if name == "psnr" else ssim)(a, b, luma=protocol.luma)

    pixels = f"{'Y' if protocol.luma else 'RGB'}, border {border}"
    return PictureMetric(name, f"faitheir {__version__}, {pixels}", measure)


def _of_network(
    name: str,
    library: str,
    network: nn.Module,
    distance: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    least: int = MIN_SIDE,
) -> PictureMetric:
    about = f"{library}, weights {network_hash(network)}"
    network.requires_grad_(False).eval().to(device)
    return _of_tensors(name, about, distance, device, least)


def _of_tensors(
    name: str, about: str, distance: Callable[[Tensor, Tensor], Tensor], device: torch.device, least: int
) -> PictureMetric:
    """``distance``: of pictures (1, 3, H, W) in [0, 1]. ``least``: nan where a side is below this."""

    def measure(original: UInt8Array, restored: UInt8Array) -> float:
        if min(original.shape[:2]) < least:
            return float("nan")
        with exact():
            return float(distance(to_tensor(original, device), to_tensor(restored, device)))

    return PictureMetric(name, about, measure)


def _at_256(metric: PictureMetric) -> PictureMetric:
    """The metric on pictures whose shorter side is reduced to 256 pixels (bilinear), as DISTS' authors' script does."""

    def reduced(rgb: UInt8Array) -> UInt8Array:
        height, width = rgb.shape[:2]
        if (short := min(height, width)) <= 256:
            return rgb
        size = 256 * width // short, 256 * height // short
        return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))

    about = f"{metric.about}, shorter side 256"
    return PictureMetric(metric.name, about, lambda a, b: metric.measure(reduced(a), reduced(b)))


def _ms_ssim(device: torch.device) -> PictureMetric:
    """Wang et al. 2003: five scales, so sides of at least 11 x 16 pixels."""
    with needs("MS-SSIM needs torchmetrics: pip install 'faitheir[eval]'."):
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
    about = f"torchmetrics {version('torchmetrics')}"
    return _of_tensors("ms_ssim", about, lambda a, b: ms_ssim(b, a, data_range=1.0), device, 176)


def _ssimulacra2() -> PictureMetric:
    """Not below 256 x 256 pixels, where there are fewer than the six scales that its weights are for.

    At the left and right ends of rows the package mirrors what libjxl's own program takes as black, which gives flat
    pictures of 256 x 256 pixels 2 to 6 points more, and larger ones less.
    """
    with needs("SSIMULACRA2 needs ssimulacra2: pip install 'faitheir[eval]'."):
        from ssimulacra2 import compute_ssimulacra2

    def measure(original: UInt8Array, restored: UInt8Array) -> float:
        if min(original.shape[:2]) < 256:
            return float("nan")
        files = io.BytesIO(), io.BytesIO()
        for file, rgb in zip(files, (original, restored), strict=True):
            Image.fromarray(rgb).save(file, "bmp")
        return float(compute_ssimulacra2(*files))

    return PictureMetric("ssimulacra2", f"ssimulacra2 {version('ssimulacra2')}", measure)


def _load_dists(weights: str | Path | None) -> nn.Module:
    with needs("DISTS needs torchmetrics: pip install 'faitheir[eval]'."):
        from torchmetrics.functional.image import dists
    trunk = SimpleNamespace(features=load_feature_network("vgg16", weights).layers)
    # torchmetrics has no way to give its VGG16 weights from a file: it is handed ours, loaded, where it asks for one.
    theirs = dists.vgg16
    try:
        dists.vgg16 = lambda weights: trunk  # noqa: ARG005
        network: nn.Module = dists.DISTSNetwork()
    finally:
        dists.vgg16 = theirs
    return network


def _load_musiq(weights: str | Path | None, device: torch.device) -> nn.Module:
    text = "MUSIQ needs pyiqa, whose licence forbids commercial use: pip install 'faitheir[musiq]'."
    with needs(text), contextlib.redirect_stdout(io.StringIO()):
        import pyiqa
    source = "pyiqa", "its file musiq_koniq_ckpt-e95806b9.pth"
    with clean_file("musiq", weights, *source) as path, contextlib.redirect_stdout(sys.stderr):
        options = {} if path is None else {"pretrained_model_path": str(path)}
        network: nn.Module = pyiqa.create_metric("musiq", device=device, **options)
    return network


@contextlib.contextmanager
def clean_file(name: str, weights: str | Path | None, library: str, what: str) -> Iterator[Path | None]:
    """A file of the tensors in ``weights`` and nothing else, for libraries that would unpickle all of it.

    None where ``library`` fetches ``what`` itself. Raises ModelError where it cannot, or the tensors do not fit.
    """
    state = None if weights is None else read_state(name, weights)
    with tempfile.TemporaryDirectory(prefix="faitheir-") as folder:
        path = Path(folder) / f"{name}.pth"
        try:
            torch.save(state, path)
            yield None if state is None else path
        except OSError as error:
            raise ModelError(
                f"the weights of '{name}' could not be fetched by {library} ({error}); get {what} elsewhere and give "
                "the file."
            ) from None
        except (RuntimeError, KeyError):
            raise ModelError(f"{weights}: these are not the weights of '{name}'.") from None
