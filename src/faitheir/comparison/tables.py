"""Results as tables: one model of a table, and a function for each format it is written in.

Rows stand in blocks that hold only what can be compared: one protocol, one list of photographs, one scale; what is
published and what was measured never share one. Best and second best are marked within a block, as in the paper.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from faitheir.comparison.curves import RATES, Curve, Line, bd_rate, labels, series, value_at
from faitheir.errors import EvaluationError
from faitheir.evaluation.metrics import METRICS, Metric
from faitheir.evaluation.results import SystemResult
from faitheir.evaluation.statistics import Difference, interval, paired
from faitheir.storage import write_files

#: What a point of a curve is matched to, in ``about``: rows of different rates are not ranked.
RATE = "rate"

#: Metrics of cost: only these compare codecs that were matched to a quality.
COSTS = ("bytes", "bits_per_pixel")

#: Costs and measures of thumbnails: a curve's distortion is that of the restored picture.
_NO_DISTORTION = {*COSTS, "thumbnail_psnr", "thumbnail_ssim", "thumbnail_bytes", "seconds_down", "seconds_up"}

_NONE = "–"  # noqa: RUF001
_BD_RATE = (
    "Bits at equal values against AVIF's, on average over the values that both curves reach (in brackets); less than "
    "0 % is fewer. Log rate is interpolated by straight lines between points."
)
_LEADERS = "Among the curves that span the rate, by straight lines over log rate, and single systems at their own rate."
_DIFFERENCES = (
    "Means over the pictures that both have, with 95 % bootstrap intervals; p from flipping the signs of the "
    "differences at random (two-sided)."
)


class Cell(NamedTuple):
    """``text``: as printed. ``mark``: of a value its rank, of a heading the better direction.

    ``notes``: numbers of footnotes, from 1; with ``caution`` they warn. ``interval``: printed small behind the text.
    """

    text: str
    mark: Literal["best", "second", "higher", "lower"] | None = None
    notes: tuple[int, ...] = ()
    caution: bool = False
    interval: str = ""


Row = tuple[Cell, ...]
Block = tuple[str, tuple[Row, ...]]


class Table(NamedTuple):
    """What every format shows. ``head``: "System" and the metrics. ``blocks``: titles, and rows that compare.

    A row's first cell is its system.
    """

    head: Row
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...]
    caption: str = ""


class _Group(NamedTuple):
    """What the rows of one block have in common. ``held_to``, ``target``: see `_group`."""

    published: bool
    protocol: str
    dataset: str
    files: str
    held_to: str
    target: str
    scale: int | None

    def title(self, rows: Sequence[SystemResult]) -> str:
        counts = {len(row.pictures) for row in rows}
        count = counts.pop() if len(counts) == 1 else 0
        target = f" of {self.target}" if self.target else ""
        held = self.held_to and f"lowest bytes that reach the {metric(self.held_to).label}{target}"
        held = "points of rate-distortion curves" if self.held_to == RATE else held
        parts = (
            "Published, not measured" if self.published else "Measured",
            self.dataset,
            count and f"{count} picture{'' if count == 1 else 's'}",
            self.protocol and f"protocol {self.protocol}",
            self.scale and f"{self.scale}x",
            held,
        )
        return ", ".join(str(part) for part in parts if part)


def metric(name: str) -> Metric:
    """How a metric is printed; one that is not in METRICS is shown under its own name, and not ranked."""
    return METRICS.get(name) or Metric(name, None, 4)


def metrics_of(results: Iterable[SystemResult], chosen: Sequence[str] | None = None) -> list[str]:
    """The metrics that results have or lack, in the order of METRICS; or those ``chosen``, in that order.

    Raises EvaluationError for a chosen one that does not exist.
    """
    there = {name for result in results for name in (*result.summary, *result.missing)}
    if chosen is None:
        return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())
    for name in chosen:
        if name not in there | METRICS.keys():
            raise EvaluationError(f"there is no metric '{name}'; choose from {', '.join(METRICS)}.")
    return list(chosen)


def shown(value: float, name: str) -> str:
    """A metric's value as tables print it."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:,.{metric(name).digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def drawn_metrics(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> list[str]:
    """The metrics that can be drawn: ranked measures of quality that stand beside bits per pixel."""
    names = [name for name in metrics_of(results, metrics) if name not in _NO_DISTORTION and metric(name).direction]
    return [name for name in names if series(results, name)]


