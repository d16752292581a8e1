"""Large pictures in overlapping, feathered tiles: memory beyond the picture itself does not grow with its size."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

#: Called after each tile with the number of tiles done and the number in all; an exception from it ends the work.
Progress = Callable[[int, int], object]


class Span(NamedTuple):
    """One tile along one axis: cells ``start`` to ``stop``, and their weights, which sum to 1 over all tiles."""

    start: int
    stop: int
    weights: Float32Array  # (cells x unit,)


def spans(length: int, tile: int, overlap: int, unit: int, align: int = 1) -> list[Span]:
    """Cover ``length`` cells with tiles of at most ``tile`` cells that overlap by ``overlap``.

    The fewest tiles that cover them, no larger than needed; all have one size but the last, which may be shorter. They
    start on multiples of ``align``; ``tile`` and ``overlap`` must be multiples of it too, and ``overlap`` at most half
    of ``tile``. A cell is ``unit`` output pixels, the resolution of the weights. Across an overlap the weights ramp
    over its middle half. Its outer quarters, where a tile sees least of the surroundings, belong to the other tile.
    """
    size = tile
    if length > tile:
        count = -(-(length - overlap) // (tile - overlap))
        even = -(-(length + (count - 1) * overlap) // count)
        size = max(2 * overlap, -(-even // align) * align)  # in a smaller one three tiles would meet
    step = size - overlap
    count = 1 + -(-max(0, length - size) // step)
    bounds = [(i * step, min(i * step + size, length)) for i in range(count)]
    result = []
    for i, (start, stop) in enumerate(bounds):
        position = np.arange(start * unit, stop * unit, dtype=np.float32) + 0.5
        weights = np.ones(len(position), np.float32)
        if i > 0:
            weights *= _ramp(position, start * unit, bounds[i - 1][1] * unit)
        if i < count - 1:
            weights *= 1 - _ramp(position, bounds[i + 1][0] * unit, stop * unit)
        result.append(Span(start, stop, weights))
    return result


def _ramp(position: Float32Array, start: int, stop: int) -> Float32Array:
    quarter = (stop - start) / 4
    ramp: Float32Array = np.clip((position - start - quarter) / (2 * quarter), 0, 1)
    return ramp


def process_tiles(
    source: NDArray[Any],
    grid: tuple[int, int],
    *,
    cell_in: int,
    cell_out: int,
    tile: int,
    overlap: int,
    align: int = 1,
    run: Callable[[NDArray[Any], tuple[int, int]], Float32Array],
    progress: Progress | None = None,
) -> Iterator[tuple[int, Float32Array]]:
    """Run ``run`` over tiles of ``source`` and yield finished rows of the result, top to bottom.

    ``source`` is (..., H, W, C), one picture or several of one size. ``grid`` = (rows, columns) of cells that it
    covers, each ``cell_in`` x ``cell_in`` of its pixels; a picture that ends within its last cells is continued by its
    edge, tile by tile. ``run`` takes (..., h cell_in, w cell_in, C) and the (row, column) of its first cell and gives
    (..., h cell_out, w cell_out, C). Yields (first row, (..., rows, columns, C) float32). ``tile``, ``overlap`` (at
    most half of ``tile``) and ``align``: see ``spans``. ``progress``: see ``Progress``.
    """
    rows, columns = grid
    *batch, channels = *source.shape[:-3], source.shape[-1]
    carried = np.zeros((*batch, 0, columns * cell_out, channels), np.float32)
    row_spans = spans(rows, tile, overlap, cell_out, align)
    column_spans = spans(columns, tile, overlap, cell_out, align)
    for i, (top, bottom, row_weights) in enumerate(row_spans):
        strip = np.zeros((*batch, (bottom - top) * cell_out, columns * cell_out, channels), np.float32)
        strip[..., : carried.shape[-3], :, :] += carried
        for j, (left, right, column_weights) in enumerate(column_spans):
            cut = source[..., top * cell_in : bottom * cell_in, left * cell_in : right * cell_in, :]
            missing = ((bottom - top) * cell_in - cut.shape[-3], (right - left) * cell_in - cut.shape[-2])
            if any(missing):
                cut = np.pad(cut, (*[(0, 0)] * len(batch), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            out = run(cut, (top, left))
            out *= row_weights[:, None, None]
            out *= column_weights[None, :, None]
            strip[..., left * cell_out : right * cell_out, :] += out
            if progress is not None:
                progress(i * len(column_spans) + j + 1, len(row_spans) * len(column_spans))
        finished = bottom if i + 1 == len(row_spans) else row_spans[i + 1].start
        height = (finished - top) * cell_out
        yield top * cell_out, strip[..., :height, :, :]
        carried = strip[..., height:, :, :]
