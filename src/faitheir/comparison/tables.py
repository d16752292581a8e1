"""Results as tables: one model of a table, and a function for each format it is written in.

Rows stand in blocks that hold only what can be compared: one protocol, one list of photographs, one scale; what is
published and what was measured never share one. Best and second best are marked within a block, as in the paper.
"""

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from faitheir.errors import EvaluationError
from faitheir.evaluation.metrics import METRICS, Metric
from faitheir.evaluation.results import SystemResult
from faitheir.storage import write_atomic

Mark = Literal["best", "second"]

#: Metrics that say what a picture costs: they alone compare codecs that were held to a quality.
COSTS = ("bytes", "bits_per_pixel")


@dataclass(frozen=True)
class Cell:
    """``text``: the value as printed, or a dash. ``notes``: numbers of footnotes, from 1."""

    text: str
    mark: Mark | None = None
    caution: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """One system."""

    label: str
    cells: tuple[Cell, ...]
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Block:
    """Rows that can be compared with each other, and with no others."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Column:
    """One metric. ``notes`` are for what holds of every measured row."""

    key: str
    label: str
    direction: Literal["higher", "lower"] | None
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """What every format shows."""

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...]
    caption: str = ""


@dataclass(frozen=True)
class _Group:
    """What rows of one block have in common. ``held_to``, ``target``: see `_group`."""

    published: bool
    protocol: str
    dataset: str
    files: str
    held_to: str
    target: str
    scale: int | None

    def title(self, rows: Sequence[SystemResult]) -> str:
        parts = ["Published, not measured" if self.published else "Measured"]
        if self.dataset:
            parts.append(self.dataset)
        counts = {len(row.pictures) for row in rows}
        if len(counts) == 1 and 0 not in counts:
            count = counts.pop()
            parts.append(f"{count} picture" + ("s" if count != 1 else ""))
        if self.protocol:
            parts.append(f"protocol {self.protocol}")
        if self.scale is not None:
            parts.append(f"{self.scale}x")
        if self.held_to:
            target = f" of {self.target}" if self.target else ""
            parts.append(f"lowest bytes that reach the {metric(self.held_to).label}{target}")
        return ", ".join(parts)


def metric(name: str) -> Metric:
    """How a metric is printed; one that is not in METRICS is shown under its own name, and not ranked."""
    return METRICS.get(name) or Metric(name, None, 4)


def metrics_of(results: Iterable[SystemResult], chosen: Sequence[str] | None = None) -> list[str]:
    """The metrics that results have or lack, in the order of METRICS; or those ``chosen``, in that order.

    Raises EvaluationError for one chosen that nobody knows.
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


def tabulate(results: Sequence[SystemResult], metrics: Sequence[str] | None = None, caption: str = "") -> Table:
    """One table of all results, published ones last, in their order.

    Columns: ``metrics``, or all that the results have or lack. Best and second best are those of the values as they
    are printed, so equal ones share a mark; nothing is marked where all are equal. A row whose ``bytes`` carry a
    warning did not hold to them, and is shown without taking part.
    """
    names = metrics_of(results, metrics)
    footnotes: list[str] = []

    def note(text: str) -> int:
        text = " ".join(text.split())
        if text not in footnotes:
            footnotes.append(text)
        return footnotes.index(text) + 1

    measured = [result for result in results if result.kind != "published"]
    columns, common = [], {}
    for name in names:
        reasons = {result.missing.get(name) for result in measured}
        lacking = measured and not any(_has(result, name) for result in measured) and len(reasons) == 1
        reason = reasons.pop() if lacking else None
        if reason is not None:
            common[name] = reason
        kind = metric(name)
        unit = f" ({kind.unit})" if kind.unit and kind.unit not in kind.label.lower() else ""
        columns.append(Column(name, kind.label + unit, kind.direction, (note(reason),) if reason is not None else ()))

    blocks = []
    for group, rows in _groups(results).items():
        marks = {name: _marks(rows, name) if _ranked(group, name) else {} for name in names}
        written = []
        for index, result in enumerate(rows):
            cells = []
            for name in names:
                notes = []
                if name in result.warnings:
                    notes.append(note(f"Caution: {result.warnings[name]}"))
                if not _has(result, name):
                    if not (result.kind != "published" and name in common):
                        notes.append(note(_why_missing(result, name)))
                    cells.append(Cell("–", None, name in result.warnings, tuple(notes)))  # noqa: RUF001
                    continue
                text = shown(result.summary[name], name)
                cells.append(Cell(text, marks[name].get(index), name in result.warnings, tuple(notes)))
            written.append(Row(result.system, tuple(cells), tuple(note(text) for text in _row_notes(result))))
        blocks.append(Block(group.title(rows), tuple(written)))
    return Table(tuple(columns), tuple(blocks), tuple(footnotes), caption)


