"""Figures of attempts, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.annotation.attempt import Effort
from benchmarks.annotation.costs import Costs
from benchmarks.annotation.figures import (
    BY_DOUBT,
    BY_TRUTH,
    MODEL,
    QUEUE,
    RANDOM,
    SCRATCH,
    breakeven_vertex_s,
    half_gain,
    orders,
    summary,
)

ZERO = Effort(0.0)
ATTEMPTS = {
    SCRATCH: [
        (ZERO, Effort(0.85, 0, 5, 50, 60), Effort(0.95, 0, 8, 80, 100)),
        (ZERO, Effort(0.92, 0, 4, 40, 60)),
    ],
    MODEL: [
        (ZERO, Effort(0.85, 1, 0, 0, 10, 2), Effort(0.92, 3, 0, 0, 18, 4)),
        (ZERO, Effort(0.5, 1, 0, 0, 10, 2), Effort(0.91, 5, 2, 20, 70, 8, undone=1)),
    ],
    QUEUE: [
        (Effort(0.9, 1, human_s=7), Effort(0.9, 1, human_s=8)),
        (Effort(0.5, 1, human_s=7), Effort(0.5, 1, human_s=8), Effort(0.9, 1, 2, 20, 68)),
    ],
}


def test_a_summary_says_what_was_saved_and_how_often_clicks_were_enough() -> None:
    told = summary(ATTEMPTS, ["a", "b"], 0.9)
    assert told[SCRATCH]["seconds"] == 80 and told[SCRATCH]["time_saved"] == 0
    model = told[MODEL]
    assert model["seconds"] == pytest.approx(50) and model["waited_s"] == 6
    assert model["time_saved"] == pytest.approx(1 - 100 / 160)
    assert model["reached_without_hand"] == 0.5
    assert model["prompts_where_reached_without_hand"] == 3
    assert model["quicker_than_scratch"] == 1
    assert model["clicks_taken_back"] == 1 / 5  # of 2 clicks and of 3
    assert told[QUEUE]["clicks_taken_back"] is None
    assert model["seconds_interval"] == [22, 78]
    assert told[QUEUE]["slices_by_hand"] == 1 and told[QUEUE]["vertices_by_hand"] == 10


def test_a_lower_target_costs_less() -> None:
    told = summary(ATTEMPTS, ["a", "b"], 0.8)
    assert told[SCRATCH]["seconds"] == 60
    assert told[MODEL]["prompts"] == 3 and told[MODEL]["seconds"] == pytest.approx(45)
    assert summary(ATTEMPTS, ["a", "b"], 0.99)[SCRATCH]["reached_without_hand"] == 0


def test_at_the_vertex_that_is_told_both_take_as_long() -> None:
    costs = Costs(vertex_s=1.0)
    vertex_s = breakeven_vertex_s(ATTEMPTS, 0.9, costs, MODEL)
    assert vertex_s is not None
    own, scratch = (100 - 20) + 20 * vertex_s, (160 - 120) + 120 * vertex_s
    assert own == pytest.approx(scratch)
    same = {**ATTEMPTS, MODEL: ATTEMPTS[SCRATCH]}
    assert breakeven_vertex_s(same, 0.9, costs, MODEL) is None


def test_the_order_of_the_queue_is_worth_what_comes_first() -> None:
    told = orders(ATTEMPTS, [1, 0], ["a", "b"], count=40, seed=0)
    halves = told["half_gain"]
    assert halves[BY_DOUBT] == halves[BY_TRUTH] == pytest.approx(61 / 62)
    assert halves[BY_DOUBT] < halves[RANDOM] < 1
    first = told["curves"][BY_DOUBT]
    assert first["dice"].split()[0] == "0.7" and first["dice"].split()[-1] == "0.9"
    assert first["seconds"].split()[0] == "14" and first["prompts"].split()[-1] == "2"
    drawn = told["curves"][RANDOM]
    assert drawn.keys() == {"seconds", "dice", "low", "high"}


def test_half_of_a_gain() -> None:
    assert half_gain(np.array([10.0, 12, 14, 20]), np.array([0.5, 0.6, 0.7, 0.9])) == 0.4
