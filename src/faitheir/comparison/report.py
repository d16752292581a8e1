"""The report: one HTML file with tables, plots and a browser of the pictures, which loads nothing from anywhere.

Pictures are embedded at their own resolution, encoded as WebP; large ones are cut to their part with the strongest
edges. The worst and the best are embedded, up to a number of pictures and of bytes; the others are listed by name.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from faitheir.comparison.plots import inline_svg
from faitheir.comparison.sheets import busiest
from faitheir.comparison.tables import metric, metrics_of, page, shown, tables_of
from faitheir.errors import EvaluationError, ImageError, MissingDependencyError, StorageError
from faitheir.evaluation.results import PictureResult, SystemResult, strict
from faitheir.images import Picture, UInt8Array, encode_picture, read_picture, resize_bicubic
from faitheir.storage import write_atomic
from faitheir.version import __version__

#: WebP quality of the pictures in a report.
QUALITY = 90
#: The longest side of an embedded part, and of the overview in which it is chosen, in pixels.
SIDE, OVERVIEW_SIDE = 1024, 320

_START = 120  # pixels: about what the page shows at first


class _Order(NamedTuple):
    """The metric, and the system (its index among the measured), by which pictures are worst or best."""

    metric: str
    system: int


def write_report(
    path: str | Path,
    results: Sequence[SystemResult],
    *,
    metrics: Sequence[str] | None = None,
    title: str = "FaithEIR: comparison",
    sort: str | None = None,
    pictures: int = 24,
    max_bytes: int = 32 * 2**20,
    progress: bool = True,
) -> Path:
    """Write the report of measured and published results, whole or not at all; returns the file.

    ``metrics``: the columns and plots, all by default. ``sort``: the metric by which pictures are worst and best, that
    of the first model (else the first system); by default the first one that is ranked. At most ``pictures``
    pictures, and ``max_bytes`` bytes of encoded ones, are embedded. Raises EvaluationError for an unknown metric,
    StorageError where the file cannot be written. A missing or damaged picture file is reported in its place.
    """
    measured = [result for result in results if result.kind != "published"]
    order = _order(measured, sort)
    data, others, broken = _pictures(measured, order, metrics, pictures, max_bytes, progress)
    script = page("slider.js").render() + page("report.js").render()
    try:
        plots, problem = inline_svg(results, metrics), ""
    except (EvaluationError, MissingDependencyError) as error:
        plots, problem = "", str(error)
    text = page("report.html").render(
        title=title,
        results=results,
        measured=measured,
        count=len({picture.picture for result in measured for picture in result.pictures}),
        version=__version__,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tables=tables_of(results, metrics),
        plots=plots,
        problem=problem,
        order=order and f"{metric(order.metric).label} of {measured[order.system].system}",
        others=others,
        broken=broken,
        kept=len(data["pictures"]),
        quality=QUALITY,
        side=SIDE,
        # "<" would end the element that holds it if "/script" followed.
        data=json.dumps(strict(data), allow_nan=False).replace("<", "\\u003c"),
    )
    # A file's name may hold bytes that are no text.
    write_atomic(path, text.encode(errors="backslashreplace"))
    return Path(path)


def _order(measured: Sequence[SystemResult], sort: str | None) -> _Order | None:
    system = next((i for i, result in enumerate(measured) if result.kind == "model"), 0)
    there = {name for result in measured for picture in result.pictures for name in picture.values}
    ranked = [name for name in metrics_of(measured) if name in there and metric(name).direction is not None]
    if sort is not None and sort not in ranked:
        raise EvaluationError(f"pictures cannot be sorted by '{sort}'; choose from {', '.join(ranked) or 'none'}.")
    return _Order(sort or ranked[0], system) if ranked else None


def _ranking(measured: Sequence[SystemResult], order: _Order | None) -> list[str]:
    """All pictures' names: worst, best, second worst, second best, and so on; last, those without a value."""
    names = list(dict.fromkeys(picture.picture for result in measured for picture in result.pictures))
    if order is None:
        return names
    values = {p.picture: p.values[order.metric] for p in measured[order.system].pictures if order.metric in p.values}
    sign = 1 if metric(order.metric).direction == "higher" else -1
    ranked = sorted((n for n in names if not math.isnan(values.get(n, math.nan))), key=lambda n: (sign * values[n], n))
    turns = [name for pair in zip(ranked, reversed(ranked), strict=True) for name in pair]
    return list(dict.fromkeys([*turns, *names]))


