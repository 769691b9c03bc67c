"""Weights that magnify rounding excuse an error as far as PyTorch's own fp32 makes it too, and no farther."""

from __future__ import annotations

from typing import Any

import pytest

from export.conditioning import AIR, parted, settled, weighed
from runtime.measure.parity import LOGIT_TOLERANCE


def compared(error: float, logits: float = 0.0, **more: Any) -> dict[str, Any]:
    row = {"relative_error": error, "relative_rms_error": 0.0, "tolerance": 1e-4, "passed": False}
    task = {
        "worst_relative_error": logits,
        "lowest_dice": 1.0,
        "lowest_dice_wanted": 0.999,
        "first_different_decision": None,
        "passed": False,
    }
    return {
        "backend": "ort",
        "graphs": {"mask_decoder": {"ious": row}},
        "propagation": {"click": task | more},
        "passed": False,
    }


def row_of(weighed_: dict[str, Any]) -> dict[str, Any]:
    return dict(weighed_["graphs"]["mask_decoder"]["ious"])


@pytest.mark.parametrize(
    ("found", "own", "passes"),
    [
        (9e-5, 0.0, True),
        (1.1e-4, 0.0, False),
        (4e-4, 3.6e-4, True),
        (0.9 * AIR * 1e-3, 1e-3, True),
        (1.1 * AIR * 1e-3, 1e-3, False),
    ],
)
def test_a_graph_may_be_off_by_its_tolerance_or_by_what_pytorch_is(
    found: float, own: float, passes: bool
) -> None:
    result = weighed(compared(found), compared(own))
    assert result["passed"] is passes and row_of(result)["passed"] is passes
    assert row_of(result)["own_error"] == own
    assert result["backend"] == "ort"


@pytest.mark.parametrize(
    ("found", "own", "passes"), [(0.02, 0.01, True), (0.2, 0.01, False), (5e-4, 0.0, True)]
)
def test_so_may_a_propagation(found: float, own: float, passes: bool) -> None:
    assert weighed(compared(0, found), compared(0, own))["passed"] is passes


def test_a_decision_may_differ_only_where_pytorchs_own_logits_are_beyond_telling() -> None:
    otherwise = {"first_different_decision": {"object": 1, "slice": 2, "what": "3 pixels"}}
    noisy, exact = compared(0, 2 * LOGIT_TOLERANCE), compared(0, 0.5 * LOGIT_TOLERANCE)
    found = compared(0, LOGIT_TOLERANCE, **otherwise)
    assert weighed(found, noisy)["passed"]
    assert not weighed(found, exact)["passed"]


def test_dice_may_fall_as_far_as_pytorchs_own() -> None:
    found, own = compared(0, 0.01, lowest_dice=0.99), compared(0, 0.01, lowest_dice=0.98)
    assert weighed(found, own)["passed"]
    assert not weighed(found, compared(0, 0.01))["passed"]


@pytest.mark.parametrize("whose", ["the candidate's", "PyTorch's"])
def test_what_is_no_number_is_excused_by_nothing(whose: str) -> None:
    wrong, right = compared(0, 1.0, reason="NaN"), compared(0, 1.0)
    wrong["propagation"]["click"]["worst_relative_error"] = None
    pair = (wrong, right) if whose == "the candidate's" else (right, wrong)
    assert not weighed(*pair)["passed"]
    lost = compared(0, 0)
    row_of(lost)
    lost["graphs"]["mask_decoder"]["ious"] |= {"relative_error": None}
    pair = (lost, right) if whose == "the candidate's" else (right, lost)
    assert not weighed(*pair)["passed"]


def test_faults_and_graphs_that_nobody_saw_fail() -> None:
    assert not weighed({**compared(0), "faults": ["wrote into its input"]}, compared(0))["passed"]
    unseen = compared(0)
    unseen["graphs"]["image_encoder"] = {}
    assert not weighed(unseen, compared(0))["passed"]


PARTED = {"first_different_decision": {"object": 7, "slice": 8, "what": "7 pixels"}}
FLIP = 20 * LOGIT_TOLERANCE  # what one pixel of a memory makes of logits


def judged(
    own_elsewhere: float = FLIP, error: float = 1e-6, own_here: float = 1e-5, **more: Any
) -> dict[str, Any]:
    """A back end whose logits part in one of two propagations, and PyTorch's, which do in the other."""
    found, own = compared(error, 10 * FLIP, **{**PARTED, **more}), compared(1e-7, own_here)
    elsewhere = compared(0, 1e-5)["propagation"]["click"]
    found["propagation"]["mask"] = elsewhere
    own["propagation"]["mask"] = elsewhere | {"worst_relative_error": own_elsewhere}
    return weighed(found, own)


def again(error: float = 1e-6, logits: float = 1e-5, **more: Any) -> dict[str, Any]:
    """The same propagation on another phantom."""
    return compared(error, logits, **{"passed": True, **more})


def test_what_parts_where_pytorch_does_elsewhere_is_asked_on_another_phantom() -> None:
    first = judged()
    assert not first["passed"] and parted(first) == ["click"]
    result = settled(first, again())
    assert result["passed"] and result["propagation"]["click"]["passed"]
    assert result["propagation"]["click"]["another_phantom"]["worst_relative_error"] == 1e-5
    assert result["propagation"]["click"]["first_different_decision"], "is told still"
    assert "another_phantom" not in result["propagation"]["mask"]


@pytest.mark.parametrize(
    "first",
    [
        judged(own_elsewhere=0.9 * LOGIT_TOLERANCE),
        judged(error=1e-3),
        judged(lowest_dice=0.998),
        judged(reason="3 slice masks, the reference has 4"),
        judged(worst_relative_error=None),
        judged() | {"faults": ["wrote into its input"]},
    ],
    ids=[
        *("no flips of PyTorch's", "a graph is off", "masks differ", "not finished", "no number"),
        "a fault",
    ],
)
def test_what_one_pixel_does_not_explain_is_not_asked_again(first: dict[str, Any]) -> None:
    assert not first["passed"] and parted(first) == []
    assert not settled(first, again())["passed"]


@pytest.mark.parametrize(
    "second",
    [
        again(passed=False, **PARTED),
        again(logits=1.1 * AIR * FLIP),
        again(worst_relative_error=None),
        again(error=1e-3),
        again() | {"faults": ["wrote into its input"]},
        again() | {"graphs": {"mask_decoder": {}}},
    ],
    ids=["it parts again", "far off", "no number", "a graph is off", "a fault", "nothing seen"],
)
def test_a_fault_comes_back_on_another_phantom(second: dict[str, Any]) -> None:
    assert not settled(judged(), second)["passed"]


def test_what_passes_is_asked_once() -> None:
    first = weighed(compared(1e-6), compared(1e-7))
    assert first["passed"] and parted(first) == []
