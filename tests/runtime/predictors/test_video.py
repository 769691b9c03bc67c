from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.errors import InputError, OutOfMemory, PromptError
from runtime.memory import MemoryRules
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import POLICIES
from runtime.predictors import VideoPredictor, VolumePredictor
from runtime.predictors.result import SliceMask
from runtime.predictors.tracker import FORWARD, MAX_ROWS
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from runtime.track import Segmented
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, TELLING, Inputs, fake_model

NUM, SIDE = 26, 16
GREYS = np.random.default_rng(5).integers(0, 255, NUM, np.uint8)
FRAMES = np.broadcast_to(GREYS[:, None, None], (NUM, SIDE, SIDE))

Made = tuple[VideoPredictor, FakeBackend]


def make(rules: MemoryRules | None = None, **answers: Any) -> Made:
    model, backend = fake_model({**TELLING, **answers})
    return VideoPredictor(model, rules), backend


@pytest.fixture
def made() -> Made:
    return make()


@pytest.fixture
def video(made: Made) -> VideoPredictor:
    return made[0]


def box(index: int = 0, start: int = 2) -> Box:
    return Box(slice=index, y=(start, 12), x=(start, 12))


def click(index: int = 0, y: float = 8, is_positive: bool = True) -> Point:
    return Point(slice=index, y=y, x=8, positive=is_positive)


def asked(backend: FakeBackend, graph: str) -> list[dict[str, np.ndarray]]:
    return [call.inputs for call in backend.calls if call.graph == graph]


def slots(video: VideoPredictor) -> tuple[int, int, int]:
    arena = video._arena
    return arena.memories.in_use, arena.pointers.in_use, arena.embeddings.in_use


def target(video: VideoPredictor) -> tuple[int, int, int]:
    arena = video._arena
    return tuple(len(s.values) for s in (arena.memories, arena.pointers, arena.embeddings))


def pushed(video: VideoPredictor, stop: int) -> list[dict[int, SliceMask]]:
    """Answers to the frames up to `stop` that have not been pushed yet."""
    return [video.push(FRAMES[i]) for i in range(video.index + 1, stop)]


def assert_same(found: SliceMask, wanted: SliceMask) -> None:
    assert (found.slice, found.object_id, found.shape) == (
        wanted.slice,
        wanted.object_id,
        wanted.shape,
    )
    np.testing.assert_array_equal(found.segmented.logits, wanted.segmented.logits)
    np.testing.assert_array_equal(found.segmented.obj_ptr, wanted.segmented.obj_ptr)
    assert found.memory_frames == wanted.memory_frames
    assert found.memory_weights == wanted.memory_weights
    assert found.confidence == wanted.confidence


PROMPTS: dict[int, list[list[Prompt]]] = {
    1: [[box()], [click(is_positive=False)]],
    2: [[click(), click(y=4)]],
    5: [[Mask(mask=np.ones((SIDE, SIDE), bool))]],
}


