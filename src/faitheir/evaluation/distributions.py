"""FID and KID: distances between sets of patches, through their Inception features.

The features are the only part that needs weights; the distances are torch-fidelity's, computed from features.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faitheir.errors import needs
from faitheir.evaluation.measures import clean_file, exact, network_hash
from faitheir.images import UInt8Array

Features = NDArray[np.float32]

#: Values of an Inception feature. FID of no more samples than this rests on a covariance that is not of full rank.
WIDTH = 2048
#: KID is the mean over this many random subsets of this size (Binkowski et al. 2018).
KID_SUBSETS, KID_SUBSET = 100, 1000


@dataclass(frozen=True)
class FeatureExtractor:
    """Patches, uint8 (N, 3, 256, 256) -> features (N, 2048). ``about``: library, version and hash of weights."""

    about: str
    extract: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device

    def __call__(self, rgb: UInt8Array, patches: Sequence[tuple[int, int]], side: int, batch: int) -> Features:
        """Features of the patches of one picture (H, W, 3) by their top and left, ``batch`` at a time."""
        rows = [np.empty((0, WIDTH), np.float32)]
        for start in range(0, len(patches), batch):
            places = patches[start : start + batch]
            cut = np.stack([rgb[top : top + side, left : left + side] for top, left in places])
            x = torch.from_numpy(cut).to(self.device).permute(0, 3, 1, 2).contiguous()
            with exact():
                rows.append(self.extract(x).float().cpu().numpy())
        return np.concatenate(rows)


def load_inception(weights: str | Path | None, device: str | torch.device = "cpu") -> FeatureExtractor:
    """The Inception network of the original FID, through torch-fidelity.

    ``weights``: a local file of what torch-fidelity fetches otherwise (in torch's format or safetensors). Raises
    ModelError or MissingDependencyError, which say what to do, where it is not available.
    """
    with needs("FID and KID need torch-fidelity: pip install 'faitheir[eval]'."):
        from torch_fidelity import feature_extractor_inceptionv3 as inception
    source = "torch-fidelity", inception.URL_INCEPTION_V3
    with clean_file("inception", weights, *source) as path, contextlib.redirect_stderr(io.StringIO()):
        network = inception.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=None if path is None else str(path)
        )
    about = f"torch-fidelity {version('torch-fidelity')}, weights {network_hash(network)}"
    device = torch.device(device)
    network.to(device)
    return FeatureExtractor(about, lambda x: network(x)[0], device)


def fid(a: Features, b: Features) -> float:
    """Frechet distance of two sets of features (N, D), (M, D): 0 where their means and covariances agree."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = (fid_features_to_statistics(torch.from_numpy(x).double()) for x in (a, b))
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kid(a: Features, b: Features) -> float:
    """Kernel distance (unbiased squared MMD under a cubic kernel) of two sets of features (N, D), (M, D).

    The mean over random subsets, always the same ones. Sets smaller than a subset are compared whole, once.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(len(a), len(b), KID_SUBSET)
    options = {"kid_subset_size": size, "kid_subsets": KID_SUBSETS if size == KID_SUBSET else 1, "rng_seed": 2020}
    sets = (torch.from_numpy(x).double() for x in (a, b))
    return float(kid_features_to_metric(*sets, verbose=False, **options)[KEY_METRIC_KID_MEAN])


def caution(name: str, patches: int) -> str | None:
    """Why FID or KID of this number of patches is unreliable; None where it is not."""
    if name == "fid" and patches <= WIDTH:
        return (
            f"of {patches:,} patches only: with no more than the {WIDTH:,} dimensions of a feature the covariance is "
            "not of full rank and FID comes out too high; compare it only with FID of as many patches"
        )
    if name == "kid" and patches < KID_SUBSET:
        return (
            f"of {patches:,} patches only, fewer than KID's subsets of {KID_SUBSET:,}: computed once over all of them, "
            "and uncertain"
        )
    return None