def tabulate(results: Sequence[SystemResult], metrics: Sequence[str] | None = None, caption: str = "") -> Table:
    """One table of all results, published ones last, in their order.

    Columns: ``metrics``, or all that the results have or lack. Best and second best are those of the values as they
    are printed, so equal ones share a mark; nothing is marked where all are equal. A row with a warning about its
    ``bytes`` exceeds them: it is shown without taking part.
    """
    names = metrics_of(results, metrics)
    footnotes: list[str] = []

    def notes(texts: Iterable[str]) -> tuple[int, ...]:
        found = [" ".join(text.split()) for text in texts if text]
        footnotes.extend(text for text in dict.fromkeys(found) if text not in footnotes)
        return tuple(footnotes.index(text) + 1 for text in found)

    # A reason that holds of every measured row is said once, in the heading.
    measured = [result for result in results if result.kind != "published"]
    common = {}
    head = [Cell("System")]
    for name in names:
        reasons = {"" if _has(result, name) else result.missing.get(name, "") for result in measured}
        common[name] = reasons.pop() if len(reasons) == 1 else ""
        kind = metric(name)
        unit = f" ({kind.unit})" if kind.unit and kind.unit not in kind.label.lower() else ""
        head.append(Cell(kind.label + unit, kind.direction, notes([common[name]])))

    blocks = []
    for group, rows in _groups(results).items():
        marks = {name: _marks(rows, name) if _ranked(group, name) else {} for name in names}
        written = []
        for result in rows:
            cells = []
            for name in names:
                caution = name in result.warnings
                why = [f"Caution: {result.warnings[name]}"] if caution else []
                text = _NONE
                if _has(result, name):
                    text = shown(result.summary[name], name)
                elif result.kind == "published" or not common[name]:
                    why.append(_why_missing(result, name))
                mark = marks[name].get(text) if _takes_part(result) else None
                cells.append(Cell(text, mark, notes(why), caution, _bracketed(_interval(result, name), name)))
            written.append((Cell(result.system, None, notes(_row_notes(result))), *cells))
        spread = any(cell.interval for row in written for cell in row)
        title = group.title(rows) + (", 95 % bootstrap intervals in brackets" if spread else "")
        blocks.append((title, tuple(written)))
    return Table(tuple(head), tuple(blocks), tuple(footnotes), caption)


