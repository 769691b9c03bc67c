"""Where the annotator clicks, what he takes back, when he stops, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.annotation.attempt import (
    Effort,
    Habits,
    deepest_error,
    from_scratch,
    reached,
    reviewed,
    with_network,
)
from benchmarks.annotation.costs import Costs
from tests.benchmarks.annotation.tools import FakeTool, block

COSTS = Costs(box_s=7, click_s=3, undo_s=1, look_s=0.5, slice_s=2, vertex_s=1)
HABITS = Habits(COSTS, target=0.9, clicks=6, patience=2)
TRUTH = block(3, (4, 8), (2, 12), (5, 7))
NOTHING = np.zeros_like(TRUTH)


def test_the_click_is_where_the_error_is_deepest_over_all_slices() -> None:
    missing_end = block(3, (4, 8), (2, 12))
    missing_end[1, 2:12, 2:4] = False  # 10 x 2 pixels: its depth is 1, that of the end's 2 x 2 too
    assert deepest_error(missing_end, block(3, (4, 8), (2, 12), (4, 9))) == (2, 6, 6)
    too_much = block(3, (4, 8), (2, 12), (5, 7))
    too_much[0, 9:16, 9:16] = True
    at = deepest_error(too_much, TRUTH)
    assert at == (0, 12, 12) and not TRUTH[at]


def test_slices_where_a_click_has_failed_come_last_and_its_voxel_never() -> None:
    assert deepest_error(NOTHING, TRUTH) == (1, 6, 6)
    at = deepest_error(NOTHING, TRUTH, [(1, 6, 6)])
    assert at is not None and at[0] == 0
    everywhere = deepest_error(NOTHING, TRUTH, [(1, 6, 6), (0, 5, 5), (2, 5, 5)])
    assert everywhere is not None and everywhere[0] == 1 and everywhere != (1, 6, 6)


def test_there_is_no_click_where_nothing_is_wrong() -> None:
    assert deepest_error(TRUTH, TRUTH) is None
    one = NOTHING.copy()
    one[0, 0, 0] = True
    assert deepest_error(NOTHING, one, [(0, 0, 0)]) is None


def test_by_hand_the_largest_slice_comes_first_and_none_after_the_target() -> None:
    attempt = from_scratch(TRUTH, Habits(COSTS, target=0.95, clicks=6, patience=2))
    assert [effort.slices for effort in attempt] == [0, 1, 2]  # of 100 voxels, of 16, and not of 4
    assert [effort.vertices for effort in attempt] == [0, 4, 8]
    assert [effort.human_s for effort in attempt] == [0, 6, 12]
    assert [effort.dice for effort in attempt] == pytest.approx([0, 200 / 220, 232 / 236])


def test_a_box_that_is_enough_is_accepted() -> None:
    tool = FakeTool([NOTHING, TRUTH], seconds=2)
    attempt = with_network(tool, TRUTH, 1, HABITS, tool.clock)
    assert tool.asked == [("box", 1, (2, 12), (2, 12))]
    assert attempt[-1] == Effort(1.0, prompts=1, human_s=7 + 3 * 0.5, waited_s=2)


def test_clicks_go_on_until_the_target_is_reached() -> None:
    half, more = block(3, (0, 0), (2, 9)), block(3, (0, 0), (2, 12))
    more[1, 2:5, 2:5] = False
    tool = FakeTool([NOTHING, half, more, TRUTH], seconds=1)
    attempt = with_network(tool, TRUTH, 1, HABITS, tool.clock)
    assert [words[0] for words in tool.asked] == ["box", "click", "click"]
    assert all(TRUTH[words[1]] == words[2] for words in tool.asked[1:])
    last = attempt[-1]
    assert (last.dice, last.prompts, last.slices, last.waited_s) == (1.0, 3, 0, 3)
    assert last.human_s == (7 + 1.5) + 2 * (3 + 1.5)


def test_what_makes_it_no_better_is_taken_back_and_patience_ends() -> None:
    good, bad = block(3, (4, 8), (2, 9)), block(3, (4, 8))
    tool = FakeTool([NOTHING, good, bad, good, TRUTH])
    attempt = with_network(tool, TRUTH, 1, HABITS, tool.clock)
    assert [words[0] for words in tool.asked] == ["box", "click", "undo", "click", "undo"]
    assert tool.asked[1][1] != tool.asked[3][1]
    clicked = attempt[3]
    assert clicked.dice == attempt[1].dice and clicked.prompts == 1 + 2 + 2
    assert clicked.undone == 2
    assert clicked.human_s == pytest.approx((7 + 1.5) + 2 * (3 + 1.5 + 1))
    assert attempt[-1].slices == 1 and attempt[-1].dice >= 0.9  # the rest is drawn
    assert attempt[-1].human_s == clicked.human_s + 2 + 4


def test_the_budget_of_clicks_ends_too() -> None:
    masks = [NOTHING, *(block(3, (0, 0), (2, stop)) for stop in (5, 6, 7, 8))]
    tool = FakeTool(masks)
    habits = Habits(COSTS, target=0.9, clicks=2, patience=2)
    attempt = with_network(tool, TRUTH, 1, habits, tool.clock)
    assert [words[0] for words in tool.asked] == ["box", "click", "click"]
    assert attempt[-1].slices and attempt[-1].prompts == 3


def test_a_mask_of_the_cohort_is_accepted_by_looking_at_it() -> None:
    tool = FakeTool([TRUTH])
    attempt = reviewed(tool, TRUTH, HABITS, tool.clock)
    assert attempt == (Effort(1.0, 1, human_s=7), Effort(1.0, 1, human_s=7 + 1.5))
    assert tool.asked == []


def test_who_is_satisfied_by_less_stops_sooner_but_looks() -> None:
    attempt = tuple(Effort(worth, human_s=10.0 * i) for i, worth in enumerate((0.85, 0.85, 0.95)))
    assert reached(attempt, 0.8) == attempt[:2]
    assert reached(attempt, 0.9) == attempt
    assert reached(attempt, 0.99) == attempt