def to_markdown(table: Table) -> str:
    """As GitHub's Markdown: best in bold, second best underlined."""

    def notes(numbers: tuple[int, ...], caution: bool = False) -> str:
        return f"<sup>{'⚠' if caution else ''}{','.join(map(str, numbers))}</sup>" if numbers else ""

    lines = [_markdown(table.caption), ""] if table.caption else []
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    header = [_markdown(column.label) + arrows[column.direction] + notes(column.notes) for column in table.columns]
    lines.append(" | ".join(["| System", *header]) + " |")
    lines.append("|".join(["| --- ", *(" ---: " for _ in header)]) + "|")
    for block in table.blocks:
        lines.append(" | ".join([f"| *{_markdown(block.title)}*", *("" for _ in header)]) + " |")
        for row in block.rows:
            cells = []
            for cell in row.cells:
                text = {"best": "**{}**", "second": "<u>{}</u>", None: "{}"}[cell.mark].format(cell.text)
                cells.append(text + notes(cell.notes, cell.caution))
            lines.append(" | ".join([f"| {_markdown(row.label)}{notes(row.notes)}", *cells]) + " |")
    if table.footnotes:
        lines.append("")
        lines += [f"{number}. {_markdown(text)}" for number, text in enumerate(table.footnotes, 1)]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    r"""As LaTeX: a table for the booktabs package, best in ``\textbf``, second best in ``\underline``."""

    def notes(numbers: tuple[int, ...], caution: bool = False) -> str:
        return rf"\textsuperscript{{{'!' if caution else ''}{','.join(map(str, numbers))}}}" if numbers else ""

    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}
    width = len(table.columns) + 1
    lines = ["% \\usepackage{booktabs}", r"\begin{table}", r"\centering"]
    if table.caption:
        lines.append(rf"\caption{{{_latex(table.caption)}}}")
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    header = [_latex(column.label) + arrows[column.direction] + notes(column.notes) for column in table.columns]
    lines.append(" & ".join(["System", *header]) + r" \\")
    for block in table.blocks:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_latex(block.title)}}}}} \\"]
        for row in block.rows:
            cells = []
            for cell in row.cells:
                text = {"∞": r"$\infty$", "-∞": r"$-\infty$", "–": "--"}.get(  # noqa: RUF001
                    cell.text, cell.text.replace(",", "{,}")
                )
                text = {"best": r"\textbf{%s}", "second": r"\underline{%s}", None: "%s"}[cell.mark] % text
                cells.append(text + notes(cell.notes, cell.caution))
            lines.append(" & ".join([_latex(row.label) + notes(row.notes), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.footnotes:
        lines += ["", r"\begin{minipage}{\linewidth}\footnotesize\smallskip"]
        lines += [rf"\textsuperscript{{{number}}} {_latex(text)}\par" for number, text in enumerate(table.footnotes, 1)]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_html(table: Table, prefix: str = "note") -> str:
    """As an HTML table with a list of its footnotes; ``prefix`` keeps their ids apart from other tables'."""

    def notes(numbers: tuple[int, ...], caution: bool = False) -> str:
        links = ",".join(f'<a href="#{prefix}-{number}">{number}</a>' for number in numbers)
        sign = '<span role="img" aria-label="caution">⚠</span>' if caution else ""
        return f"<sup>{sign}{links}</sup>" if numbers else ""

    arrows = {
        "higher": ' <span role="img" aria-label="higher is better">↑</span>',
        "lower": ' <span role="img" aria-label="lower is better">↓</span>',
        None: "",
    }
    marks = {
        "best": '<strong>{}<span class="unseen"> (best)</span></strong>',
        "second": '<u>{}<span class="unseen"> (second best)</span></u>',
        None: "{}",
    }
    lines = ["<table>"]
    if table.caption:
        lines.append(f"<caption>{html.escape(table.caption)}</caption>")
    header = [
        f'<th scope="col">{html.escape(column.label)}{arrows[column.direction]}{notes(column.notes)}</th>'
        for column in table.columns
    ]
    lines.append("<thead><tr>" + "".join(['<th scope="col">System</th>', *header]) + "</tr></thead>")
    for block in table.blocks:
        title = html.escape(block.title)
        lines.append(
            f'<tbody><tr><th class="block" colspan="{len(header) + 1}" scope="rowgroup"><span>{title}</span></th></tr>'
        )
        for row in block.rows:
            cells = [
                f"<td>{marks[cell.mark].format(cell.text)}{notes(cell.notes, cell.caution)}</td>" for cell in row.cells
            ]
            label = f'<th scope="row">{html.escape(row.label)}{notes(row.notes)}</th>'
            lines.append("<tr>" + "".join([label, *cells]) + "</tr>")
        lines.append("</tbody>")
    lines.append("</table>")
    if table.footnotes:
        lines.append('<ol class="notes">')
        lines += [
            f'<li id="{prefix}-{number}">{html.escape(text)}</li>' for number, text in enumerate(table.footnotes, 1)
        ]
        lines.append("</ol>")
    return "\n".join(lines) + "\n"


def summary_csv(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> str:
    """A line for each system, with values in full precision; empty where there is none."""
    names = metrics_of(results, metrics)
    header = ["system", "kind", "protocol", "dataset", "scale", "pictures", "failed", *names]
    rows: list[list[object]] = [[*header, "missing", "warnings", "note"]]
    for result in results:
        failed = sum(picture.error is not None for picture in result.pictures)
        rows.append(
            [
                *(result.system, result.kind, result.protocol, result.about.get("dataset", "")),
                *("" if result.scale is None else result.scale, len(result.pictures), failed),
                *(_number(result.summary.get(name)) for name in names),
                *("; ".join(f"{name}: {text}" for name, text in d.items()) for d in (result.missing, result.warnings)),
                result.note,
            ]
        )
    return _csv(rows)


def pictures_csv(results: Sequence[SystemResult], metrics: Sequence[str] | None = None) -> str:
    """A line for each picture of each system, with values in full precision; empty where there is none."""
    there = {name for result in results for picture in result.pictures for name in picture.values}
    wanted = METRICS.keys() | there if metrics is None else set(metrics_of(results, metrics))
    names = [name for name in (*METRICS, *sorted(there - METRICS.keys())) if name in there & wanted]
    rows: list[list[object]] = [["system", "picture", "width", "height", *names, "error"]]
    for result in results:
        for picture in result.pictures:
            values = [_number(picture.values.get(name)) for name in names]
            place = [result.system, picture.picture, picture.width, picture.height]
            rows.append([*place, *values, picture.error or ""])
    return _csv(rows)


def write_tables(
    folder: str | Path, results: Sequence[SystemResult], metrics: Sequence[str] | None = None, caption: str = ""
) -> list[Path]:
    """Write results.md, results.tex, results.csv and pictures.csv into a folder that exists; returns the files.

    Each is written whole or not at all. Raises ImageError where one cannot be written.
    """
    table = tabulate(results, metrics, caption)
    texts = {
        "results.md": to_markdown(table),
        "results.tex": to_latex(table),
        "results.csv": summary_csv(results, metrics),
        "pictures.csv": pictures_csv(results, metrics),
    }
    paths = [Path(folder) / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomic(path, text.encode())
    return paths


def _has(result: SystemResult, name: str) -> bool:
    return not math.isnan(result.summary.get(name, math.nan))


def _why_missing(result: SystemResult, name: str) -> str:
    if name in result.missing:
        return result.missing[name]
    if result.kind == "published":
        return "Not given where it was published."
    return "Not defined for these pictures." if name in result.summary else "Not measured for this system."


def _row_notes(result: SystemResult) -> list[str]:
    failed = [picture for picture in result.pictures if picture.error is not None]
    notes = [result.note] if result.note else []
    if failed:
        first = failed[0]
        rest = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        whole = f"{len(result.pictures) - len(failed)} of {len(result.pictures)}"
        notes.append(f"Caution: only {whole} pictures; failed: {first.picture} ({first.error}){rest}")
    return notes


def _group(result: SystemResult) -> _Group:
    """Where a row belongs. A codec is held to a system's bytes, or to its value of a metric (``about`` says which)."""
    held_to = result.about.get("held_to", "")
    if held_to in ("", *COSTS):
        held_to = ""
    target = result.about.get("target", "") if held_to else ""
    about = (result.about.get("dataset", ""), result.about.get("files", ""))
    return _Group(result.kind == "published", result.protocol, *about, held_to, target, result.scale)


def _groups(results: Sequence[SystemResult]) -> dict[_Group, list[SystemResult]]:
    """The rows of each block. Rows without a scale join those of the only scale there is."""
    groups: dict[_Group, list[SystemResult]] = {}
    all_groups = [_group(result) for result in results]
    for result, group in zip(results, all_groups, strict=True):
        if group.scale is None:
            scales = {g.scale for g in all_groups if replace(g, scale=None) == group} - {None}
            group = replace(group, scale=scales.pop()) if len(scales) == 1 else group
        groups.setdefault(group, []).append(result)
    for group, rows in groups.items():
        if group.target:  # the system that the others are held to is shown beside them again
            place = replace(group, held_to="", target="")
            rows[:0] = [result for result in groups.get(place, []) if result.system == group.target]
    order = sorted(groups, key=lambda group: (group.published, bool(group.held_to)))
    return {group: groups[group] for group in order}


def _ranked(group: _Group, name: str) -> bool:
    return metric(name).direction is not None and (not group.held_to or name in COSTS)


def _marks(rows: Sequence[SystemResult], name: str) -> dict[int, Mark]:
    """Row -> mark. Values that are printed alike are equal."""
    printed = {
        index: float(shown(result.summary[name], name).replace(",", "").replace("∞", "inf"))
        for index, result in enumerate(rows)
        if _has(result, name) and not result.warnings.keys() & {*COSTS}
    }
    ranks = sorted(set(printed.values()), reverse=metric(name).direction == "higher")
    if len(ranks) < 2:
        return {}
    marks: dict[float, Mark] = {ranks[0]: "best"}
    if len(printed) > 2:  # of two rows, the worse one is no second best that deserves a mark
        marks[ranks[1]] = "second"
    return {index: marks[value] for index, value in printed.items() if value in marks}


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))


def _csv(rows: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
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
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return escaped.replace("--", "-{}-").replace("\u2013", "--")  # options of commands are no dashes
