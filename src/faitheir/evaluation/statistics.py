"""How far means over pictures can be trusted: bootstrap intervals, and a paired test between two systems.

Pictures are taken as a random sample of those one could have measured. The random numbers are always the same.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 5_000


class Difference(NamedTuple):
    """``mean`` of the paired differences, its 95 % interval, and the p-value of there being none."""

    mean: float
    interval: tuple[float, float]
    p: float


@lru_cache(maxsize=10_000)
def interval(values: tuple[float, ...]) -> tuple[float, float] | None:
    """95 % interval of a mean: percentile bootstrap over the values. None for fewer than two or an infinite one."""
    x = np.array([value for value in values if not np.isnan(value)])
    if len(x) < 2 or not np.isfinite(x).all():
        return None
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=(100, len(x)))].mean(1) for _ in range(RESAMPLES // 100)]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> Difference | None:
    """``a`` minus ``b`` over the pictures (the keys) that both have; None where `interval` has none.

    The p-value is two-sided, by flipping the signs of the differences, in all ways or at random: between systems that
    are equally good, each difference might as well have the other sign.
    """
    names = sorted(a.keys() & b.keys())
    with np.errstate(invalid="ignore"):
        x = np.array([a[name] for name in names]) - np.array([b[name] for name in names])
    if (found := interval(tuple(x.tolist()))) is None:
        return None
    x = x[~np.isnan(x)]
    if 2 ** len(x) <= RESAMPLES:
        signs = np.arange(2 ** len(x))[:, None] >> np.arange(len(x)) & 1
    else:  # what was observed counts as one of the flips
        signs = np.random.default_rng(0).integers(2, size=(RESAMPLES, len(x)), dtype=np.int8)
        signs[0] = 1
    # Rounding must not tell a sum from itself in another order.
    extreme = np.abs((signs * 2.0 - 1) @ x) >= abs(x.sum()) * (1 - 1e-12)
    return Difference(float(x.mean()), found, float(extreme.mean()))
