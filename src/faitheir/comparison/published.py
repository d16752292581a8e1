"""Published figures, the paper's Tables 1 to 3 and codecs': shown apart from what was measured here."""

import json
from dataclasses import dataclass
from importlib import resources

from faitheir.config import from_dict
from faitheir.errors import EvaluationError
from faitheir.evaluation.metrics import METRICS
from faitheir.evaluation.results import SystemResult

#: The paper's tables, and the results of generative codecs.
TABLES = (1, 2, 3, "codecs")


@dataclass(frozen=True)
class PublishedTable:
    """One table. ``rows`` have a text, a number or None (a dash in the paper) for each of ``columns``.

    Columns of metrics are named as in METRICS; ``lpips`` is LPIPS of a network that the paper does not name.
    """

    table: int | str
    source: str
    caption: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]

    def records(self) -> list[dict[str, str | int | float | None]]:
        """The rows, each value by its column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def published_table(number: int | str) -> PublishedTable:
    """The paper's Table 1 (comparison), 2 or 3 (ablation), or "codecs"."""
    if number not in TABLES:
        raise EvaluationError(f"Table {number} is not kept here; choose one of {', '.join(map(str, TABLES))}.")
    name = f"table{number}.json" if number != "codecs" else "codecs.json"
    text = (resources.files("faitheir") / "comparison" / "published" / name).read_text(encoding="utf-8")
    return from_dict(PublishedTable, json.loads(text), where=name)


def published_results(number: int | str, *, dataset: str | None = None, scale: int | None = None) -> list[SystemResult]:
    """The rows of a table as results that tables and plots show beside measured ones, marked as published.

    ``dataset`` ("DIV2K-val", "LSDIR-val", "CLIC2020"; of codecs "Kodak" too, and no LSDIR-val) and ``scale`` (16, 32)
    choose rows of Table 1 and of the codecs. Raises EvaluationError for what the table does not have.
    """
    table = published_table(number)
    for column, wanted in (("dataset", dataset), ("scale", scale)):
        there = list(dict.fromkeys(record.get(column) for record in table.records()))
        if wanted is not None and wanted not in there:
            known = ", ".join(str(value) for value in there if value is not None)
            raise EvaluationError(f"Table {number} has nothing for {column} '{wanted}'; it has {known or 'none'}.")
    source = table.source if number == "codecs" else f"{table.source}, Table {number}"
    results = []
    for record in table.records():
        if dataset not in (None, record.get("dataset")) or scale not in (None, record.get("scale")):
            continue
        about = {"source": source, "dataset": str(record.get("dataset") or "")}
        names = [str(record[key]) for key in ("experiment", "method") if key in record]
        own_scale = record.get("scale")
        results.append(
            SystemResult(
                system=" ".join(names),
                kind="published",
                protocol="paper",
                scale=own_scale if isinstance(own_scale, int) else None,
                summary={k: float(v) for k, v in record.items() if k in METRICS and isinstance(v, (int, float))},
                about={key: value for key, value in about.items() if value},
                note=f"Published, not measured: {source}. {table.note}",
            )
        )
    return results


def published_for(dataset: str) -> list[SystemResult]:
    """The comparison of the paper, then the codecs, on that data set. Raises EvaluationError where none has it."""
    tables = (1, "codecs")
    having = [n for n in tables if any(record["dataset"] == dataset for record in published_table(n).records())]
    return [row for number in having or tables for row in published_results(number, dataset=dataset)]
