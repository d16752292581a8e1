"""Crop sheets: every panel shows the same part, and what is missing is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faitheir.comparison.sheets import busiest, crop_sheet, thumbnail_box
from faitheir.errors import EvaluationError, StorageError
from faitheir.evaluation.results import SystemResult
from faitheir.images import UInt8Array, read_picture
from measured import measure


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[SystemResult]:
    return measure(tmp_path_factory.mktemp("measured"), {"a": (200, 150), "deep/small": (90, 50)})


def panel(sheet: UInt8Array, wanted: UInt8Array) -> list[tuple[int, int]]:
    """Where in a sheet a picture stands, pixel for pixel: (left, top)."""
    height, width = wanted.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, width))[: len(sheet) - height + 1, :, 0]
    candidates = np.argwhere((windows == wanted[0, :, 0]).all(axis=2))
    return [(x, y) for y, x in candidates.tolist() if (sheet[y : y + height, x : x + width] == wanted).all()]


def test_panels_show_one_part_of_each_file_pixel_for_pixel(results: list[SystemResult]) -> None:
    sheet = crop_sheet(results, {"a": (40, 30)}, size=64, zoom=2).rgb
    columns = []
    files = [results[0].pictures[0].original, *(result.pictures[0].restored for result in results)]
    for file in files:
        assert file is not None
        part = read_picture(file).rgb[30:94, 40:104].repeat(2, axis=0).repeat(2, axis=1)
        ((left, top),) = panel(sheet, part)
        columns.append((left, top))
    assert [x for x, _ in columns] == sorted({x for x, _ in columns})
    assert len({y for _, y in columns}) == 1
    # The thumbnail is the second of four columns, of the same part: 32..96 is pixels 2 to 5 of it, 16 x 2 wide each.
    sheet = crop_sheet(results, {"a": (32, 32)}, size=64, zoom=2).rgb
    thumbnail = read_picture(str(results[0].pictures[0].thumbnail)).rgb[2:6, 2:6].repeat(32, axis=0).repeat(32, axis=1)
    ((left, _),) = panel(sheet, thumbnail)
    assert columns[0][0] < left < columns[1][0]


def test_small_photographs_and_names_alone_do(results: list[SystemResult]) -> None:
    sheet = crop_sheet(results, ["a", "deep/small"], size=100)
    assert sheet.width >= 4 * 100
    assert sheet.height >= 100 + 50
    original = read_picture(str(results[0].pictures[1].original)).rgb
    left, top = busiest(original, 90, 50)
    assert (left, top) == (0, 0)
    assert panel(sheet.rgb, original[:, :90])


def test_what_cannot_be_shown_is_said(results: list[SystemResult], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no system has measured a photograph 'b'"):
        crop_sheet(results, ["b"])
    with pytest.raises(EvaluationError, match="does not lie in its 200 x 150 pixels"):
        crop_sheet(results, {"a": (150, 0)}, size=64)
    with pytest.raises(EvaluationError, match="at least one photograph"):
        crop_sheet(results, [])
    gone = replace(results[0].pictures[0], restored=str(tmp_path / "gone.png"))
    with pytest.raises(StorageError, match=r"gone\.png does not exist"):
        crop_sheet([replace(results[0], pictures=(gone,))], ["a"])
    other = replace(results[0].pictures[0], restored=results[0].pictures[1].restored)
    with pytest.raises(EvaluationError, match="not of the size"):
        crop_sheet([replace(results[0], pictures=(other,))], ["a"])


def test_a_system_without_the_picture_has_an_empty_panel(results: list[SystemResult]) -> None:
    failed = replace(results[0].pictures[0], restored=None, thumbnail=None, values={}, error="it is damaged.")
    whole = crop_sheet(results, ["a"])
    lacking = crop_sheet([replace(results[0], pictures=(failed,)), results[1]], ["a"])
    assert (lacking.width, lacking.height) == (whole.width, whole.height)
    assert (lacking.rgb != whole.rgb).any()


@given(
    spot=st.tuples(st.integers(0, 60), st.integers(0, 40)),
    size=st.tuples(st.integers(8, 90), st.integers(8, 70)),
)
def test_the_part_with_the_edges_is_found(spot: tuple[int, int], size: tuple[int, int]) -> None:
    rgb = np.full((50, 70, 3), 90, np.uint8)
    rgb[spot[1] : spot[1] + 4, spot[0] : spot[0] + 4] = 250
    width, height = min(size[0], 70), min(size[1], 50)
    left, top = busiest(rgb, *size)
    assert 0 <= left <= 70 - width
    assert 0 <= top <= 50 - height
    assert left <= spot[0] + 4 <= left + width or left <= spot[0] <= left + width
    assert top <= spot[1] + 4 <= top + height or top <= spot[1] <= top + height


def test_a_part_of_a_photograph_has_its_place_in_the_thumbnail() -> None:
    # 70 x 45 at 16x is padded to 5 x 3 pixels: the last column covers only 6 of 16.
    assert thumbnail_box((16, 0, 70, 45), (70, 45), (5, 3), 16) == (1, 0, 70 / 16, 45 / 16)
    assert thumbnail_box((16, 0, 70, 45), (80, 48), (5, 3), None) == (1, 0, 70 / 16, 45 / 16)
    assert thumbnail_box((0, 0, 70, 45), (70, 45), (4, 2), 16) == (0, 0, 4, 2)