@pytest.mark.parametrize("pick_up", PICK_UPS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_video_is_followed_as_a_volume_is_forward(policy: str, pick_up: str) -> None:
    rules = MemoryRules(policy=policy, pick_up=pick_up)
    video, _ = make(rules)
    video.push(FRAMES[0])
    volume = VolumePredictor(fake_model(TELLING)[0], rules)
    volume.set_volume(FRAMES)
    for object_id, calls in PROMPTS.items():
        for prompts in calls:
            shown = video.add(*prompts, object_id=object_id)
            assert_same(shown, volume.add(*prompts, object_id=object_id))
    wanted = volume.propagate(directions=(FORWARD,)).slices
    for index, masks in enumerate(pushed(video, NUM), start=1):
        assert masks.keys() == PROMPTS.keys()
        for object_id, mask in masks.items():
            assert_same(mask, wanted[object_id][index])


def test_more_objects_than_a_batch_holds_are_followed_alike(made: Made) -> None:
    video, backend = made
    video.push(FRAMES[0])
    for object_id in range(1, MAX_ROWS + 4):
        video.add(box(), object_id=object_id)
    backend.calls.clear()
    masks = video.push(FRAMES[1])
    assert list(masks) == list(range(1, MAX_ROWS + 4))
    assert [len(step["memory_time"]) for step in asked(backend, "memory_attention")] == [
        MAX_ROWS,
        3,
    ]
    for mask in masks.values():
        np.testing.assert_array_equal(mask.segmented.logits, masks[1].segmented.logits)
    assert len(asked(backend, "image_encoder")) == 1


def num_segmented() -> int:
    gc.collect()
    return sum(type(each) is Segmented for each in gc.get_objects())


def fill_everything(inputs: Inputs) -> Inputs:
    """Masks without holes take no time to look for them."""
    return {"low_res_masks": np.float32(4)}


def test_memory_is_bounded_over_two_thousand_frames() -> None:
    model, backend = fake_model({"mask_decoder": fill_everything})
    video = VideoPredictor(model)
    frame = np.zeros((4, 4), np.uint8)
    video.push(frame)
    video.add(Box(y=(0, 3), x=(0, 3)))
    for index in range(1, 2001):
        masks = video.push(frame)
        backend.calls.clear()
        if index == 100:
            before = slots(video), target(video), num_segmented()
    assert masks[1].slice == 2000
    assert masks[1].memory_frames == (0, 1994, 1995, 1996, 1997, 1998, 1999)
    assert (slots(video), target(video)) == before[:2]
    assert 0 < num_segmented() <= before[2]
    assert slots(video) == (7, 16, 0)
    video.reset()
    assert slots(video) == (0, 0, 0)


@pytest.mark.parametrize("pick_up", PICK_UPS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_bounds_memory(policy: str, pick_up: str) -> None:
    rules = MemoryRules(policy=policy, pick_up=pick_up)
    video, backend = make(rules)
    rng = np.random.default_rng(0)
    video.push(FRAMES[0])
    video.add(box())
    for index in range(1, 120):
        video.push(np.full((SIDE, SIDE), rng.integers(0, 255), np.uint8))
        backend.calls.clear()
        if index == 60:
            before = slots(video), target(video)
    assert (slots(video), target(video)) == before
    tracked = rules.limits(FAKE_NUMBERS).capacity
    assert slots(video)[0] == 1 + tracked


def test_objects_and_prompts_that_come_and_go_leave_nothing_behind(video: VideoPredictor) -> None:
    sizes = []
    for index in range(12):
        video.push(FRAMES[index])
        video.add(box(), object_id=1)
        video.add(click(), object_id=1)
        video.add(box(), object_id=2)
        video.reset(1)
        video.push(FRAMES[index])
        video.reset()
        assert slots(video) == (0, 0, 0)
        sizes.append(target(video))
    assert len(set(sizes)) == 1


def test_an_object_that_comes_later_is_followed_from_there_on(video: VideoPredictor) -> None:
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 6)
    found = video.add(box(start=4), object_id=2)
    assert (found.slice, found.memory_frames) == (5, ())
    masks = pushed(video, 9)
    assert [each[1].memory_frames for each in masks] == [
        (0, 1, 2, 3, 4, 5),
        (0, 1, 2, 3, 4, 5, 6),
        (0, 2, 3, 4, 5, 6, 7),
    ]
    assert [each[2].memory_frames for each in masks] == [(5,), (5, 6), (5, 6, 7)]


def test_objects_do_not_depend_on_each_other(video: VideoPredictor) -> None:
    alone, _ = make()
    for each in (video, alone):
        each.push(FRAMES[0])
    video.add(box())
    pushed(video, 4)
    pushed(alone, 4)
    for each in (video, alone):
        each.add(box(start=4), object_id=2)
    for together, single in zip(pushed(video, 9), pushed(alone, 9), strict=True):
        assert_same(together[2], single[2])
        assert list(single) == [2]


def test_a_correction_reads_what_the_frame_had_read_and_the_mask_found_there(made: Made) -> None:
    video, backend = made
    video.push(FRAMES[0])
    video.add(box())
    (*_, masks) = pushed(video, 9)
    step, decoded = asked(backend, "memory_attention")[-1], asked(backend, "mask_decoder")[-1]
    backend.calls.clear()
    first = video.add(click(is_positive=False))
    (again,) = asked(backend, "memory_attention")
    for name, values in step.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    corrected = asked(backend, "mask_decoder")[-1]
    np.testing.assert_array_equal(corrected["features"], decoded["features"])
    assert not corrected["add_no_mem_embed"].any()
    np.testing.assert_array_equal(corrected["mask_input"][0, 0], masks[1].segmented.logits)
    backend.calls.clear()
    video.add(click(y=4))
    assert asked(backend, "memory_attention") == []
    further = asked(backend, "mask_decoder")[-1]
    np.testing.assert_array_equal(further["features"], decoded["features"])
    np.testing.assert_array_equal(further["mask_input"][0, 0], first.segmented.logits)
    np.testing.assert_array_equal(further["point_labels"], [[0, 1]])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pick_up", PICK_UPS)
def test_each_of_several_objects_is_corrected_from_its_own_memory(
    policy: str, pick_up: str
) -> None:
    video, backend = make(MemoryRules(policy=policy, pick_up=pick_up, min_confidence=0.0))
    for index in range(3):
        video.push(FRAMES[index])
        video.add(box(start=2 + index), object_id=index + 1)
    pushed(video, 9)
    decoded = asked(backend, "mask_decoder")[-1]
    for row in range(3):
        video.add(click(), object_id=row + 1)
        corrected = asked(backend, "mask_decoder")[-1]
        np.testing.assert_array_equal(corrected["features"][0], decoded["features"][row])


def test_a_corrected_frame_becomes_a_template_and_the_past_is_not_computed_again(
    made: Made,
) -> None:
    video, backend = made
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 6)
    before = slots(video)
    backend.calls.clear()
    found = video.add(click())
    graphs = [call.graph for call in backend.calls]
    assert graphs == ["memory_attention", "mask_decoder", "memory_encoder"]
    (memorised,) = asked(backend, "memory_encoder")
    assert memorised["binarize"].all()
    np.testing.assert_array_equal(memorised["low_res_masks"][0, 0], found.segmented.logits)
    assert slots(video) == before, "the conditioning frame takes the place of what had been tracked"
    masks = pushed(video, 8)
    assert [each[1].memory_frames for each in masks] == [(0, 5, 1, 2, 3, 4), (0, 5, 1, 2, 3, 4, 6)]
    step = asked(backend, "memory_attention")[1]
    np.testing.assert_array_equal(step["memory_time"], [[6, 6, 4, 3, 2, 1]])


