"""Tiles agree with the whole picture, whatever its size."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faitheir.tiling import process_tiles, spans


@given(
    length=st.integers(1, 300),
    overlap=st.integers(1, 6),
    extra=st.integers(0, 10),
    align=st.sampled_from([1, 2, 8]),
    unit=st.sampled_from([1, 4, 16]),
)
def test_tiles_cover_everything_overlap_as_asked_and_leave_their_edges_to_their_neighbours(
    length: int, overlap: int, extra: int, align: int, unit: int
) -> None:
    overlap *= align
    tile = 2 * overlap + extra * align
    found = spans(length, tile, overlap, unit, align)
    total = np.zeros(length * unit)
    for span in found:
        assert span.start % align == 0
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start <= tile
        assert np.all((span.weights >= 0) & (span.weights <= 1))
        total[span.start * unit : span.stop * unit] += span.weights
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for before, after in pairwise(found):
        shared = before.stop - after.start
        assert shared == overlap, "more would be computed twice for nothing"
        edge = shared * unit // 4
        if edge:
            assert np.all(after.weights[:edge] == 0)
            assert np.all(before.weights[-edge:] == 0)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 23),
    columns=st.integers(1, 23),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    tile=st.integers(4, 12),
    overlap=st.integers(1, 2),
    align=st.sampled_from([1, 2]),
    up=st.booleans(),
)
def test_a_local_operation_gives_the_same_tiled_as_whole(
    rows: int, columns: int, cut: tuple[int, int], tile: int, overlap: int, align: int, up: bool
) -> None:
    tile, overlap = tile * align, overlap * align
    cell = 4
    rng = np.random.default_rng(rows * 100 + columns)
    if up:
        source = rng.random((rows, columns, 3), dtype=np.float32)
        cell_in, cell_out = 1, cell
    else:
        source = rng.random((rows * cell - cut[0], columns * cell - cut[1], 3), dtype=np.float32)
        cell_in, cell_out = cell, 1

    def local(x: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
        # What a tile gives may depend on where it lies.
        where = np.add.outer(origin[0] + np.arange(x.shape[0] // cell_in), origin[1] + np.arange(x.shape[1] // cell_in))
        shift = (where * 0.1 % 1).repeat(cell_out, 0).repeat(cell_out, 1)[:, :, None]
        return fixed(x) + shift

    def fixed(x: np.ndarray) -> np.ndarray:
        if up:
            return x.repeat(cell, 0).repeat(cell, 1)
        return x.reshape(x.shape[0] // cell, cell, x.shape[1] // cell, cell, 3).mean((1, 3))

    missing = (rows * cell_in - source.shape[0], columns * cell_in - source.shape[1])
    whole = local(np.pad(source, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge"), (0, 0))
    result = np.full(whole.shape, np.nan, np.float32)
    for top, done in process_tiles(
        source, (rows, columns), cell_in=cell_in, cell_out=cell_out, tile=tile, overlap=overlap, align=align, run=local
    ):
        assert np.isnan(result[top : top + len(done)]).all(), "rows are finished once"
        result[top : top + len(done)] = done
    np.testing.assert_allclose(result, whole, atol=1e-5)


@pytest.mark.parametrize(("width", "largest"), [(64, 27), (6400, 32)])
def test_no_tile_is_larger_than_asked_for_or_than_it_need_be(width: int, largest: int) -> None:
    seen = []

    def run(x: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
        assert origin[0] + x.shape[0] <= 64
        assert origin[1] + x.shape[1] <= width
        seen.append(x.shape)
        return x.astype(np.float32)

    source = np.zeros((64, width, 3), np.float32)
    for _ in process_tiles(source, (64, width), cell_in=1, cell_out=1, tile=32, overlap=8, run=run):
        pass
    assert max(shape[0] for shape in seen) <= 32
    assert max(shape[1] for shape in seen) == largest


def test_several_pictures_at_once_and_what_is_done_is_told() -> None:
    source = np.random.default_rng(0).random((3, 50, 70, 3), dtype=np.float32)
    told: list[tuple[int, int]] = []

    def tiles(x: np.ndarray, **more: Any) -> np.ndarray:
        run = lambda cut, _: cut * 2  # noqa: E731
        strips = process_tiles(x, (50, 70), cell_in=1, cell_out=1, tile=32, overlap=8, run=run, **more)
        return np.concatenate([rows for _, rows in strips], axis=-3)

    together = tiles(source, progress=lambda done, count: told.append((done, count)))
    np.testing.assert_array_equal(together, np.stack([tiles(one) for one in source]))
    np.testing.assert_allclose(together, source * 2, atol=1e-6)
    assert told == [(n, 6) for n in range(1, 7)]
