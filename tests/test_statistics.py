"""Intervals and p-values: against their exact distributions where these can be listed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faitheir.evaluation.statistics import interval, paired

finite = st.floats(-100, 100)


def test_the_interval_is_that_of_all_resamples() -> None:
    values = (1.0, 2.0, 4.0, 8.0, 9.0)
    means = [np.mean(sample) for sample in itertools.product(values, repeat=5)]
    low, high = np.percentile(means, (2.5, 97.5))
    found = interval(values)
    assert found == pytest.approx((low, high), abs=0.2)
    assert found == interval(values)  # always the same


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(3, 2, (150, 40))
    ends = [interval(tuple(sample.tolist())) for sample in samples]
    covered = sum(found is not None and found[0] <= 3 <= found[1] for found in ends)
    assert 0.88 <= covered / len(samples) <= 0.99


@settings(max_examples=30, deadline=None)
@given(values=st.lists(finite, min_size=2, max_size=12))
def test_an_interval_lies_within_the_values(values: list[float]) -> None:
    found = interval(tuple(values))
    assert found is not None
    assert min(values) - 1e-9 <= found[0] <= found[1] <= max(values) + 1e-9


def test_where_there_is_no_interval() -> None:
    assert interval(()) is interval((1.0,)) is interval((1.0, math.inf)) is None
    assert interval((1.0, math.nan)) is None
    assert paired({"a": 1.0, "b": math.inf}, {"a": 2.0, "b": math.inf}) is None
    assert paired({"a": 1.0}, {"b": 1.0}) is None


def test_the_p_value_is_that_of_all_signs() -> None:
    differences = np.array([0.5, 1.0, -0.25, 2.0, 1.5, 0.75, -0.5])
    sums = [abs(float(np.dot(signs, differences))) for signs in itertools.product((-1, 1), repeat=len(differences))]
    exact = np.mean([total >= abs(differences.sum()) for total in sums])
    a = {str(i): 10 + float(value) for i, value in enumerate(differences)} | {"only here": 99.0}
    found = paired(a, dict.fromkeys(map(str, range(7)), 10.0))
    assert found is not None
    assert found.p == pytest.approx(exact)
    assert found.mean == pytest.approx(differences.mean())
    assert found.interval[0] < found.mean < found.interval[1]
    swapped = paired(dict.fromkeys(map(str, range(7)), 10.0), a)
    assert swapped is not None
    assert (swapped.p, swapped.mean) == (found.p, -found.mean)


def test_with_many_pictures_signs_are_drawn() -> None:
    """By the normal distribution that their sum has then."""
    rng = np.random.default_rng(3)
    x = rng.normal(0.15, 1, 60)
    found = paired({str(i): float(value) for i, value in enumerate(x)}, dict.fromkeys(map(str, range(60)), 0.0))
    assert found is not None
    z = abs(x.sum()) / math.sqrt((x**2).sum())
    assert found.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.03)
    assert 0.01 < found.p < 0.9


def test_no_difference_and_a_plain_one() -> None:
    rng = np.random.default_rng(0)
    base = {str(i): float(value) for i, value in enumerate(rng.normal(size=40))}
    same = paired(base, base)
    assert same is not None
    assert (same.mean, same.p) == (0, 1)
    better = paired({name: value + 1 for name, value in base.items()}, base)
    assert better is not None
    assert better.p < 0.001
