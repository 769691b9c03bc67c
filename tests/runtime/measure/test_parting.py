"""What parts by a pixel's rounding may be asked again; what is wrong otherwise may not."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.measure.parting import asked_again, parted_by_little

FLIPPED = {
    "passed": False,
    "worst_relative_error": 0.2,
    "lowest_dice": 0.9995,
    "lowest_dice_wanted": 0.999,
    "first_different_decision": {"object": 1, "slice": 2, "what": "7 pixels"},
}
FINE = {**FLIPPED, "passed": True, "worst_relative_error": 1e-5, "first_different_decision": None}


def comparison(
    click: dict[str, Any] = FLIPPED, graph: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    graph = {"passed": True} if graph is None else graph
    graphs = {"image_encoder": {"features": {"passed": True}}, "mask_decoder": {"ious": graph}}
    return {
        "graphs": graphs,
        "propagation": {"click": click, "mask": FINE},
        "passed": False,
        **more,
    }


def test_pixels_and_logits_may_part_while_graphs_pass_and_dice_holds() -> None:
    assert parted_by_little(comparison()) == ["click"]
    assert parted_by_little(comparison(FLIPPED | {"lowest_dice_wanted": None})) == ["click"]
    assert parted_by_little(comparison(FINE)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        comparison(FLIPPED | {"reason": "NaN"}),
        comparison(FLIPPED | {"lowest_dice": 0.99}),
        comparison(FLIPPED | {"worst_relative_error": None}),
        comparison(graph={"passed": False}),
        comparison(faults=["wrote where nothing is its own"]),
        comparison() | {"graphs": {"image_encoder": {}}},
    ],
)
def test_what_is_wrong_otherwise_is_not_asked_again(wrong: dict[str, Any]) -> None:
    assert parted_by_little(wrong) == []
    assert not asked_again(wrong, comparison(FINE))["passed"]


def test_what_passes_on_another_phantom_passes() -> None:
    judged = asked_again(comparison(backend="openvino"), comparison(FINE))
    assert judged["passed"] and judged["backend"] == "openvino"
    assert judged["propagation"]["click"] == FLIPPED | {"passed": True, "another_phantom": FINE}
    assert judged["propagation"]["mask"] == FINE


@pytest.mark.parametrize(
    "second",
    [
        comparison(),
        comparison(FINE, graph={"passed": False}),
        comparison(FINE, faults=["wrote where nothing is its own"]),
        comparison(FINE) | {"graphs": {"image_encoder": {}}},
    ],
)
def test_a_fault_comes_back(second: dict[str, Any]) -> None:
    assert not asked_again(comparison(), second)["passed"]


def test_what_parts_there_alone_is_chance() -> None:
    second = comparison(FINE)
    second["propagation"]["mask"] = FLIPPED
    assert asked_again(comparison(), second)["passed"]