def test_a_frame_corrected_twice_is_one_template(video: VideoPredictor) -> None:
    video.push(FRAMES[0])
    video.add(box())
    video.add(click())
    pushed(video, 4)
    video.add(click())
    video.add(click(y=3))
    video.add(box(start=5))
    assert video.push(FRAMES[4])[1].memory_frames == (0, 3, 1, 2)


def test_templates_stay_for_good(video: VideoPredictor) -> None:
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 4)
    video.add(box())
    (*_, masks) = pushed(video, NUM)
    assert masks[1].memory_frames == (0, 3, 19, 20, 21, 22, 23, 24)


@pytest.mark.parametrize("prompt", [box(start=4), Mask(mask=np.ones((SIDE, SIDE), bool))])
def test_a_box_or_a_mask_starts_the_frame_anew(prompt: Prompt, made: Made) -> None:
    video, backend = made
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 4)
    backend.calls.clear()
    video.add(prompt)
    assert asked(backend, "memory_attention") == []
    assert video.push(FRAMES[4])[1].memory_frames == (0, 3, 1, 2)


def test_a_prompts_slice_is_not_looked_at(video: VideoPredictor) -> None:
    video.push(FRAMES[0])
    video.push(FRAMES[1])
    first = video.add(box(7))
    video.reset()
    assert_same(video.add(box(0)), first)
    assert first.slice == 1


def test_frames_are_numbered_from_zero(video: VideoPredictor) -> None:
    assert video.index == -1
    assert video.push(FRAMES[0]) == {}
    assert video.index == 0
    video.add(box(), object_id=3)
    masks = video.push(FRAMES[1])
    assert video.index == 1
    assert [(mask.slice, mask.object_id) for mask in masks.values()] == [(1, 3)]


REFUSED_FRAMES: dict[str, tuple[np.ndarray, str]] = {
    "another size": (np.zeros((SIDE, SIDE + 1), np.uint8), r"frame 4 is \(16, 17\), those before"),
    "colour": (np.zeros((SIDE, SIDE, 3), np.uint8), r"frame 4 is \(16, 16, 3\), those before"),
    "another type": (np.zeros((SIDE, SIDE), np.float32), r"frame 4 is float32\(16, 16\)"),
    "empty": (np.zeros((SIDE, 0), np.uint8), r"frame 4 is uint8\(16, 0\)"),
}


@pytest.mark.parametrize("case", REFUSED_FRAMES)
def test_a_frame_that_is_refused_is_not_taken(case: str) -> None:
    frame, why = REFUSED_FRAMES[case]
    answers = []
    for is_disturbed in (False, True):
        video, _ = make()
        video.push(FRAMES[0])
        video.add(box())
        pushed(video, 4)
        if is_disturbed:
            with pytest.raises(InputError, match=why):
                video.push(frame)
        assert video.index == 3
        answers.append((video.add(click()), *(each[1] for each in pushed(video, 7))))
    for found, wanted in zip(*answers, strict=True):
        assert_same(found, wanted)


def test_frames_in_colour_are_followed_too(video: VideoPredictor) -> None:
    for index in range(3):
        masks = video.push(np.repeat(FRAMES[index][..., None], 3, axis=2))
        if index == 0:
            video.add(box())
    grey, _ = make()
    grey.push(FRAMES[0])
    grey.add(box())
    (*_, wanted) = pushed(grey, 3)
    assert_same(masks[1], wanted[1])


