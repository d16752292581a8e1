"""Crop sheets: the same part of photographs as several systems restore it, side by side in one picture."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faitheir.comparison.tables import metric, shown
from faitheir.errors import EvaluationError
from faitheir.evaluation.results import PictureResult, SystemResult
from faitheir.images import Picture, UInt8Array, read_picture

#: Pixels between panels, of a line of text, and of a letter.
_GAP, _FONT, _WIDEST = 6, 13, 9


def busiest(rgb: UInt8Array, width: int, height: int) -> tuple[int, int]:
    """(left, top) of the part of that size, or of the whole if that is smaller, with the strongest edges."""
    luma = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    edges = np.zeros_like(luma)
    edges[:, 1:] += np.abs(np.diff(luma, axis=1))
    edges[1:] += np.abs(np.diff(luma, axis=0))
    total = np.pad(edges.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    width, height = min(width, luma.shape[1]), min(height, luma.shape[0])
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(left), int(top)


def thumbnail_box(
    box: tuple[int, int, int, int], size: tuple[int, int], thumbnail: tuple[int, int], scale: int | None
) -> tuple[float, float, float, float]:
    """Where a part (left, top, right, bottom) of a photograph of ``size`` lies in its thumbnail, in its pixels.

    ``scale``: where it is None, the thumbnail is as wide as the photograph.
    """
    across, down = (scale, scale) if scale else (size[0] / thumbnail[0], size[1] / thumbnail[1])
    left, top, right, bottom = box[0] / across, box[1] / down, box[2] / across, box[3] / down
    return left, top, min(right, thumbnail[0]), min(bottom, thumbnail[1])


def crop_sheet(
    results: Sequence[SystemResult],
    pictures: Sequence[str] | Mapping[str, tuple[int, int] | None],
    *,
    size: int = 128,
    zoom: int = 1,
    captions: Sequence[str] = ("psnr",),
) -> Picture:
    """A row for each photograph: its original, a thumbnail enlarged, and what each system restores.

    ``pictures``: names, or names and the (left, top) of the part shown; where that is not said, the part with the
    strongest edges. Parts are ``size`` pixels wide and high, less where the photograph is smaller, each pixel drawn
    ``zoom`` times. The thumbnail is the first system's that has one. ``captions``: metrics of the whole photograph,
    printed below. Raises EvaluationError for a photograph that was not measured, StorageError for a missing file.
    """
    shown_results = [result for result in results if result.kind != "published"]
    named = [{picture.picture: picture for picture in result.pictures} for result in shown_results]
    places = pictures if isinstance(pictures, Mapping) else dict.fromkeys(pictures)
    if not places or not shown_results:
        raise EvaluationError("a crop sheet needs at least one photograph and one measured system; name them.")
    rows = []
    for name, place in places.items():
        found = [pictures_of.get(name) for pictures_of in named]
        rows.append(_row(name, place, found, shown_results, size, captions))

    font = ImageFont.load_default(_FONT)
    side, line = size * zoom, _FONT + 4
    headings = ["original", "thumbnail, enlarged", *(result.system for result in shown_results)]
    wrapped = [textwrap.wrap(heading, max(1, side // _WIDEST)) for heading in headings]
    heights = [zoom * panels[0][0].height + line * (1 + any(text for _, text in panels)) for _, panels in rows]
    y = line * max(map(len, wrapped)) + 2 * _GAP
    width = len(headings) * (side + _GAP) + _GAP
    sheet = Image.new("RGB", (width, y + sum(heights) + _GAP * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = range(_GAP, width, side + _GAP)
    for x, lines in zip(lefts, wrapped, strict=False):
        for index, text in enumerate(lines):
            draw.text((x, _GAP + index * line), text, "black", font)
    for (name, panels), height in zip(rows, heights, strict=True):
        draw.text((_GAP, y), name, "#444444", font)
        for x, (panel, text) in zip(lefts, panels, strict=False):
            enlarged = panel.resize((panel.width * zoom, panel.height * zoom), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, y + line))
            draw.text((x, y + line + enlarged.height + 1), text, "black", font)
        y += height + _GAP
    return Picture(np.array(sheet))


def _row(
    name: str,
    place: tuple[int, int] | None,
    found: Sequence[PictureResult | None],
    results: Sequence[SystemResult],
    size: int,
    captions: Sequence[str],
) -> tuple[str, list[tuple[Image.Image, str]]]:
    """A photograph's label, and its panels with their captions."""
    path = next((picture.original for picture in found if picture and picture.original), None)
    if path is None:
        raise EvaluationError(f"no system has measured a photograph '{name}'; check the name.")
    original = read_picture(path)
    width, height = min(size, original.width), min(size, original.height)
    left, top = busiest(original.rgb, width, height) if place is None else place
    if not (0 <= left <= original.width - width and 0 <= top <= original.height - height):
        raise EvaluationError(
            f"{name}: a part of {width} x {height} from ({left}, {top}) does not lie in its "
            f"{original.width} x {original.height} pixels; choose another."
        )
    box = (left, top, left + width, top + height)
    panels = [(original.to_pil().convert("RGB").crop(box), "")]

    empty = Image.new("RGB", (width, height), "#dddddd")
    small, note = empty, "none is stored"
    for result, picture in zip(results, found, strict=True):
        if picture and picture.thumbnail:
            thumbnail = read_picture(picture.thumbnail)
            image = Image.fromarray(thumbnail.rgb)
            part = thumbnail_box(box, (original.width, original.height), image.size, result.scale)
            small, note = image.resize((width, height), Image.Resampling.NEAREST, box=part), f"of {result.system}"
            break
    panels.append((small, note if len({r.system for r in results}) > 1 else ""))

    for picture in found:
        if picture is None or picture.restored is None:
            panels.append((empty, "none"))
            continue
        restored = read_picture(picture.restored)
        if (restored.width, restored.height) != (original.width, original.height):
            raise EvaluationError(f"{picture.restored} is not of the size of {path}; evaluate it again.")
        values = {key: picture.values.get(key, math.nan) for key in captions}
        texts = [f"{shown(value, key)} {metric(key).unit}" for key, value in values.items() if math.isfinite(value)]
        panels.append((Image.fromarray(restored.rgb).crop(box), ", ".join(texts)))
    return name, panels
