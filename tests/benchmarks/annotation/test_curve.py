"""Curves over a cohort, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.annotation.attempt import Effort
from benchmarks.annotation.curve import at, curve, shuffled
from runtime.errors import InputError

GOOD = (Effort(0.9, 1, human_s=7), Effort(0.9, 1, human_s=9))
BAD = (Effort(0.1, 1, human_s=7), Effort(0.1, 1, human_s=8), Effort(0.7, 2, human_s=12, waited_s=1))


def test_what_was_paid_before_is_paid_for_all_at_once() -> None:
    seconds, worth, prompts = curve([GOOD, BAD], [1, 0])
    assert seconds.tolist() == [14, 15, 20, 22]
    assert worth == pytest.approx([0.5, 0.5, 0.8, 0.8])
    assert prompts.tolist() == [2, 2, 3, 3]


def test_orders_begin_and_end_alike() -> None:
    (first, early, _), (second, late, _) = (curve([GOOD, BAD], order) for order in ([1, 0], [0, 1]))
    assert first[-1] == second[-1] and early[-1] == late[-1] and early[0] == late[0]
    assert second.tolist() == [14, 16, 17, 22]


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2]])
def test_an_order_has_each_object_once(order: list[int]) -> None:
    with pytest.raises(InputError, match="each of 2 once"):
        curve([GOOD, BAD], order)


def test_a_curve_is_a_staircase() -> None:
    values = at(
        np.array([1.0, 2.0, 3.5, 9.0]), np.array([2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3])
    )
    assert np.isnan(values[0]) and values[1:].tolist() == [0.1, 0.2, 0.3]


def test_studies_are_shuffled_and_their_objects_stay_together() -> None:
    groups = ["a", "a", "b", "c", "c"]
    orders = shuffled(groups, 50, seed=3)
    assert orders == shuffled(groups, 50, seed=3) != shuffled(groups, 50, seed=4)
    assert len({tuple(order) for order in orders}) == 6
    for order in orders:
        assert sorted(order) == [0, 1, 2, 3, 4]
        assert order.index(1) == order.index(0) + 1 and order.index(4) == order.index(3) + 1
