"""Rate-distortion plots: bits per pixel against each metric, by matplotlib (an optional extra)."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faitheir.comparison.curves import Line, labels, line_of, series
from faitheir.comparison.tables import drawn_metrics, metric
from faitheir.errors import EvaluationError, needs
from faitheir.evaluation.results import SystemResult
from faitheir.storage import write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, distinct with any colour vision, without their black and yellow.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# A placeholder for the page's own colour, so that the drawing follows a light or dark page.
_INK = "#010203"


def rate_distortion(
    results: Sequence[SystemResult], metrics: Sequence[str] | None = None, *, ink: str = "black"
) -> "Figure":
    """A panel for each metric: mean bits per pixel (logarithmic) against its value, a point for each system.

    The points of one codec, which stand for several rates, are joined. Published results have no bits per pixel and
    are not drawn. ``ink``: the colour of text, axes and models. Raises EvaluationError where nothing can be drawn,
    MissingDependencyError without matplotlib.
    """
    with needs("Plots need matplotlib: pip install 'faitheir[eval]'."):
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    names = drawn_metrics(results, metrics)
    if not names:
        raise EvaluationError("there is nothing to draw: no system has both bits per pixel and a ranked metric.")

    lines = list(dict.fromkeys(line for name in names for line in series(results, name)))
    models = [line for line in lines if line in {line_of(result) for result in results if result.kind == "model"}]
    styles: dict[Line, dict[str, Any]] = {}
    for index, line in enumerate(models):
        look = {"marker": "*h"[index // 2 % 2], "fillstyle": ("full", "none")[index % 2]}
        styles[line] = look | {"color": ink, "markersize": 13, "zorder": 3}
    # The lists are of coprime lengths: 42 systems before two look alike.
    others = list(dict.fromkeys(line._replace(reduced=False) for line in lines if line not in models))
    for index, line in enumerate(others):
        style = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)], "markersize": 7}
        styles[line] = style
        styles[line._replace(reduced=True)] = style | {"linestyle": "--", "fillstyle": "none", "markersize": 10}

    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    theme = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink)
    with mpl.rc_context({**theme, "font.size": 11.0, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(max(5.0, 4.2 * columns), 3.5 * rows + 0.8), layout="constrained")
        handles = {}
        for index, name in enumerate(names):
            axes = figure.add_subplot(rows, columns, index + 1)
            for line, points in series(results, name).items():
                x, y = zip(*sorted(points), strict=True)
                (handles[line],) = axes.plot(x, y, linewidth=1.6, **styles[line])
            axes.set_xscale("log")
            axes.margins(x=0.12, y=0.12)
            low, high = axes.get_xlim()
            if high / low < 3:  # too narrow for its ticks to show that it is logarithmic
                low, high = (math.sqrt(low * high) * 3**power for power in (-0.5, 0.5))
                axes.set_xlim(low, high)
            axes.set_xticks(_ticks(low, high))
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.grid(alpha=0.2, linewidth=0.6, color=ink)
            axes.set_xlabel("bits per pixel")
            kind = metric(name)
            axes.set_title(f"{kind.label}{f' ({kind.unit})' if kind.unit else ''}, {kind.direction} is better")
        names_of = labels(lines)
        legend = figure.legend(
            [handles[line] for line in lines],
            [names_of[line] for line in lines],
            loc="outside lower center",
            ncols=math.ceil(len(lines) / math.ceil(len(lines) / (2 * columns))),
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with dollars is no formula
    return figure


def to_svg(figure: "Figure") -> bytes:
    """As a file of its own on white, with letters drawn as outlines: it looks the same everywhere."""
    return _save(figure, "svg", {"svg.fonttype": "path"}, facecolor="white")


def inline_svg(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> str:
    """For an HTML page: without a background, in the page's colour and fonts. Raises as `rate_distortion` does."""
    figure = rate_distortion(results, metrics, ink=_INK)
    text = _save(figure, "svg", {"svg.fonttype": "none"}, transparent=True).decode()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)  # follows from width and viewBox


def write_plots(
    folder: str | Path, results: Sequence[SystemResult], metrics: Sequence[str] | None = None
) -> list[Path]:
    """Write rate-distortion.svg and .png into a folder that exists; returns the files. Raises as `rate_distortion`."""
    figure = rate_distortion(results, metrics)
    files = {
        "rate-distortion.svg": to_svg(figure),
        "rate-distortion.png": _save(figure, "png", {}, facecolor="white", dpi=160),
    }
    return write_files(folder, files)


def _ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, from 3 to about 7 of them."""
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _save(figure: "Figure", kind: str, settings: dict[str, Any], **options: Any) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    # The same results give the same file: neither a date nor random ids.
    with mpl.rc_context({"svg.hashsalt": "faitheir", **settings}):
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()
