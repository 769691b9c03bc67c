"""Points on a slice that tracking has been through: what is asked of memory, and what becomes of the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import PREVIOUS_LOGIT_LIMIT
from runtime.errors import OutOfMemory
from runtime.memory import MemoryRules
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.predictors import VolumePredictor
from runtime.predictors.tracker import BACKWARD, FORWARD
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, TELLING, Inputs, decode, fake_model

DEPTH, SIDE = 28, 16
GREYS = np.random.default_rng(5).integers(0, 255, DEPTH, np.uint8)
PIXELS = np.broadcast_to(GREYS[:, None, None], (DEPTH, SIDE, SIDE))
LAST = DEPTH - 1

Made = tuple[VolumePredictor, FakeBackend]


def make(rules: MemoryRules | None = None, **answers: Any) -> Made:
    model, backend = fake_model({**TELLING, **answers})
    predictor = VolumePredictor(model, rules)
    predictor.set_volume(PIXELS)
    return predictor, backend


@pytest.fixture
def made() -> Made:
    return make()


def click(index: int, y: float = 8, is_positive: bool = True) -> Point:
    return Point(slice=index, y=y, x=8, positive=is_positive)


def box(index: int, start: int = 2) -> Box:
    return Box(slice=index, y=(start, 12), x=(start, 12))


def asked(backend: FakeBackend, graph: str) -> list[dict[str, np.ndarray]]:
    return [call.inputs for call in backend.calls if call.graph == graph]


def assert_asked_alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def slots(predictor: VolumePredictor) -> tuple[int, int, int]:
    arena = predictor._tracker._arena
    return arena.memories.in_use, arena.pointers.in_use, arena.embeddings.in_use


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
@pytest.mark.parametrize("pick_up", PICK_UPS)
@pytest.mark.parametrize("policy", POLICIES)
def test_memory_is_asked_what_the_step_on_that_slice_asked(
    policy: str, pick_up: str, direction: int
) -> None:
    start = 0 if direction == FORWARD else LAST
    predictor, backend = make(MemoryRules(policy=policy, pick_up=pick_up))
    predictor.add(box(start))
    predictor.propagate()
    steps = asked(backend, "memory_attention")
    for distance in (1, 2, 7, 19, 27):
        backend.calls.clear()
        predictor.add(click(start + direction * distance))
        (again,) = asked(backend, "memory_attention")
        assert_asked_alike(again, steps[distance - 1])


def test_memories_of_the_slices_own_direction_are_read(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(14))
    predictor.propagate(directions=(FORWARD,))
    backend.calls.clear()
    predictor.propagate()
    steps = asked(backend, "memory_attention")
    backend.calls.clear()
    predictor.add(click(9))
    assert_asked_alike(asked(backend, "memory_attention")[0], steps[4])


def test_prompts_that_no_step_has_read_yet_are_not_read(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate()
    step = asked(backend, "memory_attention")[4]
    predictor.add(box(0, start=3))
    predictor.add(box(9))
    predictor.add(click(12))
    backend.calls.clear()
    predictor.add(click(5))
    (again,) = asked(backend, "memory_attention")
    assert_asked_alike(again, step)


def steps_while_prompted(made: Made, prompted: int) -> list[dict[str, np.ndarray]]:
    """What each step of a run asked in which a slice was prompted after the fifth step."""
    predictor, backend = made
    predictor.add(box(0))
    for mask in predictor.stream():
        if mask.slice == 5:
            predictor.add(box(prompted))
    steps = asked(backend, "memory_attention")
    backend.calls.clear()
    return steps


@pytest.mark.parametrize("prompted", [3, 5, 6, 20])
def test_slices_prompted_earlier_in_the_run_are_read_once(prompted: int, made: Made) -> None:
    predictor, backend = made
    step = steps_while_prompted(made, prompted)[6 if prompted == 6 else 7]
    predictor.add(click(8))
    (again,) = asked(backend, "memory_attention")
    assert_asked_alike(again, step)


@pytest.mark.parametrize("prompted", [3, 5, 20])
def test_slices_prompted_later_in_the_run_are_not_read(prompted: int, made: Made) -> None:
    predictor, backend = made
    step = steps_while_prompted(made, prompted)[3]
    predictor.add(click(4))
    (again,) = asked(backend, "memory_attention")
    assert_asked_alike(again, step)


def test_the_decoder_sees_conditioned_features_and_the_mask_that_was_found() -> None:
    def decode_strongly(inputs: Inputs) -> Inputs:
        return {**decode(inputs), "low_res_masks": 20 * decode(inputs)["low_res_masks"]}

    predictor, backend = make(mask_decoder=decode_strongly)
    predictor.add(box(0))
    before = predictor.propagate().slices[1][6].segmented
    step = asked(backend, "mask_decoder")[6]
    predictor.add(click(6, is_positive=False))
    again = asked(backend, "mask_decoder")[-1]
    np.testing.assert_array_equal(again["features"], step["features"])
    np.testing.assert_array_equal(again["high_res_feats_0"], step["high_res_feats_0"])
    assert not again["add_no_mem_embed"].any()
    assert again["has_mask_input"].all()
    limit = PREVIOUS_LOGIT_LIMIT
    assert np.abs(before.logits).max() > limit
    np.testing.assert_array_equal(again["mask_input"][0, 0], before.logits.clip(-limit, limit))
    np.testing.assert_array_equal(again["point_labels"], [[0]])


def test_further_points_there_ask_no_memory_again(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate()
    first = predictor.add(click(6, y=4))
    features = asked(backend, "mask_decoder")[-1]["features"]
    backend.calls.clear()
    predictor.add(click(6, y=6, is_positive=False))
    assert [call.graph for call in backend.calls] == ["mask_decoder"]
    (again,) = asked(backend, "mask_decoder")
    np.testing.assert_array_equal(again["features"], features)
    assert not again["add_no_mem_embed"].any()
    np.testing.assert_array_equal(again["mask_input"][0, 0], first.segmented.logits)
    np.testing.assert_array_equal(again["point_labels"], [[1, 0]])


def test_a_corrected_slice_is_read_as_a_prompted_one(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate()
    corrected = predictor.add(click(6))
    backend.calls.clear()
    result = predictor.propagate()
    assert result.slices[1][6].segmented is corrected.segmented
    assert result.slices[1][5].memory_frames == (0, 6, 1, 2, 3, 4)
    assert result.slices[1][9].memory_frames == (0, 6, 3, 4, 5, 7, 8)
    last_code = FAKE_NUMBERS.num_maskmem - 1
    step = asked(backend, "memory_attention")[7]
    np.testing.assert_array_equal(step["memory_time"], [[last_code, last_code, 5, 4, 3, 1, 0]])
    memorised = asked(backend, "memory_encoder")[0]
    assert memorised["binarize"].all()
    np.testing.assert_array_equal(memorised["low_res_masks"][0, 0], corrected.segmented.logits)


def test_after_undo_a_correction_begins_from_what_tracking_found(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate()
    first = predictor.add(click(6))
    predictor.undo()
    backend.calls.clear()
    second = predictor.add(click(6))
    assert len(asked(backend, "memory_attention")) == 1
    np.testing.assert_array_equal(second.segmented.logits, first.segmented.logits)
    assert second.segmented.obj_ptr.tolist() == first.segmented.obj_ptr.tolist()


def test_after_undo_memory_is_asked_what_the_run_before_the_prompt_asked(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(5))
    before = predictor.propagate()
    step = asked(backend, "memory_attention")[2]  # towards 8, and towards 2
    predictor.add(box(10))
    predictor.propagate()
    predictor.undo()
    backend.calls.clear()
    predictor.add(click(8))
    (again,) = asked(backend, "memory_attention")
    for name, values in step.items():
        np.testing.assert_array_equal(again[name], values[:1], err_msg=name)
    found = before.slices[1][8].segmented.logits
    np.testing.assert_array_equal(asked(backend, "mask_decoder")[-1]["mask_input"][0, 0], found)


def test_where_only_an_undone_prompt_has_led_there_is_nothing_to_correct(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(5))
    predictor.add(box(10))
    predictor.propagate()
    predictor.undo()
    backend.calls.clear()
    predictor.add(click(7))
    assert asked(backend, "memory_attention") == []
    assert not asked(backend, "mask_decoder")[-1]["has_mask_input"].any()


def test_undo_of_another_objects_prompt_takes_nothing_away(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(5))
    predictor.add(box(10), object_id=2)
    first = predictor.propagate()
    predictor.undo()
    backend.calls.clear()
    second = predictor.propagate()
    assert backend.calls == []
    for index in range(DEPTH):
        assert second.slices[1][index].segmented is first.slices[1][index].segmented


@pytest.mark.parametrize("object_id", [1, None])
def test_masks_that_were_reset_are_back_after_undo_without_computing(
    object_id: int | None, made: Made
) -> None:
    predictor, backend = made
    predictor.add(box(5))
    first = predictor.propagate()
    predictor.reset(object_id)
    predictor.undo()
    backend.calls.clear()
    second = predictor.propagate()
    assert backend.calls == []
    for index in range(DEPTH):
        assert second.slices[1][index].segmented is first.slices[1][index].segmented


def test_a_prompt_taken_back_during_a_run_ends_it_for_its_object_alone(made: Made) -> None:
    predictor, _ = made
    predictor.add(box(5))
    predictor.add(box(5), object_id=2)
    stream = predictor.stream(directions=(FORWARD,))
    found = []
    for mask in stream:
        found.append((mask.object_id, mask.slice))
        if found[-1] == (2, 7):
            predictor.add(box(20))
        if found[-1] == (2, 9):
            predictor.undo()
    assert (1, 9) in found and (1, 10) not in found
    assert (2, LAST) in found


ANEW: dict[str, Prompt] = {
    "a box": box(6),
    "a mask": Mask(slice=6, mask=np.ones((SIDE, SIDE), bool)),
}


@pytest.mark.parametrize("name", ANEW)
def test_what_starts_a_slice_anew_asks_no_memory(name: str, made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate()
    backend.calls.clear()
    predictor.add(ANEW[name])
    predictor.add(click(6))
    assert asked(backend, "memory_attention") == []
    again = asked(backend, "mask_decoder")[-1]
    assert again["add_no_mem_embed"].all()
    assert again["has_mask_input"].all()


def test_slices_that_tracking_has_not_reached_ask_no_memory(made: Made) -> None:
    predictor, backend = made
    predictor.add(box(0))
    predictor.propagate(z_range=(0, 9))
    predictor.add(box(2), object_id=2)
    backend.calls.clear()
    predictor.add(click(0))
    predictor.add(click(9))
    predictor.add(click(6), object_id=2)
    assert {call.graph for call in backend.calls} == {"image_encoder", "mask_decoder"}
    assert all(inputs["add_no_mem_embed"].all() for inputs in asked(backend, "mask_decoder"))


def test_nothing_stays_behind_in_memory(made: Made) -> None:
    predictor, _ = made
    predictor.add(box(4))
    predictor.propagate()
    before = slots(predictor)
    for index in (0, 6, 20):
        predictor.add(click(index))
        assert slots(predictor) == before
    predictor.reset()
    assert slots(predictor) == (0, 0, 0)


@pytest.mark.parametrize("graph", ["memory_attention", "memory_encoder", "mask_decoder"])
def test_a_correction_that_fails_changes_nothing(graph: str) -> None:
    is_full = False

    def fail(inputs: Inputs) -> Inputs:
        if is_full:
            raise OutOfMemory("full")
        return TELLING[graph](inputs)

    predictor, _ = make(**{graph: fail})
    predictor.add(box(0))
    first = predictor.propagate()
    before = slots(predictor)
    is_full = True
    with pytest.raises(OutOfMemory):
        predictor.add(click(6))
    is_full = False
    assert slots(predictor) == before
    second = predictor.propagate()
    for index in range(DEPTH):
        assert second.slices[1][index].segmented is first.slices[1][index].segmented
    predictor.undo()
    assert predictor.num_results() == 0
