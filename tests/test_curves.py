"""Rate-distortion curves: BD-rates and leaders of curves whose answers are known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faitheir.comparison.curves import bd_rate, value_at
from faitheir.comparison.tables import curve_tables, tables_of
from faitheir.evaluation.results import SystemKind, SystemResult

ANCHOR = [(0.01, 20.0), (0.02, 22.0), (0.04, 24.0), (0.08, 26.0)]


@given(factor=st.floats(0.2, 5), swap=st.booleans())
def test_a_curve_of_the_same_values_at_a_multiple_of_the_rate(factor: float, swap: bool) -> None:
    """So many percent, whichever way is better, and in whatever order the points are."""
    sign = -1 if swap else 1
    a = [(rate, sign * value) for rate, value in ANCHOR]
    b = [(rate * factor, sign * value) for rate, value in reversed(ANCHOR)]
    found = bd_rate(a, b, higher=not swap)
    assert found is not None
    assert found[0] == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert found[1] == ((-26, -20) if swap else (20, 26))


def test_only_values_that_both_reach_count() -> None:
    half = [(0.02, 24.0), (0.04, 26.0), (0.4, 40.0)]
    found = bd_rate(ANCHOR, half, higher=True)
    assert found is not None
    assert found == (pytest.approx(-50), (24, 26))
    assert bd_rate(ANCHOR, [(0.1, 30.0), (0.2, 31.0)], higher=True) is None
    # A point that is beaten at a lower rate changes nothing.
    beaten = [*ANCHOR, (0.05, 21.0)]
    assert bd_rate(ANCHOR, beaten, higher=True) == (pytest.approx(0, abs=1e-9), (20, 26))


def test_values_between_points() -> None:
    assert value_at(ANCHOR, 0.02) == 22
    assert value_at(ANCHOR, math.sqrt(0.02 * 0.04)) == pytest.approx(23)
    assert value_at(ANCHOR, 0.009) is None
    assert value_at([(0.03, 5.0)], 0.03) == 5


def point(system: str, rate: float, psnr: float, kind: SystemKind = "codec", **about: str) -> SystemResult:
    return SystemResult(system, kind, "paper", 16, summary={"bits_per_pixel": rate, "psnr": psnr}, about=about)


def test_tables_of_curves() -> None:
    avif = [point(f"AVIF {rate}", rate, psnr, codec="avif", held_to="rate") for rate, psnr in ANCHOR]
    ours = [
        point(f"nano {rate}", rate / 2, psnr, "model", curve="nano webp", held_to="rate") for rate, psnr in ANCHOR[:3]
    ]
    alone = point("nano", 0.03, 30.0, "model")
    deltas, leaders = curve_tables([*avif, *ours, alone])
    ((_, rows),) = deltas.blocks
    assert [[(cell.text, cell.interval) for cell in row] for row in rows] == [
        [("nano webp", ""), ("-50 %", "[20.00, 24.00]")]
    ]
    ((_, rows),) = leaders.blocks
    assert {row[0].text: row[1].text for row in rows} == {
        "0.01 bpp": "nano webp: 22.00",
        "0.02 bpp": "nano webp: 24.00",
        "0.03 bpp": "nano: 30.00",  # a single system, at its own rate
    }
    assert [table.caption for table in tables_of([*avif, *ours, alone])][1:] == [deltas.caption, leaders.caption]
    assert curve_tables([alone, avif[0]]) == []