def _pictures(
    measured: Sequence[SystemResult],
    order: _Order | None,
    metrics: Sequence[str] | None,
    limit: int,
    max_bytes: int,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The data for the page's script; the pictures left out, each with its value; those not readable, and why."""
    named = [{picture.picture: picture for picture in result.pictures} for result in measured]
    kept: list[dict[str, Any]] = []
    others: dict[str, str] = {}
    broken: dict[str, str] = {}
    spent = 0
    for name in tqdm(_ranking(measured, order), desc="report", disable=None if progress else True):
        if spent <= max_bytes and len(kept) < limit:
            try:
                entry = _embed(name, [pictures.get(name) for pictures in named], measured)
            except (ImageError, StorageError) as error:
                broken[name] = str(error)
                continue
            spent += len(json.dumps(entry))
            if spent <= max_bytes:
                kept.append(entry)
                continue
        others[name] = _value(named, order, name)
    there = {key for entry in kept for values in entry["values"].values() for key in values}
    chosen = [name for name in metrics_of(measured, metrics) if name in there]
    if order is not None and order.metric in there and order.metric not in chosen:
        chosen.append(order.metric)
    kinds = [(name, metric(name)) for name in chosen]
    data = {
        "systems": [result.system for result in measured],
        "metrics": [
            {"key": key, "label": kind.label, "unit": kind.unit, "direction": kind.direction, "digits": kind.digits}
            for key, kind in kinds
        ],
        "sort": {"metric": order.metric, "system": order.system} if order else {},
        "pictures": kept,
    }
    return data, others, broken


def _value(named: Sequence[Mapping[str, PictureResult]], order: _Order | None, name: str) -> str:
    """What a picture is worst or best by, as it is printed; nothing where there is none."""
    picture = named[order.system].get(name) if order else None
    value = picture.values.get(order.metric, math.nan) if order and picture else math.nan
    return f"{shown(value, order.metric)} {metric(order.metric).unit}".rstrip() if order and value == value else ""


def _embed(name: str, found: Sequence[PictureResult | None], measured: Sequence[SystemResult]) -> dict[str, Any]:
    """One picture's data. Raises ImageError without its original."""
    path = next((picture.original for picture in found if picture and picture.original), None)
    if path is None:
        reasons = [picture.error for picture in found if picture and picture.error]
        raise ImageError(reasons[0] if reasons else "its original is not named in the results.")
    original = read_picture(path)
    width, height = min(SIDE, original.width), min(SIDE, original.height)
    left, top = busiest(original.rgb, width, height)
    part = original.rgb[top : top + height, left : left + width]
    start = busiest(part, _START, _START)
    entry: dict[str, Any] = {
        "name": name,
        "width": original.width,
        "height": original.height,
        "window": [left, top, width, height],
        "start": [left + start[0] + min(_START, width) / 2, top + start[1] + min(_START, height) / 2],
        "overview": _source(_reduced(original.rgb, OVERVIEW_SIDE)),
        "original": _source(part),
        "thumbnails": {},
        "restored": {},
        "notes": {},
        "values": {},
    }
    for index, (result, picture) in enumerate(zip(measured, found, strict=True)):
        if picture is None or picture.error is not None:
            entry["notes"][index] = "not measured" if picture is None else picture.error
            continue
        entry["values"][index] = {key: v for key, v in picture.values.items() if not math.isnan(v)}
        if picture.thumbnail is not None:
            try:
                entry["thumbnails"][index] = _thumbnail(read_picture(picture.thumbnail), original, result.scale)
            except (ImageError, StorageError) as error:
                entry["notes"][index] = str(error)
        try:
            if picture.restored is None:
                raise ImageError("its file was not kept.")
            restored = read_picture(picture.restored)
            if restored.rgb.shape != original.rgb.shape:
                raise ImageError(f"{picture.restored} is not of the size of {path}.")
            entry["restored"][index] = _source(restored.rgb[top : top + height, left : left + width])
        except (ImageError, StorageError) as error:
            entry["notes"][index] = str(error)
    return entry


def _thumbnail(thumbnail: Picture, original: Picture, scale: int | None) -> dict[str, Any]:
    """A thumbnail in the page: its pixels, its size, and how many of the original's pixels it covers."""
    size = (thumbnail.width, thumbnail.height)
    covers = [side * scale for side in size] if scale else [original.width, original.height]
    return {"source": _source(_reduced(thumbnail.rgb, SIDE), quality=None), "size": size, "covers": covers}


def _source(rgb: UInt8Array, quality: int | None = QUALITY) -> str:
    """A picture as a data: URL; lossless without a quality."""
    data = encode_picture(Picture(rgb), "webp", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _reduced(rgb: UInt8Array, side: int) -> UInt8Array:
    """The whole picture, its longer side at most ``side`` pixels."""
    height, width = rgb.shape[:2]
    factor = min(1.0, side / max(width, height))
    return rgb if factor == 1 else resize_bicubic(rgb, (max(1, round(width * factor)), max(1, round(height * factor))))
