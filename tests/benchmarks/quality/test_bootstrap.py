"""Means with intervals over groups."""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest

from benchmarks.quality.bootstrap import interval


def test_the_mean_lies_within_its_interval() -> None:
    values = [0.2, 0.4, 0.9, 0.5]
    found = interval(values, ["a", "b", "c", "d"])
    assert found.mean == pytest.approx(0.5)
    assert min(values) <= found.low < found.mean < found.high <= max(values)


def test_more_of_one_group_say_no_more() -> None:
    few = interval([0.2, 0.4, 0.9], ["a", "b", "c"])
    many = interval([0.2, 0.4, 0.9] * 5, ["a", "b", "c"] * 5)
    assert (many.low, many.high) == pytest.approx((few.low, few.high))


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.1, 200)
    found = interval(list(values), [str(i) for i in range(200)])
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.high - found.mean == pytest.approx(half, rel=0.15)
    assert found.mean - found.low == pytest.approx(half, rel=0.15)


def test_numbers_that_are_none_are_left_out() -> None:
    found = interval([0.5, nan, 0.7], ["a", "b", "c"])
    assert found.mean == pytest.approx(0.6)
    empty = interval([nan], ["a"])
    assert isnan(empty.mean) and str(empty) == "" and not empty.is_sure


def test_one_group_has_a_mean_and_no_interval() -> None:
    found = interval([0.5, 0.7], ["a", "a"])
    assert found.mean == pytest.approx(0.6)
    assert isnan(found.low) and not found.is_sure
    assert str(found) == "0.600"


@pytest.mark.parametrize(
    ("values", "is_sure"), [([0.1, 0.2, 0.3], True), ([-0.1, 0.2, 0.3], False)]
)
def test_a_difference_is_sure_where_zero_lies_outside(values: list[float], is_sure: bool) -> None:
    assert interval(values, ["a", "b", "c"]).is_sure == is_sure
    assert interval([-v for v in values], ["a", "b", "c"]).is_sure == is_sure
    assert str(interval([0.5, 0.5], ["a", "b"])) == "0.500 (0.50, 0.50)"