def differences(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> Table | None:
    """Each block's systems against its first model, picture by picture; None where there is nothing to compare.

    Cells: the mean of the system's value minus the model's, its interval, and the p-value of `paired`.
    """
    names = [name for name in metrics_of(results, metrics) if metric(name).of == "picture"]
    blocks = []
    for group, rows in _groups([result for result in results if result.kind != "published"]).items():
        model = None if group.held_to else next((row for row in rows if row.kind == "model"), None)
        written = []
        for row in rows:
            pairs = [paired(_values(row, name), _values(model, name)) for name in names] if model else []
            if row is not model and any(pairs):
                cells = [_difference(pair, name) for pair, name in zip(pairs, names, strict=True)]
                written.append((Cell(row.system), *cells))
        if model and written:
            blocks.append((f"{group.title(rows)}, minus {model.system}", tuple(written)))
    head = (Cell("System", None, (1,)), *(Cell(metric(name).label, metric(name).direction) for name in names))
    return Table(head, tuple(blocks), (_DIFFERENCES,), "Differences, picture by picture") if blocks else None


def _difference(pair: Difference | None, name: str) -> Cell:
    if pair is None:
        return Cell(_NONE)
    text = shown(pair.mean, name)
    p = "p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.3f}"
    return Cell(f"{'+' if pair.mean > 0 else ''}{text}", interval=f"{_bracketed(pair.interval, name)}, {p}")


def curve_tables(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> list[Table]:
    """BD-rates against AVIF, and who leads at which rate; none without a line of several points."""
    names = drawn_metrics(results, metrics)
    found = {name: defaultdict[Line, Curve](list, series(results, name)) for name in names}
    lines = list(dict.fromkeys(line for curves in found.values() for line in curves))
    label = labels(lines)
    if not any(len(curve) > 1 for curves in found.values() for curve in curves.values()):
        return []

    head = tuple(Cell(metric(name).label, metric(name).direction) for name in names)
    plain = tuple(Cell(cell.text) for cell in head)
    deltas: list[Block] = []
    leaders: list[Block] = []
    for protocol, files in dict.fromkeys((line.protocol, line.files) for line in lines):
        anchor = Line("avif", False, protocol, files)
        here = {label[line]: line for line in lines if (line.protocol, line.files) == (protocol, files)}
        curves = {name: {text: found[name][line] for text, line in here.items()} for name in names}
        points = {curve[0][0] for named in curves.values() for curve in named.values() if len(curve) == 1}
        rated = {text: [_delta(found[n][anchor], curves[n][text], n) for n in names] for text in here}
        rated.pop(label.get(anchor, ""), None)
        led = {f"{rate:.3g} bpp": [_leader(curves[n], rate, n) for n in names] for rate in sorted({*RATES, *points})}
        for blocks, rows in ((deltas, rated), (leaders, led)):
            filled = {text: cells for text, cells in rows.items() if any(cell.text != _NONE for cell in cells)}
            if filled:
                blocks.append((f"Measured, protocol {protocol}", tuple((Cell(t), *c) for t, c in filled.items())))
    tables = (
        Table((Cell("Curve", None, (1,)), *plain), tuple(deltas), (_BD_RATE,), "BD-rate against AVIF"),
        Table((Cell("Rate", None, (1,)), *head), tuple(leaders), (_LEADERS,), "Who leads at which rate"),
    )
    return [table for table in tables if table.blocks]


def _delta(anchor: Curve, curve: Curve, name: str) -> Cell:
    higher = metric(name).direction == "higher"
    delta = bd_rate(anchor, curve, higher=higher) if len(anchor) > 1 and len(curve) > 1 else None
    return Cell(_NONE) if delta is None else Cell(f"{delta[0]:+.0f} %", interval=_bracketed(delta[1], name))


def _leader(curves: Mapping[str, Curve], rate: float, name: str) -> Cell:
    values = {label: value_at(curve, rate) for label, curve in curves.items() if curve}
    there = {label: value for label, value in values.items() if value is not None}
    if len(there) < 2:
        return Cell(_NONE)
    best = (max if metric(name).direction == "higher" else min)(there, key=there.__getitem__)
    return Cell(f"{best}: {shown(there[best], name)}")


def tables_of(results: Sequence[SystemResult], metrics: Sequence[str] | None = None, caption: str = "") -> list[Table]:
    """The table of all results, and those of differences and of curves if there are any."""
    tables = tabulate(results, metrics, caption), differences(results, metrics), *curve_tables(results, metrics)
    return [table for table in tables if table]


def to_markdown(table: Table) -> str:
    """As GitHub's Markdown: best in bold, second best underlined."""
    return page("table.md").render(table=table)


def to_latex(table: Table) -> str:
    r"""As LaTeX: a table for the booktabs package, best in ``\textbf``, second best in ``\underline``."""
    return page("table.tex").render(table=table)


def to_html(table: Table, prefix: str = "note") -> str:
    """As an HTML table with a list of its footnotes; ``prefix`` keeps their ids apart from other tables'."""
    return page("table.html").render(table=table, prefix=prefix)


@cache
def page(name: str) -> Template:
    """A template; what is filled in is text: HTML escapes it by itself, the others by a filter."""
    places = Environment(
        loader=PackageLoader("faitheir.comparison", "page"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    places.globals["counted"] = lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}"
    places.filters |= {"markdown": _markdown, "latex": _latex}
    return places.get_template(name)


def summary_csv(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> str:
    """A line for each system, with values in full precision; empty where there is none."""
    names = metrics_of(results, metrics)
    return _csv(
        {
            **{"system": r.system, "kind": r.kind, "protocol": r.protocol, "dataset": r.about.get("dataset")},
            **{"scale": r.scale, "pictures": len(r.pictures), "failed": sum(p.error is not None for p in r.pictures)},
            **{name: r.summary.get(name) for name in names},
            **{f"{name}_low": (_interval(r, name) or (None,))[0] for name in names},
            **{f"{name}_high": (_interval(r, name) or (None,))[-1] for name in names},
            "missing": "; ".join(f"{name}: {text}" for name, text in r.missing.items()),
            "warnings": "; ".join(f"{name}: {text}" for name, text in r.warnings.items()),
            "note": r.note,
        }
        for r in results
    )


def pictures_csv(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> str:
    """A line for each picture of each system, with values in full precision; empty where there is none."""
    there = {name for result in results for picture in result.pictures for name in picture.values}
    names = [name for name in metrics_of(results, metrics) if name in there]
    return _csv(
        {
            **{"system": result.system, "picture": p.picture, "width": p.width, "height": p.height},
            **{name: p.values.get(name) for name in names},
            "error": p.error,
        }
        for result in results
        for p in result.pictures
    )


def write_tables(
    folder: str | Path, results: Sequence[SystemResult], metrics: Sequence[str] | None = None, caption: str = ""
) -> list[Path]:
    """Write results.md, results.tex, results.csv and pictures.csv into a folder that exists; returns the files.

    Each is written whole or not at all. Raises StorageError where one cannot be written.
    """
    tables = tables_of(results, metrics, caption)
    texts = {
        "results.md": "\n".join(map(to_markdown, tables)),
        "results.tex": "\n".join(map(to_latex, tables)),
        "results.csv": summary_csv(results, metrics),
        "pictures.csv": pictures_csv(results, metrics),
    }
    return write_files(folder, {name: text.encode() for name, text in texts.items()})


def _values(result: SystemResult, name: str) -> dict[str, float]:
    return {picture.picture: picture.values[name] for picture in result.pictures if name in picture.values}


def _interval(result: SystemResult, name: str) -> tuple[float, float] | None:
    return interval(tuple(_values(result, name).values()))


def _bracketed(ends: tuple[float, float] | None, name: str) -> str:
    return "" if ends is None else f"[{shown(ends[0], name)}, {shown(ends[1], name)}]"


def _has(result: SystemResult, name: str) -> bool:
    return not math.isnan(result.summary.get(name, math.nan))


def _takes_part(result: SystemResult) -> bool:
    return not result.warnings.keys() & {*COSTS}


def _why_missing(result: SystemResult, name: str) -> str:
    if name in result.missing:
        return result.missing[name]
    if result.kind == "published":
        return "Not given where it was published."
    return "Not defined for these pictures." if name in result.summary else "Not measured for this system."


def _row_notes(result: SystemResult) -> list[str]:
    failed = [f"{picture.picture} ({picture.error})" for picture in result.pictures if picture.error is not None]
    rest = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    whole = f"{len(result.pictures) - len(failed)} of {len(result.pictures)}"
    return [result.note, *(f"Caution: only {whole} pictures; failed: {first}{rest}" for first in failed[:1])]


def _group(result: SystemResult) -> _Group:
    """Where a row belongs. A codec is matched to a system's bytes or to its value of a metric, as ``about`` says."""
    about = {key: result.about.get(key, "") for key in ("dataset", "files", "held_to", "target")}
    if about["held_to"] in ("", *COSTS):
        about |= {"held_to": "", "target": ""}
    return _Group(result.kind == "published", result.protocol, **about, scale=result.scale)


def _groups(results: Sequence[SystemResult]) -> dict[_Group, list[SystemResult]]:
    """The rows of each block. Rows without a scale join those of the only scale there is."""
    groups: dict[_Group, list[SystemResult]] = {}
    all_groups = [_group(result) for result in results]
    for result, group in zip(results, all_groups, strict=True):
        if group.scale is None:
            scales = {g.scale for g in all_groups if g._replace(scale=None) == group} - {None}
            group = group._replace(scale=scales.pop()) if len(scales) == 1 else group
        groups.setdefault(group, []).append(result)
    for group, rows in groups.items():
        if group.target:  # the system that the others are matched to is shown beside them again
            place = group._replace(held_to="", target="")
            rows[:0] = [result for result in groups.get(place, []) if result.system == group.target]
    order = sorted(groups, key=lambda group: (group.published, bool(group.held_to)))
    return {group: groups[group] for group in order}


def _ranked(group: _Group, name: str) -> bool:
    return metric(name).direction is not None and (not group.held_to or (group.held_to != RATE and name in COSTS))


def _marks(rows: Sequence[SystemResult], name: str) -> dict[str, Literal["best", "second"]]:
    """Printed value -> mark. Values that are printed alike are equal."""
    printed = [shown(row.summary[name], name) for row in rows if _has(row, name) and _takes_part(row)]
    values = {text: float(text.replace(",", "").replace("∞", "inf")) for text in printed}
    ranks = sorted(values, key=values.__getitem__, reverse=metric(name).direction == "higher")
    if len(ranks) < 2:
        return {}
    # With two rows only, "second best" would mark the worse one.
    return {ranks[0]: "best", ranks[1]: "second"} if len(printed) > 2 else {ranks[0]: "best"}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """All rows have the same keys; None and nan are empty."""
    buffer = io.StringIO()
    lines = [{key: "" if value is None or value != value else value for key, value in row.items()} for row in rows]
    writer = csv.DictWriter(buffer, lines[0] if lines else ())
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _markdown(text: str) -> str:
    """As plain text in a cell of a table, whatever it has in it."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(text.split()))


_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "×": r"$\times$",  # noqa: RUF001
    "†": r"\dag{}",
    "∞": r"$\infty$",
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    escaped = escaped.replace("--", "-{}-").replace("\u2013", "--")  # options of commands are no dashes
    return re.sub(r"(?<=\d),(?=\d{3})", "{,}", escaped).replace(r"-$\infty$", r"$-\infty$")
