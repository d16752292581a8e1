"""Rate-distortion curves: the points of one system at several rates, and how two curves compare."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faitheir.evaluation.results import SystemResult

#: (bits per pixel, value) of each point.
Curve = Sequence[tuple[float, float]]

#: Rates at which curves are compared, in bits per pixel.
RATES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)


class Line(NamedTuple):
    """What a curve, or a single point, stands for. ``reduced``: a codec over pictures reduced wherever that helps."""

    name: str
    reduced: bool
    protocol: str
    files: str


def line_of(result: SystemResult) -> Line:
    """A codec's points share a line, and so do those of a model with one lossy thumbnail format."""
    name = result.about.get("codec") or result.about.get("curve") or result.system
    return Line(name, result.about.get("reduced") == "freely", result.protocol, result.about.get("files", ""))


def series(results: Sequence[SystemResult], name: str) -> dict[Line, list[tuple[float, float]]]:
    """Line -> its points for a metric: means over the pictures, in the order of the results."""
    found: dict[Line, list[tuple[float, float]]] = {}
    for result in results:
        rate, value = (result.summary.get(key, math.nan) for key in ("bits_per_pixel", name))
        if result.kind != "published" and math.isfinite(rate) and rate > 0 and math.isfinite(value):
            found.setdefault(line_of(result), []).append((rate, value))
    return found


def labels(lines: Sequence[Line]) -> dict[Line, str]:
    """Names, with what distinguishes two of the same name."""
    protocols, files = {line.protocol for line in lines}, {line.files for line in lines}
    found = {}
    for line in lines:
        label = " ".join(line.name.split()) + (", reduced" if line.reduced else "")
        label += f", {line.protocol}" if len(protocols) > 1 else ""
        found[line] = label + (f", files {line.files[:8]}" if len(files) > 1 else "")
    return found


def bd_rate(anchor: Curve, other: Curve, *, higher: bool) -> tuple[float, tuple[float, float]] | None:
    """Bjontegaard's delta rate in percent, and the values it is of: the bits ``other`` takes more, on average.

    Over the values that both curves reach, with log rate interpolated by straight lines between points; a point that
    another beats at a lower rate is left out. ``higher``: whether higher values are better. None without an overlap.
    """
    (values_a, rates_a), (values_b, rates_b) = (_front(curve, higher) for curve in (anchor, other))
    low, high = max(values_a[0], values_b[0]), min(values_a[-1], values_b[-1])
    if low >= high:
        return None
    grid = np.linspace(low, high, 1001)
    gap = np.interp(grid, values_b, rates_b) - np.interp(grid, values_a, rates_a)
    return float(100 * (np.exp(gap.mean()) - 1)), (low, high) if higher else (-high, -low)


def value_at(curve: Curve, rate: float) -> float | None:
    """The value at a rate, by straight lines over log rate; None outside of the curve."""
    rates, values = zip(*sorted(curve), strict=True)
    if not rates[0] <= rate <= rates[-1]:
        return None
    return float(np.interp(math.log(rate), np.log(rates), values))


def _front(curve: Curve, higher: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values so that more is better, ascending, and the log of the least rate of each."""
    kept: list[tuple[float, float]] = []
    for rate, value in sorted(curve):
        good = value if higher else -value
        if not kept or good > kept[-1][0]:
            kept.append((good, math.log(rate)))
    values, rates = np.array(kept).T
    return values, rates
