from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from runtime.backends.fake import FakeBackend
from runtime.contract import MASK_PROMPT_LOGIT
from runtime.errors import InputError, OutOfMemory, PromptError, VolumeError
from runtime.io import Volume
from runtime.predictors import VolumePredictor
from runtime.predictors.tracker import BACKWARD, FORWARD, MAX_ROWS
from runtime.prompts import Box, Mask, Point, Prompt
from runtime.result import Result, SliceMask
from tests.fakes import FAKE_NUMBERS, fake_model

DEPTH, SIDE = 9, 40
LOW = FAKE_NUMBERS.low_res
PIXELS = np.broadcast_to(
    20 * np.arange(DEPTH, dtype=np.uint8)[:, None, None], (DEPTH, SIDE, SIDE)
)  # grey tells the slice

Inputs = Mapping[str, np.ndarray]


def encode(inputs: Inputs) -> Inputs:
    return {"vision_features": inputs["image"][:, :1, :1, :1]}


def condition(inputs: Inputs) -> Inputs:
    """The slice and all that is read leave their mark, so that a wrong read changes the result."""
    read = (inputs["memory"][..., 0, 0] * (1 + inputs["memory_time"])).mean(1)
    pointers = (inputs["obj_ptrs"][..., 0] * inputs["obj_ptr_pos"]).mean(1)
    mark = (read + pointers)[:, None, None, None]
    return {"conditioned_features": inputs["vision_features"] + 0.1 * mark}


def decode(inputs: Inputs) -> Inputs:
    level = inputs["features"][:, :1, :1, :1] + 3 + inputs["point_coords"].mean() / 64
    masks = np.full((len(level), 1, LOW, LOW), -4.0, np.float32)
    masks[..., 4:12, 4:12] = level
    return {"low_res_masks": masks, "obj_ptr": level[:, 0, 0]}


def memorise(inputs: Inputs) -> Inputs:
    return {"memory": inputs["low_res_masks"].max((1, 2, 3))[:, None, None]}


ANSWERS = {
    "image_encoder": encode,
    "memory_attention": condition,
    "mask_decoder": decode,
    "memory_encoder": memorise,
}


@pytest.fixture
def made() -> tuple[VolumePredictor, FakeBackend]:
    """A predictor that holds a volume, and the record of what it asks."""
    model, backend = fake_model(ANSWERS)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    return predictor, backend


@pytest.fixture
def predictor(made: tuple[VolumePredictor, FakeBackend]) -> VolumePredictor:
    return made[0]


def click(index: int, y: float = 20) -> Point:
    return Point(slice=index, y=y, x=20)


def box(index: int) -> Box:
    return Box(slice=index, y=(10, 30), x=(10, 30))


def rows_per_step(backend: FakeBackend) -> list[int]:
    return [
        len(call.inputs["memory_time"])
        for call in backend.calls
        if call.graph == "memory_attention"
    ]


def order(masks: Any) -> list[tuple[int, int]]:
    return [(mask.object_id, mask.slice) for mask in masks]


def slots_in_use(predictor: VolumePredictor) -> int:
    return predictor._arena.memories.in_use + predictor._arena.pointers.in_use


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
    assert slots_in_use(predictor) == 0


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
    assert slots_in_use(predictor) == 0


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
    assert slots_in_use(predictor) == 0


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
    assert slots_in_use(predictor) == 0
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


def test_only_what_the_last_run_found_is_corrected(
    made: tuple[VolumePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.add(click(4))
    predictor.propagate()
    predictor.propagate(z_range=(3, 6))
    predictor.add(click(8))
    assert not backend.calls[-1].inputs["has_mask_input"].any()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_a_stream_that_is_closed_early_gives_its_slots_back(
    taken: int, predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    predictor.add(click(2))
    stream = predictor.stream()
    for _ in range(taken):
        next(stream)
    assert slots_in_use(predictor) > 0
    stream.close()
    assert slots_in_use(predictor) == 0
    assert len(predictor.propagate().slices[1]) == DEPTH


def test_a_step_that_fails_gives_its_slots_back() -> None:
    steps: list[int] = []

    def fail(inputs: Inputs) -> Inputs:
        steps.append(len(steps))
        if len(steps) == 3:
            raise OutOfMemory("full")
        return {}

    model, _ = fake_model({"memory_attention": fail})
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(click(4))
    with pytest.raises(OutOfMemory):
        predictor.propagate()
    assert slots_in_use(predictor) == 0
    assert predictor.propagate().is_complete


def test_the_arena_does_not_grow_from_run_to_run(predictor: VolumePredictor) -> None:
    predictor.add(click(4))
    predictor.propagate()
    arena = predictor._arena
    sizes = len(arena.memories.values), len(arena.pointers.values)
    for _ in range(3):
        predictor.propagate()
    assert (len(arena.memories.values), len(arena.pointers.values)) == sizes


def change_nothing(predictor: VolumePredictor) -> None:
    """What a caller might do while masks come."""


CHANGES: dict[str, Callable[[VolumePredictor], Any]] = {
    "nothing": change_nothing,
    "another object": lambda predictor: predictor.add(click(1), object_id=9),
    "another prompt": lambda predictor: predictor.add(click(7)),
    "reset": lambda predictor: predictor.reset(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_prompts_changed_while_masks_come_count_from_the_next_run_on(
    change: str, after: int, predictor: VolumePredictor
) -> None:
    predictor.add(click(4))
    predictor.add(click(3), object_id=2)
    wanted = predictor.propagate()
    found: dict[int, dict[int, SliceMask]] = {1: {}, 2: {}}
    for i, mask in enumerate(predictor.stream()):
        found[mask.object_id][mask.slice] = mask
        if i == after:
            CHANGES[change](predictor)
    assert slots_in_use(predictor) == 0
    assert same(Result(wanted.shapes, found), wanted)


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


def test_an_unknown_direction_is_refused() -> None:
    model, _ = fake_model()
    predictor = VolumePredictor(model)
    predictor.set_volume(np.zeros((4, 16, 16), np.uint8))
    predictor.add(Point(slice=1, y=3, x=3))
    with pytest.raises(InputError, match="no direction 2"):
        predictor.propagate(directions=(1, 2))
