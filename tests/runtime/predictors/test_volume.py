from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.bundle.contract import MASK_PROMPT_LOGIT
from runtime.errors import InputError, OutOfMemory, PromptError, VolumeError
from runtime.io import Volume
from runtime.memory import MemoryRules
from runtime.predictors import VolumePredictor
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.tracker import BACKWARD, FORWARD, MAX_ROWS
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, TELLING, Inputs, fake_model

DEPTH, SIDE = 9, 40
LOW = FAKE_NUMBERS.low_res
PIXELS = np.broadcast_to(
    20 * np.arange(DEPTH, dtype=np.uint8)[:, None, None], (DEPTH, SIDE, SIDE)
)  # grey tells the slice


@pytest.fixture
def made() -> tuple[VolumePredictor, FakeBackend]:
    """A predictor that holds a volume, and the record of what it asks."""
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    return predictor, backend


@pytest.fixture
def predictor(made: tuple[VolumePredictor, FakeBackend]) -> VolumePredictor:
    return made[0]


def click(index: int, y: float = 20) -> Point:
    return Point(slice=index, y=y, x=20)


def box(index: int, start: int = 10) -> Box:
    return Box(slice=index, y=(start, 30), x=(start, 30))


def fresh(*prompts: Prompt, rules: MemoryRules | None = None) -> VolumePredictor:
    """A predictor that has not run, with prompts for object 1, each added on its own."""
    predictor = VolumePredictor(fake_model(TELLING)[0], rules)
    predictor.set_volume(PIXELS)
    for prompt in prompts:
        predictor.add(prompt)
    return predictor


def rows_per_step(backend: FakeBackend) -> list[int]:
    return [
        len(call.inputs["memory_time"])
        for call in backend.calls
        if call.graph == "memory_attention"
    ]


def encoded(backend: FakeBackend, predictor: VolumePredictor, index: int) -> float:
    """The mark of a slice's encoding."""
    return predictor._tracker._features[index].vision_features[0, 0, 0, 0]


def order(masks: Any) -> list[tuple[int, int]]:
    return [(mask.object_id, mask.slice) for mask in masks]


def slots(predictor: VolumePredictor) -> tuple[int, int, int]:
    """Memories, pointers and embeddings in use."""
    arena = predictor._tracker._arena
    return arena.memories.in_use, arena.pointers.in_use, arena.embeddings.in_use


def target(predictor: VolumePredictor) -> tuple[int, int]:
    """Memories and pointers that there is room for."""
    arena = predictor._tracker._arena
    return len(arena.memories.values), len(arena.pointers.values)


def logits(result: Result) -> dict[tuple[int, int], np.ndarray]:
    return {
        (object_id, index): mask.segmented.logits
        for object_id, masks in result.slices.items()
        for index, mask in masks.items()
    }


