"""When two models count as equal, and what "auto" makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.contract import GRAPHS
from runtime.parity import LOWEST_DICE, LOWEST_DICE_REDUCED, Bar, compare_tensors
from runtime.parity import compare_tracks as compare
from runtime.result import SliceMask
from runtime.track import Segmented

BARS = {
    "fp32": Bar(dict.fromkeys(GRAPHS, 1e-4), LOWEST_DICE, decides_alike=True),
    "bf16": Bar(dict.fromkeys(GRAPHS, 3e-2), LOWEST_DICE_REDUCED, decides_alike=False),
}


def test_an_error_is_relative_to_the_largest_magnitude() -> None:
    truth, found = np.array([[1.0, -100.0]]), np.array([[1.05, -100.0]])
    result = compare_tensors(found, truth, tolerance=1e-3)
    assert result["relative_error"] == pytest.approx(5e-4)
    assert result["passed"] and not compare_tensors(found, truth, tolerance=1e-4)["passed"]


def test_a_score_near_zero_is_judged_on_a_scale_of_one() -> None:
    truth, found = np.array([4e-6]), np.array([4.1e-6])
    assert compare_tensors(found, truth, tolerance=1e-4)["passed"]


def compare_tracks(found, truth, precision: str = "fp32"):
    return compare(found, truth, BARS[precision])


def track(logits: float, score: float) -> dict[tuple[int, int], SliceMask]:
    values = np.full((4, 4), -5.0, np.float32)
    values[0, 0], values[1, 1] = logits, 5.0
    segmented = Segmented(values, 0.9, score, np.zeros(4, np.float32))
    return {(1, 3): SliceMask(3, 1, segmented, (4, 4))}


def test_the_first_decision_that_differs_is_named() -> None:
    assert compare_tracks(track(1.0, 2.0), track(1.0, 2.0))["passed"]
    gone = compare_tracks(track(1.0, -0.1), track(1.0, 0.1))
    assert not gone["passed"] and "object present" in gone["first_different_decision"]["what"]
    flipped = compare_tracks(track(-1.0, 2.0), track(1.0, 2.0))
    assert flipped["first_different_decision"] == {
        "object": 1,
        "slice": 3,
        "what": "1 pixels on the other side of zero",
    }
    assert flipped["lowest_dice"] == pytest.approx(2 / 3)


def test_a_pixel_too_close_to_zero_to_call_is_no_decision() -> None:
    near = compare_tracks(track(-0.001, 2.0), track(0.001, 2.0))
    assert near["first_different_decision"] is None and near["passed"]


def test_a_mask_that_differs_fails_bf16_too_and_a_pixel_does_not() -> None:
    assert not compare_tracks(track(-1.0, 2.0), track(1.0, 2.0), "bf16")["passed"]
    truth, found = track(1.0, 2.0), track(1.0, 2.0)
    large = np.full((40, 40), 5.0, np.float32)
    changed = large.copy()
    changed[0, 0] = -5.0
    for tracked, logits in ((truth, large), (found, changed)):
        key, mask = tracked.popitem()
        tracked[key] = replace(mask, segmented=replace(mask.segmented, logits=logits))
    assert compare_tracks(found, truth, "bf16")["passed"]
    assert not compare_tracks(found, truth)["passed"]