def test_the_caller_may_reuse_the_buffer_of_a_frame(video: VideoPredictor) -> None:
    careful, _ = make()
    buffer = np.empty((SIDE, SIDE), np.uint8)
    found, wanted = [], []
    for index in range(5):
        buffer[:] = FRAMES[index]
        masks, expected = video.push(buffer), careful.push(FRAMES[index].copy())
        buffer[:] = 77
        found += masks.values()
        wanted += expected.values()
        if index in (1, 3):
            found.append(video.add(click()))
            wanted.append(careful.add(click()))
    assert len(found) == 5
    for mine, theirs in zip(found, wanted, strict=True):
        assert_same(mine, theirs)


def test_without_a_frame_nothing_can_be_prompted(made: Made) -> None:
    video, backend = made
    with pytest.raises(PromptError, match="no frame yet; call push first"):
        video.add(box())
    assert backend.calls == []


@pytest.mark.parametrize("object_id", [0, -1, 65536, 1.0, "1", None, np.float32(1)])
def test_an_object_id_is_a_whole_number_that_fits_into_a_label(
    object_id: Any, video: VideoPredictor
) -> None:
    video.push(FRAMES[0])
    with pytest.raises(PromptError, match="is not a whole number from 1 to 65535"):
        video.add(box(), object_id=object_id)
    assert video.push(FRAMES[1]) == {}


def test_numpys_whole_numbers_are_object_ids_too(video: VideoPredictor) -> None:
    video.push(FRAMES[0])
    assert type(video.add(box(), object_id=np.uint8(7)).object_id) is int
    video.add(click(), object_id=7)
    assert list(video.push(FRAMES[1])) == [7]


REFUSED: dict[str, tuple[list[Prompt], str]] = {
    "nothing": ([], "no prompt given"),
    "outside": ([click(y=SIDE)], "point y = 16 is outside"),
    "two boxes": ([box(), box()], "two boxes for one object"),
    "mask and point": ([Mask(mask=np.ones((SIDE, SIDE))), click()], "a mask is the whole answer"),
    "mask of another size": ([Mask(mask=np.ones((3, 3)))], "mask is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prompts_that_are_refused_change_nothing(case: str, made: Made) -> None:
    video, backend = made
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 4)
    before, num_calls = slots(video), len(backend.calls)
    prompts, why = REFUSED[case]
    for object_id in (1, 2):
        with pytest.raises(PromptError, match=why):
            video.add(*prompts, object_id=object_id)
    assert (slots(video), len(backend.calls)) == (before, num_calls)
    assert video.push(FRAMES[4])[1].memory_frames == (0, 1, 2, 3)


@pytest.mark.parametrize("graph", ["mask_decoder", "memory_encoder"])
def test_a_prompt_that_fails_leaves_no_half_added_object(graph: str) -> None:
    is_full = True

    def fail(inputs: Inputs) -> Inputs:
        if is_full:
            raise OutOfMemory("full")
        return TELLING[graph](inputs)

    video, _ = make(**{graph: fail})
    video.push(FRAMES[0])
    with pytest.raises(OutOfMemory):
        video.add(box())
    assert slots(video) == (0, 0, 0)
    is_full = False
    assert video.push(FRAMES[1]) == {}


RESETS: dict[str, tuple[Callable[[VideoPredictor], None], list[int]]] = {
    "one object": (lambda video: video.reset(2), [1, 3]),
    "all": (lambda video: video.reset(), []),
}


@pytest.mark.parametrize("case", RESETS)
def test_reset_ends_the_following_of_objects(case: str, video: VideoPredictor) -> None:
    reset, left = RESETS[case]
    video.push(FRAMES[0])
    for object_id in (1, 2, 3):
        video.add(box(), object_id=object_id)
    each = slots(video)[0] // 3
    pushed(video, 2)
    reset(video)
    assert list(video.push(FRAMES[2])) == left
    assert slots(video)[0] == len(left) * (each + 2)
    with pytest.raises(PromptError, match=r"no object 2; there are: \[" + str(left)[1:-1]):
        video.reset(2)
    for odd in (True, 1.0, "1", [1]):
        with pytest.raises(PromptError, match=r"no object .*; there are"):
            video.reset(odd)  # type: ignore[arg-type]
    assert list(video._objects) == left
    found = video.add(click(), object_id=2)
    assert found.memory_frames == ()
    assert video.push(FRAMES[3])[2].memory_frames == (2,)


def test_an_object_that_is_reset_and_prompted_again_begins_anew(made: Made) -> None:
    video, backend = made
    video.push(FRAMES[0])
    video.add(box())
    pushed(video, 4)
    video.reset(1)
    backend.calls.clear()
    video.add(click())
    (decoded,) = asked(backend, "mask_decoder")
    assert decoded["add_no_mem_embed"].all()
    assert not decoded["has_mask_input"].any()


def test_rules_that_do_not_fit_the_model_are_refused_at_once() -> None:
    with pytest.raises(InputError, match="found capacity 7"):
        VideoPredictor(fake_model()[0], MemoryRules(capacity=7))