def same(left: Result, right: Result) -> bool:
    a, b = logits(left), logits(right)
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def test_each_slice_is_encoded_once_whatever_is_asked(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.add(box(6), object_id=2)
    predictor.propagate()
    predictor.add(click(4, y=25))
    predictor.add(click(2), object_id=3)
    predictor.propagate()
    predictor.reset()
    predictor.add(click(0))
    predictor.propagate(directions=(FORWARD,))
    encoded = [
        float(call.inputs["image"][0, 0, 0, 0])
        for call in backend.calls
        if call.graph == "image_encoder"
    ]
    assert len(encoded) == len(set(encoded)) == DEPTH


def test_only_slices_that_are_needed_are_encoded(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.propagate(z_range=(3, 6))
    assert Counter(call.graph for call in backend.calls)["image_encoder"] == 3


def test_all_objects_and_directions_advance_in_one_batch(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.add(click(4), object_id=2)
    predictor.propagate()
    assert rows_per_step(backend) == [4, 4, 4, 4]


def test_a_chain_that_has_ended_leaves_the_batch(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    predictor.add(click(1))  # one slice back, seven forward
    predictor.add(click(7), object_id=2)  # seven back, one forward
    predictor.propagate()
    assert rows_per_step(backend) == [4, 2, 2, 2, 2, 2, 2]


def test_more_rows_than_a_batch_holds_are_taken_in_several(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    for object_id in range(1, 6):
        predictor.add(click(4), object_id=object_id)
    result = predictor.propagate()
    assert rows_per_step(backend) == [MAX_ROWS, 10 - MAX_ROWS] * 4
    assert all(len(result.slices[object_id]) == DEPTH for object_id in range(1, 6))


def test_objects_do_not_depend_on_what_shares_their_batch(predictor: VolumePredictor) -> None:
    alone: dict[tuple[int, int], np.ndarray] = {}
    for object_id, index in ((1, 4), (2, 1), (3, 7)):
        predictor.add(click(index, y=object_id), object_id=object_id)
        alone |= logits(predictor.propagate())
        predictor.reset()
    for object_id, index in ((1, 4), (2, 1), (3, 7)):
        predictor.add(click(index, y=object_id), object_id=object_id)
    together = logits(predictor.propagate())
    assert together.keys() == alone.keys()
    for key, wanted in alone.items():
        np.testing.assert_array_equal(together[key], wanted)


def test_prompted_slices_come_first_and_then_those_outwards_from_the_lowest(
    predictor: VolumePredictor,
) -> None:
    predictor.add(click(5))
    predictor.add(click(3))
    predictor.add(click(4), object_id=2)
    steps = [
        *[(1, 4), (1, 2), (2, 5), (2, 3)],  # forward and backward of each object
        *[(1, 6), (1, 1), (2, 6), (2, 2)],
        *[(1, 7), (1, 0), (2, 7), (2, 1)],
        *[(1, 8), (2, 8), (2, 0)],
    ]
    assert order(predictor.stream()) == [(1, 3), (1, 5), (2, 4), *steps]


def test_both_directions_start_at_the_first_prompted_slice_and_share_all_prompts(
    predictor: VolumePredictor,
) -> None:
    predictor.add(click(3))
    predictor.add(box(6))
    read = {mask.slice: mask.segmented.memory_frames for mask in predictor.stream()}
    assert read == {
        3: (),
        6: (),
        4: (3, 6),
        5: (3, 6, 4),
        7: (3, 6, 4, 5),
        8: (3, 6, 4, 5, 7),
        2: (3, 6),
        1: (3, 6, 2),
        0: (3, 6, 2, 1),
    }


@pytest.mark.parametrize(
    ("z_range", "directions", "wanted"),
    [
        (None, (FORWARD, BACKWARD), range(DEPTH)),
        ((0, DEPTH), (FORWARD, BACKWARD), range(DEPTH)),
        ((2, 6), (FORWARD, BACKWARD), range(2, 6)),
        ((4, 5), (FORWARD, BACKWARD), [4]),
        (None, (FORWARD,), range(4, DEPTH)),
        (None, (BACKWARD,), range(5)),
        ((3, 7), (BACKWARD,), [3, 4]),
        (None, (), [4]),
    ],
)
def test_a_run_stays_within_its_range_and_directions_and_tells_their_number(
    z_range: tuple[int, int] | None,
    directions: tuple[int, ...],
    wanted: Any,
    predictor: VolumePredictor,
) -> None:
    predictor.add(click(4))
    predictor.add(click(4), object_id=2)
    found = order(predictor.stream(z_range, directions))
    assert sorted(found) == [(object_id, index) for object_id in (1, 2) for index in wanted]
    assert predictor.num_results(z_range, directions) == len(found)
    result = predictor.propagate(z_range, directions)
    assert [sorted(masks) for masks in result.slices.values()] == [list(wanted)] * 2
    assert result.is_complete


@pytest.mark.parametrize("prompted", [(0,), (8,), (0, 8), (2, 3, 4), (0, 1, 8), tuple(range(9))])
def test_the_number_of_results_is_that_of_the_masks_streamed(
    prompted: tuple[int, ...], predictor: VolumePredictor
) -> None:
    for index in prompted:
        predictor.add(click(index))
    found = order(predictor.stream())
    assert sorted(found) == [(1, index) for index in range(DEPTH)], "each slice comes once"
    assert predictor.num_results() == DEPTH


def test_the_slices_beyond_a_range_still_count_for_the_memory(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.propagate(z_range=(4, 6))
    (call,) = [call for call in backend.calls if call.graph == "memory_attention"]
    np.testing.assert_allclose(call.inputs["obj_ptr_pos"], [[1 / (DEPTH - 1)]])


@pytest.mark.parametrize("z_range", [(3, 3), (5, 2), (-1, 4), (0, DEPTH + 1)])
def test_a_range_that_does_not_fit_is_refused(
    z_range: tuple[int, int], predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    with pytest.raises(InputError, match=r"z-range .* does not fit"):
        predictor.propagate(z_range=z_range)


@pytest.mark.parametrize("z_range", [(0, 6), (7, 9)])
def test_a_prompt_outside_the_range_is_refused(
    z_range: tuple[int, int], predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    predictor.add(click(6), object_id=5)
    with pytest.raises(PromptError, match=r"object [15] is prompted on slice [46], outside"):
        predictor.propagate(z_range=z_range)
    assert slots(predictor) == (0, 0, 0)


def test_a_second_run_gives_what_the_first_gave(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    predictor.add(box(2), object_id=2)
    first = predictor.propagate()
    assert same(predictor.propagate(), first)
    predictor.propagate(z_range=(2, 5))
    assert same(predictor.propagate(), first)


def test_the_order_of_prompting_does_not_matter(predictor: VolumePredictor) -> None:
    predictor.add(click(6))
    predictor.add(click(2))
    first = predictor.propagate()
    predictor.reset()
    predictor.add(click(2))
    predictor.add(click(6))
    assert same(predictor.propagate(), first)


def test_cancelling_in_the_loop_stops_after_the_batch(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    found: list[SliceMask] = []
    for mask in predictor.stream():
        found.append(mask)
        if mask.slice == 5:
            predictor.cancel()
    assert order(found) == [(1, 4), (1, 5), (1, 3)], "what was computed is still handed out"


def test_a_run_cancelled_by_another_thread_is_incomplete_and_the_next_is_not() -> None:
    computing, may_go_on = threading.Event(), threading.Event()

    def slow(inputs: Inputs) -> Inputs:
        computing.set()
        assert may_go_on.wait(10)
        return {}

    model, _ = fake_model({"memory_attention": slow})
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(click(4))
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(predictor.propagate()))
    thread.start()
    assert computing.wait(10)
    predictor.cancel()
    may_go_on.set()
    thread.join(10)
    (result,) = results
    assert not result.is_complete
    assert sorted(result.slices[1]) == [3, 4, 5]
    assert np.isnan(result.confidence).sum() == DEPTH - 3
    again = predictor.propagate()
    assert again.is_complete
    assert len(again.slices[1]) == DEPTH


def test_what_a_cancelled_run_found_can_be_corrected(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    for mask in predictor.stream():
        if mask.slice == 5:
            predictor.cancel()
    predictor.add(click(5))
    assert backend.calls[-1].inputs["has_mask_input"].all()
    predictor.add(click(8))
    assert not backend.calls[-1].inputs["has_mask_input"].any(), "the run did not come to slice 8"


def test_what_any_run_has_found_is_corrected_even_if_a_later_one_was_smaller(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    before = predictor.propagate().slices[1][8]
    predictor.propagate(z_range=(3, 6))
    predictor.add(click(8))
    inputs = decoder_inputs(backend)
    assert inputs["has_mask_input"].all()
    np.testing.assert_array_equal(inputs["mask_input"][0, 0], before.segmented.logits)


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_a_stream_that_is_closed_early_is_continued_by_the_next(
    taken: int, predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    predictor.add(click(2))
    wanted = fresh(click(4), click(2)).propagate()
    stream = predictor.stream()
    for _ in range(taken):
        next(stream)
    stream.close()
    assert same(predictor.propagate(), wanted)
    predictor.reset()
    assert slots(predictor) == (0, 0, 0)


@pytest.mark.parametrize("failing", [1, 3, 4])
@pytest.mark.parametrize("graph", ["memory_attention", "mask_decoder", "memory_encoder"])
def test_a_step_that_fails_is_taken_again_by_the_next_run(graph: str, failing: int) -> None:
    calls: list[int] = []

    def fail_once(inputs: Inputs) -> Inputs:
        calls.append(len(calls))
        if len(calls) == failing + (graph != "memory_attention"):  # the prompted slice comes first
            raise OutOfMemory("full")
        return TELLING[graph](inputs)

    model, _ = fake_model({**TELLING, graph: fail_once})
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(click(4))
    with pytest.raises(OutOfMemory):
        predictor.propagate()
    assert same(predictor.propagate(), fresh(click(4)).propagate())
    predictor.reset()
    assert slots(predictor) == (0, 0, 0)


@pytest.mark.parametrize("depth", [40, 60])
@pytest.mark.parametrize(
    ("rules", "each_chain"),
    [
        (MemoryRules(), (6, 15, 0)),
        (MemoryRules(pick_up="weighted"), (6, 15, 6)),
        (MemoryRules(policy="self_sorting", min_confidence=0.0), (6, 6, 0)),
        (MemoryRules(policy="self_sorting_released"), (16, 16, 0)),
    ],
)
def test_after_a_run_slots_are_bounded_by_the_number_of_chains_and_not_by_the_depth(
    rules: MemoryRules, each_chain: tuple[int, int, int], depth: int
) -> None:
    predictor = VolumePredictor(fake_model(TELLING)[0], rules)
    predictor.set_volume(np.random.default_rng(0).integers(0, 255, (depth, 8, 8), np.uint8))
    for object_id in (1, 2):
        predictor.add(Point(slice=depth // 2, y=3, x=3), object_id=object_id)
        predictor.add(Point(slice=depth // 2 + 1, y=3, x=3), object_id=object_id)
    predictor.propagate()
    chains, conditioning = 4, 4
    is_compared = each_chain[2] > 0
    assert slots(predictor) == (
        chains * each_chain[0] + conditioning,
        chains * each_chain[1] + conditioning,
        chains * each_chain[2] + conditioning * is_compared,
    )
    predictor.reset()
    assert slots(predictor) == (0, 0, 0)


def test_neither_slots_nor_room_grow_from_run_to_run(predictor: VolumePredictor) -> None:
    predictor.add(box(4))
    predictor.propagate()
    before = slots(predictor), target(predictor)
    for index in range(4):
        predictor.propagate()
        predictor.add(box(4), click(4, y=index))
        predictor.propagate()
        assert (slots(predictor), target(predictor)) == before


def test_room_given_back_by_reset_and_undo_is_used_again(predictor: VolumePredictor) -> None:
    predictor.add(box(4))
    predictor.add(box(5))
    predictor.propagate()
    before = target(predictor)
    for _ in range(3):
        predictor.undo()
        predictor.add(box(6))
        predictor.propagate()
        predictor.reset()
        predictor.add(box(2))
        predictor.add(box(3))
        predictor.propagate()
        assert target(predictor) == before
    predictor.reset(1)
    assert slots(predictor) == (0, 0, 0)


CHANGES: dict[str, Callable[[VolumePredictor], Any]] = {
    "nothing": lambda predictor: None,
    "another object": lambda predictor: predictor.add(box(1), object_id=9),
    "another prompt": lambda predictor: predictor.add(box(7)),
    "a prompt before the first": lambda predictor: predictor.add(box(1)),
    "the same slice again": lambda predictor: predictor.add(box(4, start=5)),
    "a prompt taken back": lambda predictor: predictor.undo(),
    "one object forgotten": lambda predictor: predictor.reset(1),
    "one object made anew": lambda predictor: (predictor.reset(1), predictor.add(box(2))),
    "all forgotten": lambda predictor: predictor.reset(),
}


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [0, 1, 2, 4, 9])
def test_whatever_changes_while_masks_come_the_next_run_is_that_of_all_prompts(
    change: str, after: int, has_run: bool, predictor: VolumePredictor
) -> None:
    wanted = fresh()
    for each in (predictor, wanted):
        each.add(box(4))
        each.add(box(3), object_id=2)
        each.add(box(6))
    if has_run:
        predictor.propagate(z_range=(3, 7), directions=(FORWARD,))
    for i, _ in enumerate(predictor.stream()):
        if i == after:
            CHANGES[change](predictor)
    CHANGES[change](wanted)
    if not wanted.num_results():
        assert predictor.num_results() == 0
        return
    assert same(predictor.propagate(), wanted.propagate())


def test_what_is_taken_back_before_the_first_step_leaves_no_trace(
    predictor: VolumePredictor,
) -> None:
    predictor.add(box(4))
    predictor.propagate(z_range=(4, 5))  # sets out and comes nowhere
    stream = predictor.stream()
    next(stream)
    predictor.add(box(7))
    list(stream)
    predictor.undo()
    assert same(predictor.propagate(), fresh(box(4)).propagate())


@pytest.mark.parametrize("after", [0, 2, 3, 5])
def test_the_first_prompt_may_be_taken_back_while_masks_come(
    after: int, predictor: VolumePredictor
) -> None:
    predictor.add(box(6))
    predictor.add(box(2))
    for i, _ in enumerate(predictor.stream()):
        if i == after:
            predictor.undo()
    assert same(predictor.propagate(), fresh(box(6)).propagate())


def test_a_prompt_given_while_masks_come_is_read_from_the_next_step_on(
    predictor: VolumePredictor,
) -> None:
    predictor.add(box(3))
    predictor.add(box(3), object_id=2)
    read = {}
    for mask in predictor.stream(directions=(FORWARD,)):
        read[mask.object_id, mask.slice] = mask.memory_frames
        if (mask.object_id, mask.slice) == (2, 5):
            predictor.add(box(7))
    assert read == {
        **{(1, 3): (), (1, 4): (3,), (1, 5): (3, 4)},
        **{(1, 6): (3, 7, 4, 5), (1, 7): (), (1, 8): (3, 7, 4, 5, 6)},
        **{(2, 3): (), (2, 4): (3,), (2, 5): (3, 4), (2, 6): (3, 4, 5)},
        **{(2, 7): (3, 4, 5, 6), (2, 8): (3, 4, 5, 6, 7)},
    }


def test_a_slice_prompted_after_it_was_tracked_is_read_as_prompted_only(
    predictor: VolumePredictor,
) -> None:
    predictor.add(box(3))
    read = {}
    for mask in predictor.stream(directions=(FORWARD,)):
        read[mask.slice] = mask.memory_frames
        if mask.slice == 5:
            predictor.add(box(5))
    assert [read[index] for index in (6, 7, 8)] == [(3, 5, 4), (3, 5, 4, 6), (3, 5, 4, 6, 7)]


def test_an_object_forgotten_while_masks_come_gets_no_more_and_others_go_on(
    predictor: VolumePredictor,
) -> None:
    predictor.add(box(4))
    predictor.add(box(4), object_id=2)
    found = []
    for mask in predictor.stream(directions=(FORWARD,)):
        found.append((mask.object_id, mask.slice))
        if found[-1] == (2, 5):
            predictor.reset(1)
    assert found == [(1, 4), (2, 4), (1, 5), (2, 5), (2, 6), (2, 7), (2, 8)]


@pytest.mark.parametrize("taken", [1, 3, 4])
def test_an_older_stream_is_over_once_a_newer_one_has_begun(
    taken: int, predictor: VolumePredictor
) -> None:
    predictor.add(box(4))
    older, newer = predictor.stream(), predictor.stream()
    for _ in range(taken):
        next(older)
    found = [next(newer)]
    with pytest.raises(InputError, match="another run of this predictor has begun"):
        list(older)
    found += newer
    assert sorted(order(found)) == [(1, index) for index in range(DEPTH)]
    wanted = fresh(box(4)).propagate()
    assert same(Result(wanted.shapes, {1: {mask.slice: mask for mask in found}}), wanted)


def test_an_older_stream_takes_nothing_away_from_a_newer_one(predictor: VolumePredictor) -> None:
    predictor.add(box(4))
    predictor.add(box(4), object_id=2)
    older, newer = predictor.stream(), predictor.stream()
    next(older)
    found = list(islice(newer, 6))
    predictor.add(box(6), object_id=2)
    with pytest.raises(InputError, match="another run of this predictor has begun"):
        list(older)
    found += newer
    everything = [(object_id, index) for object_id in (1, 2) for index in range(DEPTH)]
    assert sorted(order(found)) == everything


def test_objects_whose_prompts_have_not_changed_are_not_computed_again(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(box(4))
    predictor.add(box(4), object_id=2)
    first = predictor.propagate()
    backend.calls.clear()
    assert same(predictor.propagate(), first)
    assert backend.calls == []
    predictor.add(box(6), object_id=2)
    backend.calls.clear()
    second = predictor.propagate()
    assert rows_per_step(backend) == [2, 2, 2, 1], "object 2 alone: 5, 7, 8 and 3, 2, 1, 0"
    for index in range(DEPTH):
        assert second.slices[1][index] is not None
        assert second.slices[1][index].segmented is first.slices[1][index].segmented
    wanted = fresh(box(4))
    wanted.add(box(4), object_id=2)
    wanted.add(box(6), object_id=2)
    assert same(second, wanted.propagate())


def test_only_prompted_slices_that_changed_are_memorised_again(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(box(2))
    predictor.add(box(6))
    predictor.propagate()
    predictor.add(box(6, start=5))
    backend.calls.clear()
    predictor.propagate()
    prompted = [
        call.inputs["projected_features"][0, 0, 0, 0]
        for call in backend.calls
        if call.graph == "memory_encoder" and call.inputs["binarize"].all()
    ]
    assert prompted == [encoded(backend, predictor, 6)]


@pytest.mark.parametrize("stop_at", [5, 6, 8])
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_run_that_was_cancelled_goes_on_where_it_stopped(
    how: str, stop_at: int, made: tuple[VolumePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    predictor.add(box(4))
    stream = predictor.stream()
    for mask in stream:
        if mask.slice == stop_at:
            predictor.cancel() if how == "cancel" else stream.close()
    backend.calls.clear()
    result = predictor.propagate()
    assert rows_per_step(backend) == [2] * (8 - stop_at)
    assert result.is_complete
    assert same(result, fresh(box(4)).propagate())


@pytest.mark.parametrize("narrow", [(4, 5), (3, 6), (0, 6), (4, 9)])
def test_a_wider_range_goes_on_where_the_narrower_one_ended(
    narrow: tuple[int, int], made: tuple[VolumePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    predictor.add(box(4))
    predictor.propagate(z_range=narrow)
    backend.calls.clear()
    result = predictor.propagate()
    assert sum(rows_per_step(backend)) == DEPTH - (narrow[1] - narrow[0])
    assert same(result, fresh(box(4)).propagate())


def test_the_other_direction_is_added_to_the_first(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(box(4))
    predictor.propagate(directions=(FORWARD,))
    backend.calls.clear()
    result = predictor.propagate()
    assert rows_per_step(backend) == [1, 1, 1, 1]
    assert same(result, fresh(box(4)).propagate())


def test_what_was_in_memory_and_how_much_it_weighed_is_in_the_result() -> None:
    frames = {7: (4, 5, 6), 4: (), 2: (4, 3)}
    for pick_up in ("all", "weighted", "resample"):
        result = fresh(box(4), rules=MemoryRules(pick_up=pick_up)).propagate()
        found = result.slices[1]
        assert {index: found[index].memory_frames for index in frames} == frames
        for mask in found.values():
            assert len(mask.memory_weights) == len(mask.memory_frames)
            assert sum(mask.memory_weights) == pytest.approx(len(mask.memory_frames))
        weights = found[8].memory_weights
        assert (weights == (1.0,) * 4) == (pick_up == "all")
        if pick_up == "resample":
            assert all(weight.is_integer() for weight in weights)


def test_undo_takes_an_added_prompt_back_and_restores_results_without_computing(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    first = predictor.propagate()
    predictor.add(click(6))
    predictor.add(click(2), object_id=2)
    predictor.undo()
    predictor.undo()
    backend.calls.clear()
    assert same(predictor.propagate(), first)
    assert backend.calls == []


def test_undo_takes_back_what_a_run_has_already_built_on(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    first = predictor.propagate()
    predictor.add(click(6))
    second = predictor.propagate()
    assert not same(second, first)
    predictor.undo()
    assert same(predictor.propagate(), first)


def test_undo_takes_back_single_points_of_a_slice(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4, y=10))
    first = predictor.propagate()
    predictor.add(click(4, y=20))
    predictor.add(click(4, y=30))
    predictor.undo()
    predictor.undo()
    assert same(predictor.propagate(), first)
    predictor.add(click(4, y=5))
    np.testing.assert_allclose(decoder_inputs(backend)["point_coords"][0, :, 1], [16, 8])


@pytest.mark.parametrize("chosen", [1, None])
def test_undo_brings_objects_back_that_were_reset(
    chosen: int | None, predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    predictor.add(click(6))
    predictor.add(box(2), object_id=2)
    first = predictor.propagate()
    predictor.reset(chosen)
    predictor.undo()
    assert same(predictor.propagate(), first)
    for _ in range(3):
        predictor.undo()
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()


def test_with_nothing_to_undo_undo_says_so(predictor: VolumePredictor) -> None:
    with pytest.raises(PromptError, match="nothing to undo"):
        predictor.undo()
    predictor.add(click(4))
    with pytest.raises(PromptError):
        predictor.add(click(DEPTH))
    predictor.undo()
    with pytest.raises(PromptError, match="nothing to undo"):
        predictor.undo()
    predictor.add(click(4))
    predictor.set_volume(PIXELS)
    with pytest.raises(PromptError, match="nothing to undo"):
        predictor.undo()


State = dict[int, dict[int, Prompt]]
SHALLOW = PIXELS[:6]

OBJECTS = st.integers(1, 2)
ADDS = st.tuples(st.just("add"), OBJECTS, st.integers(0, 5), st.integers(0, 3), st.booleans())
RESETS = st.tuples(st.just("reset"), st.none() | OBJECTS)
UNDOS = st.tuples(st.just("undo"))
RUNS = st.tuples(st.just("run"), st.integers(1, 8), st.booleans())
GOES_ON = st.tuples(st.just("go on"), st.integers(1, 6))


def prompt_of(index: int, start: int, is_mask: bool) -> Prompt:
    """A box or a mask, which start their slice anew."""
    if not is_mask:
        return box(index, start)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[5 * start : 20, 5:30] = True
    return Mask(slice=index, mask=inside)


def apply(change: tuple[Any, ...], predictor: VolumePredictor, past: list[State]) -> None:
    """Change a predictor and the account of what should be left; refused changes leave both."""
    name, *args = change
    now = past[-1]
    if name == "add":
        object_id, index, *kind = args
        prompt = prompt_of(index, *kind)
        predictor.add(prompt, object_id=object_id)
        past.append({**now, object_id: {**now.get(object_id, {}), index: prompt}})
    elif name == "undo":
        with pytest.raises(PromptError) if len(past) == 1 else nullcontext():
            predictor.undo()
        del past[max(1, len(past) - 1) :]
    else:
        (object_id,) = args
        is_there = object_id is None or object_id in now
        with nullcontext() if is_there else pytest.raises(PromptError):
            predictor.reset(object_id)
        if is_there:
            past.append({i: p for i, p in now.items() if object_id not in (i, None)})


def agrees(predictor: VolumePredictor, state: State) -> bool:
    """Whether a run gives what a fresh predictor gives for the prompts that should be left."""
    wanted = VolumePredictor(fake_model(TELLING)[0])
    wanted.set_volume(SHALLOW)
    for object_id, prompts in state.items():
        for prompt in prompts.values():
            wanted.add(prompt, object_id=object_id)
    if not state:
        return predictor.num_results() == 0
    return same(predictor.propagate(), wanted.propagate())


@settings(max_examples=100, deadline=None)
@given(st.lists(ADDS | RESETS | UNDOS | RUNS, min_size=2, max_size=10))
def test_results_are_those_of_the_prompts_that_are_left_whatever_happened_between_runs(
    changes: list[tuple[Any, ...]],
) -> None:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_volume(SHALLOW)
    past: list[State] = [{}]
    for change in changes:
        if change[0] != "run":
            apply(change, predictor, past)
        elif past[-1]:
            _, taken, is_closed = change
            stream = predictor.stream()
            found = list(islice(stream, taken))
            stream.close() if is_closed else predictor.cancel()
            list(stream)
            assert len(found) <= predictor.num_results()
    assert agrees(predictor, past[-1])
    predictor.reset()
    assert slots(predictor) == (0, 0, 0)


@settings(max_examples=200, deadline=None)
@example([("add", 1, 4, 2, False)], 1, [("add", 1, 1, 2, False)], [])
@example([("add", 1, 4, 2, False), ("add", 1, 2, 2, True)], 1, [("undo",)], [])
@example([("add", 1, 4, 2, False)], 1, [("reset", 1), ("add", 1, 1, 2, False)], [])
@given(
    st.lists(ADDS, min_size=1, max_size=3),
    st.integers(1, 5),
    st.lists(ADDS | RESETS | UNDOS | GOES_ON, min_size=1, max_size=4),
    st.lists(RESETS | UNDOS, max_size=2),
)
def test_results_are_those_of_the_prompts_that_are_left_whatever_happened_during_a_run(
    before: list[tuple[Any, ...]],
    taken: int,
    meanwhile: list[tuple[Any, ...]],
    afterwards: list[tuple[Any, ...]],
) -> None:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_volume(SHALLOW)
    past: list[State] = [{}]
    for change in before:
        apply(change, predictor, past)
    stream = predictor.stream()
    list(islice(stream, taken))
    for change in meanwhile:
        if change[0] == "go on":
            list(islice(stream, change[1]))
        else:
            apply(change, predictor, past)
    if past[-1]:
        list(stream)
    for change in afterwards:
        apply(change, predictor, past)
    assert agrees(predictor, past[-1])


def decoder_inputs(backend: FakeBackend) -> dict[str, np.ndarray]:
    return [call for call in backend.calls if call.graph == "mask_decoder"][-1].inputs


def test_points_accumulate_and_feed_back_the_logits_before_them() -> None:
    strong = np.linspace(-50, 50, LOW * LOW, dtype=np.float32).reshape(LOW, LOW)
    model, backend = fake_model({"mask_decoder": lambda inputs: {"low_res_masks": strong}})
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(click(4, y=10))
    assert not decoder_inputs(backend)["has_mask_input"].any()
    predictor.add(click(4, y=20), Point(slice=4, y=5, x=20, positive=False))
    inputs = decoder_inputs(backend)
    np.testing.assert_allclose(inputs["point_coords"][0, :, 1], [16, 32, 8])
    np.testing.assert_array_equal(inputs["point_labels"], [[1, 1, 0]])
    assert inputs["has_mask_input"].all()
    np.testing.assert_array_equal(inputs["mask_input"][0, 0], strong.clip(-32, 32))
    predictor.add(click(5))
    assert not decoder_inputs(backend)["has_mask_input"].any(), "another slice starts on its own"
    predictor.add(click(4), object_id=2)
    assert not decoder_inputs(backend)["has_mask_input"].any(), "so does another object"


def test_points_join_the_box_before_them(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    predictor.add(box(4))
    predictor.add(click(4))
    inputs = decoder_inputs(backend)
    np.testing.assert_array_equal(inputs["point_labels"], [[2, 3, 1]])
    assert inputs["has_mask_input"].all()


def test_a_box_starts_its_slice_anew(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.propagate()
    predictor.add(box(4), click(4, y=25))
    inputs = decoder_inputs(backend)
    np.testing.assert_array_equal(inputs["point_labels"], [[2, 3, 1]])
    assert not inputs["has_mask_input"].any()
    predictor.add(box(6))
    assert not decoder_inputs(backend)["has_mask_input"].any(), "also where tracking was before"


def test_a_mask_is_the_result_of_its_slice_and_points_correct_it(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    inside = np.zeros((SIDE, SIDE), bool)
    inside[10:30, 5:25] = True
    found = predictor.add(Mask(slice=4, mask=inside))
    assert (found.mask() != inside).mean() < 0.05
    assert found.confidence == 1.0
    predictor.add(click(4))
    inputs = decoder_inputs(backend)
    np.testing.assert_array_equal(inputs["point_labels"], [[1]])
    assert inputs["has_mask_input"].all()
    np.testing.assert_array_equal(inputs["mask_input"][0, 0], found.segmented.logits)
    assert np.abs(inputs["mask_input"]).max() == pytest.approx(MASK_PROMPT_LOGIT)


def test_a_tracked_slice_is_corrected_by_points_and_remembered_as_prompted(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    before = predictor.propagate()
    predictor.add(click(6, y=10))
    inputs = decoder_inputs(backend)
    np.testing.assert_array_equal(
        inputs["mask_input"][0, 0], before.slices[1][6].segmented.logits.clip(-32, 32)
    )
    np.testing.assert_array_equal(inputs["point_labels"], [[1]])
    after = predictor.propagate()
    assert after.slices[1][6].segmented.memory_frames == ()
    assert after.slices[1][5].segmented.memory_frames == (4, 6)


def test_adding_shows_the_mask_at_once_without_any_memory(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    found = predictor.add(click(4), object_id=3)
    assert (found.slice, found.object_id, found.shape) == (4, 3, (SIDE, SIDE))
    assert found.mask().any()
    assert [call.graph for call in backend.calls] == ["image_encoder", "mask_decoder"]


def test_reset_forgets_one_object_or_all(predictor: VolumePredictor) -> None:
    for object_id in (1, 2, 3):
        predictor.add(click(4), object_id=object_id)
    predictor.reset(2)
    assert predictor.propagate().object_ids == (1, 3)
    with pytest.raises(PromptError, match=r"no object 2; there are: \[1, 3\]"):
        predictor.reset(2)
    predictor.reset()
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()


def test_reset_forgets_what_was_tracked_too(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.propagate()
    predictor.reset(1)
    predictor.add(click(6))
    assert not decoder_inputs(backend)["has_mask_input"].any()


def test_a_new_volume_forgets_the_objects_of_the_one_before(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.set_volume(np.full((3, 10, 12), 9, np.uint8))
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()
    assert predictor.add(Point(slice=2, y=9, x=11)).shape == (10, 12)
    assert Counter(call.graph for call in backend.calls)["image_encoder"] == 2
    assert predictor.propagate().shape == (3, 10, 12)


def test_a_volume_that_is_refused_leaves_the_one_before(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    with pytest.raises(VolumeError):
        predictor.set_volume(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError):
        predictor.set_volume(np.zeros((4, 4, 4), np.int16), "none")
    assert predictor.propagate().shape == PIXELS.shape


def test_intensities_go_through_the_window(made: tuple[VolumePredictor, FakeBackend]) -> None:
    predictor, backend = made
    hounsfield = np.full((2, 10, 10), -1000, np.int16)
    hounsfield[1] = 3000
    used = predictor.set_volume(Volume.from_array(hounsfield, modality="CT"), "lung")
    assert used.kind == "lung"
    predictor.add(Point(slice=0, y=1, x=1))
    predictor.add(Point(slice=1, y=1, x=1))
    images = [call.inputs["image"] for call in backend.calls if call.graph == "image_encoder"]
    assert images[0].max() < -1.5
    assert images[1].min() > 1.5


def test_without_a_volume_nothing_can_be_asked() -> None:
    predictor = VolumePredictor(fake_model()[0])
    for ask in (lambda: predictor.add(click(0)), predictor.propagate):
        with pytest.raises(PromptError, match="no volume yet; call set_volume first"):
            ask()


@pytest.mark.parametrize("object_id", [0, -1, 65536, 1.0, 1.5, "1", None, np.float32(1)])
def test_an_object_id_is_a_whole_number_that_fits_into_a_label(
    object_id: Any, predictor: VolumePredictor
) -> None:
    with pytest.raises(PromptError, match="is not a whole number from 1 to 65535"):
        predictor.add(click(4), object_id=object_id)
    assert predictor.num_results() == 0


@pytest.mark.parametrize("kind", [int, np.uint8, np.int64])
def test_numpys_whole_numbers_are_object_ids_and_slices_too(
    kind: Any, predictor: VolumePredictor
) -> None:
    found = predictor.add(Point(slice=kind(4), y=1, x=1), object_id=kind(7))
    assert (type(found.object_id), type(found.slice)) == (int, int)
    predictor.add(click(4), object_id=7)
    assert predictor.propagate().object_ids == (7,)


MASK = Mask(slice=4, mask=np.ones((SIDE, SIDE), bool))

REFUSED: dict[str, tuple[list[Prompt], str]] = {
    "nothing": ([], "no prompt given"),
    "outside": ([click(4), click(4, y=SIDE)], "point y = 40 is outside"),
    "no such slice": ([click(DEPTH)], "no slice 9"),
    "two slices": ([click(4), click(5)], r"slices \[4, 5\] in one call"),
    "two boxes": ([box(4), box(4)], "two boxes for one object"),
    "mask and point": ([MASK, click(4)], "a mask is the whole answer"),
    "two masks": ([MASK, MASK], "a mask is the whole answer"),
    "mask of another size": ([Mask(slice=4, mask=np.ones((3, 3)))], "mask is"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("object_id", [1, 2])
def test_prompts_that_are_refused_change_nothing(
    case: str, object_id: int, made: tuple[VolumePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    before = predictor.propagate()
    calls = len(backend.calls)
    prompts, why = REFUSED[case]
    with pytest.raises(PromptError, match=why):
        predictor.add(*prompts, object_id=object_id)
    assert len(backend.calls) == calls, "nothing is computed for them"
    assert same(predictor.propagate(), before)


def test_a_decoder_that_fails_leaves_no_half_added_object() -> None:
    def fail(inputs: Inputs) -> Inputs:
        raise OutOfMemory("full")

    model, _ = fake_model({"mask_decoder": fail})
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    with pytest.raises(OutOfMemory):
        predictor.add(click(4))
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.propagate()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"directions": (1, True)}, "no direction True"),
        ({"directions": ([],)}, r"no direction \[\]"),
        ({"directions": 1}, r"directions are 1; wanted some, such as \(1,\)"),
        ({"directions": None}, "directions are None"),
        ({"z_range": 3}, "z-range 3 is not two whole numbers"),
        ({"z_range": {0, 4}}, "is not two whole numbers"),
        ({"z_range": np.array(3)}, "is not two whole numbers"),
        ({"z_range": ()}, "is not two whole numbers"),
        ({"stop": 0.5}, r"stop is 0.5; wanted a StopRule"),
        ({"stop": "never"}, "stop is 'never'"),
    ],
)
def test_arguments_of_another_kind_are_refused_before_anything_is_computed(
    arguments: dict[str, Any], why: str, made: tuple[VolumePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    backend.calls.clear()
    for run in (predictor.propagate, predictor.stream):
        with pytest.raises(InputError, match=why):
            run(**arguments)
    assert not backend.calls


def test_a_range_may_be_an_array(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    assert [*predictor.propagate(np.array([3, 6])).slices[1]] == [4, 5, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", ["confidence", 3, {}])
def test_a_memory_of_another_kind_is_refused(memory: Any) -> None:
    with pytest.raises(InputError, match="wanted MemoryRules"):
        VolumePredictor(fake_model()[0], memory)


@pytest.mark.parametrize("object_id", [2, True, 1.0, "1", [1], None])
def test_prompts_of_what_is_no_object_are_refused(
    object_id: Any, predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    with pytest.raises(PromptError, match=r"no object .*; there are: \[1\]$"):
        predictor.prompts(object_id)


def test_an_unknown_direction_is_refused() -> None:
    model, _ = fake_model()
    predictor = VolumePredictor(model)
    predictor.set_volume(np.zeros((4, 16, 16), np.uint8))
    predictor.add(Point(slice=1, y=3, x=3))
    with pytest.raises(InputError, match="no direction 2"):
        predictor.propagate(directions=(1, 2))
