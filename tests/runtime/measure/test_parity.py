"""When two models count as equal, and what "auto" makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.bundle.manifest import graph_file
from runtime.measure.lockstep import Lockstep, compare_tensors
from runtime.measure.parity import (
    LOWEST_DICE,
    LOWEST_DICE_REDUCED,
    TOLERANCES,
    Criteria,
    compare_models,
    criteria_of,
    num_steps,
    tasks,
)
from runtime.measure.parity import compare_tracks as compare
from runtime.measure.phantom import make_phantom
from runtime.predictors.result import SliceMask
from runtime.steps.steps import HostSteps
from runtime.track import Segmented
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model

BARS = {
    "fp32": Criteria(dict.fromkeys(GRAPHS, 1e-4), LOWEST_DICE, decides_alike=True),
    "bf16": Criteria(dict.fromkeys(GRAPHS, 6e-2), LOWEST_DICE_REDUCED, decides_alike=False),
}


def test_an_error_is_relative_to_the_largest_magnitude() -> None:
    truth, found = np.array([[1.0, -100.0]]), np.array([[1.05, -100.0]])
    result = compare_tensors(found, truth, tolerance=2e-3)
    assert result["relative_error"] == pytest.approx(5e-4)
    assert result["passed"] and not compare_tensors(found, truth, tolerance=1e-4)["passed"]


def test_a_score_near_zero_is_judged_on_a_scale_of_one() -> None:
    truth, found = np.array([4e-6]), np.array([4.1e-6])
    assert compare_tensors(found, truth, tolerance=1e-4)["passed"]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_near_enough(wrong: float) -> None:
    right = np.array([[1.0, -100.0]])
    spoiled = np.array([[wrong, -100.0]])
    for found, truth, whose in ((spoiled, right, "candidate"), (right, spoiled, "reference")):
        result = compare_tensors(found, truth, tolerance=1e9)
        assert not result["passed"] and result["relative_error"] is None
        assert result["reason"] == f"1 of the {whose}'s 2 numbers are NaN or infinite"
    assert not compare_tensors(spoiled, spoiled, tolerance=1e9)["passed"]


def test_another_shape_is_never_near_enough() -> None:
    result = compare_tensors(np.zeros((2, 1)), np.zeros((2, 3)), tolerance=1e9)
    assert not result["passed"] and "(2, 1)" in result["reason"]


@pytest.mark.parametrize("broken", ["logits", "score", "iou"])
def test_a_track_with_nan_fails_whoever_found_it(broken: str) -> None:
    lenient = Criteria(dict.fromkeys(GRAPHS, 1.0), None, decides_alike=False)
    sound, spoiled = track(1.0, 2.0), track(1.0, 2.0)
    (key, mask), changed = spoiled.popitem(), {}
    if broken == "logits":
        changed["low_res"] = np.full((4, 4), np.nan, np.float32)
    else:
        changed["object_score" if broken == "score" else "iou"] = float("nan")
    spoiled[key] = replace(mask, segmented=replace(mask.segmented, **changed))
    for found, truth in ((spoiled, sound), (sound, spoiled), (spoiled, spoiled)):
        result = compare(found, truth, lenient)
        assert not result["passed"] and "NaN" in result["reason"] and result["lowest_dice"] == 0


def test_a_track_that_was_not_finished_fails() -> None:
    lenient = Criteria(dict.fromkeys(GRAPHS, 1.0), None, decides_alike=False)
    for found, truth in (({}, track(1.0, 2.0)), ({}, {}), (track(1.0, 2.0), {})):
        result = compare(found, truth, lenient)
        assert not result["passed"] and result["lowest_dice"] == 0 and result["reason"]
    result = compare(track(1.0, 2.0), track(1.0, 2.0), lenient, "somebody tripped")
    assert not result["passed"] and result["reason"] == "somebody tripped"


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_reference_that_gives_nan_certifies_nobody(graph: str) -> None:
    def spoiled(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {name: np.array(np.nan) for name in graph_specs(FAKE_NUMBERS)[graph].outputs}

    (reference, _), (candidate, _) = (fake_model({**TELLING, graph: spoiled}) for _ in "ab")
    found = compare_models(reference, candidate, BARS["bf16"], 4)
    assert not found["passed"]
    for task in found["propagation"].values():
        assert task["reason"].startswith(f"the reference's {graph} gave NaN")
    json.dumps(found, allow_nan=False)


def test_a_graph_that_was_never_run_has_not_passed() -> None:
    lockstep = Lockstep(*(fake_model(TELLING)[0] for _ in "ab"), dict.fromkeys(GRAPHS, 1.0))
    assert not lockstep.has_passed()


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
    assert flipped["worst_relative_error"] == pytest.approx(2 / 5)


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
        tracked[key] = replace(mask, segmented=replace(mask.segmented, low_res=logits))
    assert compare_tracks(found, truth, "bf16")["passed"]
    assert not compare_tracks(found, truth)["passed"]


def test_the_dice_that_counts_is_an_objects_over_all_slices() -> None:
    truth, found = {}, {}
    for index, pixels in enumerate((30, 2, 30)):
        values = np.full((8, 8), -5.0, np.float32)
        values.flat[:pixels] = 5.0
        segmented = Segmented(values, 0.9, 2.0, np.zeros(4, np.float32))
        truth[1, index] = SliceMask(index, 1, segmented, (8, 8))
        changed = values.copy()
        if index == 1:
            changed.flat[1] = -5.0
        found[1, index] = replace(truth[1, index], segmented=replace(segmented, low_res=changed))
    result = compare_tracks(found, truth, "bf16")
    assert result["lowest_dice"] == pytest.approx(2 * 61 / 123)
    assert result["lowest_slice_dice"] == pytest.approx(2 / 3)


def test_the_worst_object_counts() -> None:
    truth = track(5.0, 2.0)
    other = {(2, 3): replace(truth[1, 3], object_id=2)}
    found = {**truth, (2, 3): replace(track(-5.0, 2.0)[1, 3], object_id=2)}
    assert compare_tracks(found, {**truth, **other})["lowest_dice"] == pytest.approx(2 / 3)


def bundle(kind: str = "checkpoint", int8_graphs: Sequence[str] = ()) -> Bundle:
    files = {graph_file(graph, "int8"): {} for graph in int8_graphs}
    return Bundle(Path("nowhere"), FAKE_NUMBERS, {"kind": kind}, {"files": files})


def test_fp32_is_held_to_fp32_whatever_the_weights() -> None:
    for kind in ("checkpoint", "random"):
        criteria = criteria_of(bundle(kind=kind), "openvino")
        assert criteria == Criteria(dict.fromkeys(GRAPHS, TOLERANCES["fp32"]), LOWEST_DICE, True)


def test_bf16_is_held_to_bf16_and_random_weights_show_no_masks() -> None:
    criteria = criteria_of(bundle(), "openvino-bf16")
    assert criteria == Criteria(
        dict.fromkeys(GRAPHS, TOLERANCES["bf16"]), LOWEST_DICE_REDUCED, False
    )
    assert criteria_of(bundle(kind="random"), "openvino-bf16") == replace(
        criteria, lowest_dice=None
    )


def test_graphs_in_eight_bits_are_given_way_and_others_are_not() -> None:
    criteria = criteria_of(bundle(int8_graphs=GRAPHS[:2]), "ort-int8")
    assert criteria.tolerances == {
        **dict.fromkeys(GRAPHS, TOLERANCES["fp32"]),
        **dict.fromkeys(GRAPHS[:2], TOLERANCES["int8"]),
    }
    assert criteria.lowest_dice == LOWEST_DICE_REDUCED and not criteria.decides_alike
    assert criteria_of(bundle("random", GRAPHS[:2]), "ort-int8").lowest_dice is None


def test_graphs_in_eight_bits_lower_nothing_for_who_does_not_run_them() -> None:
    assert criteria_of(bundle(int8_graphs=GRAPHS), "openvino") == criteria_of(bundle(), "openvino")


def test_masks_that_show_nothing_are_not_judged() -> None:
    lenient = Criteria(dict.fromkeys(GRAPHS, 1.0), None, decides_alike=False)
    assert compare(track(-5.0, -2.0), track(5.0, 2.0), lenient)["passed"]


def test_a_seed_is_that_of_the_phantom() -> None:
    def first_image(seed: int) -> np.ndarray:
        seen: list[np.ndarray] = []

        def keep(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            seen.append(next(iter(inputs.values())).copy())
            return TELLING["image_encoder"](inputs)

        model, _ = fake_model({**TELLING, "image_encoder": keep})
        assert compare_models(model, model, BARS["fp32"], 4, seed=seed)["passed"]
        return seen[0]

    assert np.array_equal(first_image(0), first_image(0))
    assert not np.array_equal(first_image(0), first_image(1))


def test_a_model_is_itself() -> None:
    model, _ = fake_model(TELLING)
    calls = []
    found = compare_models(model, model, BARS["fp32"], 4, lambda: calls.append(1))
    assert found["passed"] and len(calls) == num_steps(4, model)
    names = {
        "click",
        "two boxes, clicks",
        "mask",
        "full batch, weighted, corrected",
        "full memory, weighted",
        "images without order",
    }
    assert set(found["propagation"]) == set(tasks(make_phantom((12, 64, 64)), 4)) == names
    errors = [o["relative_error"] for outputs in found["graphs"].values() for o in outputs.values()]
    assert errors and not any(errors)
    for task in found["propagation"].values():
        assert task["worst_relative_error"] == 0 and task["lowest_slice_dice"] == 1
        assert task["lowest_dice"] == 1 and task["first_different_decision"] is None


def test_every_run_of_the_reference_is_repeated_on_its_own_tensors() -> None:
    def low(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        found = TELLING["mask_decoder"](inputs)
        return {**found, "low_res_masks": found["low_res_masks"] - np.float32(1)}

    (reference, asked), (candidate, repeated) = (
        fake_model(TELLING),
        fake_model({"mask_decoder": low}),
    )
    found = compare_models(reference, candidate, BARS["bf16"], 4)
    assert len(asked.calls) == len(repeated.calls)
    for call, again in zip(asked.calls, repeated.calls, strict=True):
        assert call.graph == again.graph
        for name, array in call.inputs.items():
            np.testing.assert_array_equal(again.inputs[name], array)
    half = len(asked.calls) // 2
    assert [c.graph for c in asked.calls[:half]] == [c.graph for c in asked.calls[half:]]
    assert any(
        not np.array_equal(own.inputs[name], truth.inputs[name])
        for truth, own in zip(asked.calls[:half], asked.calls[half:], strict=True)
        for name in truth.inputs
    ), "in the second half the candidate goes its own way, and the reference follows"
    for graph in GRAPHS:
        runs = sum(call.graph == graph for call in asked.calls)
        assert {output["runs"] for output in found["graphs"][graph].values()} == {runs}


def test_masks_that_differ_fail_graphs_that_are_near_enough() -> None:
    def low(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        found = TELLING["mask_decoder"](inputs)
        return {**found, "low_res_masks": found["low_res_masks"] - np.float32(8)}

    criteria = Criteria(dict.fromkeys(GRAPHS, 1e3), LOWEST_DICE_REDUCED, decides_alike=False)
    other, _ = fake_model({**TELLING, "mask_decoder": low})
    found = compare_models(fake_model(TELLING)[0], other, criteria, 4)
    outputs = [output for graph in found["graphs"].values() for output in graph.values()]
    assert all(output["passed"] for output in outputs)
    assert not any(task["passed"] for task in found["propagation"].values())
    assert not found["passed"]


def test_one_run_that_is_off_is_not_forgotten() -> None:
    calls = []

    def off_once(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        calls.append(1)
        factor = np.float32(1.01 if len(calls) == 3 else 1.001 if len(calls) == 2 else 1)
        return {"memory": TELLING["memory_encoder"](inputs)["memory"] * factor}

    other, _ = fake_model({**TELLING, "memory_encoder": off_once})
    found = compare_models(fake_model(TELLING)[0], other, BARS["fp32"], 4)
    memory = found["graphs"]["memory_encoder"]["memory"]
    assert memory["relative_error"] == pytest.approx(0.01, rel=1e-3) and not memory["passed"]
    assert all(task["passed"] for task in found["propagation"].values()) and not found["passed"]


def test_one_graph_that_is_off_fails_alone() -> None:
    def high(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        found = TELLING["memory_encoder"](inputs)
        return {"memory": found["memory"] * np.float32(1.01)}

    other, _ = fake_model({**TELLING, "memory_encoder": high})
    found = compare_models(fake_model(TELLING)[0], other, BARS["fp32"], 4)
    passed = {
        g: all(o["passed"] for o in outputs.values()) for g, outputs in found["graphs"].items()
    }
    assert passed == {**dict.fromkeys(GRAPHS, True), "memory_encoder": False}
    assert not found["passed"]


def test_a_candidate_that_is_watched_another_way_than_it_runs_goes_its_own_way_unwatched() -> None:
    class Replaying(HostSteps):
        def unreplayed(self) -> HostSteps:
            return HostSteps()

    reference, asked = fake_model(TELLING)
    candidate, repeated = fake_model(TELLING)
    repeated.steps = Replaying()
    found = compare_models(reference, candidate, BARS["fp32"], 4)
    assert found["passed"]
    assert len(repeated.calls) == 2 * len(asked.calls), "the reference does not follow"
    for graph in GRAPHS:
        runs = sum(call.graph == graph for call in asked.calls)
        assert {output["runs"] for output in found["graphs"][graph].values()} == {runs}
