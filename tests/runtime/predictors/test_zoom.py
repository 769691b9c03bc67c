"""Volumes seen through crops: a network that finds what is bright in what it is shown, and remembers."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice, pairwise
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle.contract import NO_OBJ_SCORE
from runtime.errors import InputError
from runtime.io.volumes.volume import Volume
from runtime.memory import MemoryRules
from runtime.predictors import VolumePredictor
from runtime.predictors.region import Region
from runtime.predictors.result import Result, SliceMask
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.cuda import cuda_of, on_device
from tests.fake_backend import FakeBackend
from tests.fakes import SEEING, TELLING, Inputs, fake_model

DEPTH, SIDE = 8, 256
KEY = 3
RULES = [
    MemoryRules(),
    MemoryRules(policy="self_sorting", capacity=2, min_confidence=0.5, pick_up="weighted"),
]


def scene(
    *centres: tuple[float, float], size: float = 20, drift: float = 0, grow: float = 0
) -> Any:
    """Bright squares on dark slices, of a size at KEY, that drift to the right and grow from slice to slice."""
    pixels = np.full((DEPTH, SIDE, SIDE), 10, np.uint8)
    for z in range(DEPTH):
        half = (size + grow * (z - KEY)) / 2
        for y, x in centres:
            x = x + drift * (z - KEY)
            rows = slice(max(round(y - half), 0), round(y + half))
            pixels[z, rows, max(round(x - half), 0) : round(x + half)] = 200
    return pixels


def box(z: int, y: float, x: float, size: float = 20) -> Box:
    return Box(slice=z, y=(y - size / 2, y + size / 2), x=(x - size / 2, x + size / 2))


def make(
    pixels: Any, zoom: float | None = 3.0, rules: MemoryRules | None = None, **answers: Any
) -> tuple[VolumePredictor, FakeBackend]:
    model, backend = fake_model({**SEEING, **answers})
    predictor = VolumePredictor(model, rules, zoom=zoom)
    predictor.set_volume(pixels)
    return predictor, backend


def num_encoded(backend: FakeBackend) -> int:
    return Counter(call.graph for call in backend.calls)["image_encoder"]


def crops(result: Result, object_id: int = 1) -> list[Region | None]:
    return [mask.crop for _, mask in sorted(result.slices[object_id].items())]


def assert_same(found: Result, wanted: Result) -> None:
    assert found.object_ids == wanted.object_ids
    for object_id, masks in wanted.slices.items():
        assert found.slices[object_id].keys() == masks.keys()
        for z, mask in masks.items():
            other = found.slices[object_id][z]
            assert other.crop == mask.crop and other.memory_frames == mask.memory_frames
            np.testing.assert_array_equal(other.segmented.logits, mask.segmented.logits)


def assert_drawn(result: Result, pixels: Any, object_id: int = 1) -> None:
    """Masks are what is bright, but for the resolution of a whole slice: 16 pixels to a logit."""
    for z, mask in result.slices[object_id].items():
        part = mask.crop or Region.whole((SIDE, SIDE))
        reach = max(part.shape) / 16 + 1
        truth, drawn = Region.of_mask(part.of(pixels[z]) > 100), Region.of_mask(mask.mask())
        assert truth is not None and drawn is not None
        offset = (part.y[0], part.x[0])
        for found, wanted, start in zip(
            (drawn.y, drawn.x), (truth.y, truth.x), offset, strict=True
        ):
            assert np.abs(np.subtract(found, np.add(wanted, start))).max() <= reach


def test_an_object_is_shown_large_and_put_back_where_it_is() -> None:
    pixels = scene((100, 140))
    predictor, backend = make(pixels)
    first = predictor.add(box(KEY, 100, 140))
    assert first.crop == Region((70, 130), (110, 170))
    result = predictor.propagate()
    assert set(crops(result)) == {first.crop}
    assert num_encoded(backend) == predictor.num_encodings == DEPTH
    assert_drawn(result, pixels)
    assert result.mask(1)[KEY].sum() == pytest.approx(400, abs=80)
    outside = np.ones((SIDE, SIDE), bool)
    outside[70:130, 110:170] = False
    assert (first.logits()[outside] == NO_OBJ_SCORE).all()
    coarse = make(pixels, None)[0]
    coarse.add(box(KEY, 100, 140))
    whole = coarse.propagate().mask(1)
    assert abs(int(whole[KEY].sum()) - 400) > abs(int(result.mask(1)[KEY].sum()) - 400)


def test_results_go_to_other_processes_with_their_crops() -> None:
    predictor, _ = make(scene((100, 140)))
    predictor.add(box(KEY, 100, 140))
    result = predictor.propagate()
    assert_same(pickle.loads(pickle.dumps(result)), result)
    assert_same(predictor.current(), result)


@pytest.mark.parametrize("prompt", [box(KEY, 100, 140), Point(slice=KEY, y=100, x=140)])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
def test_a_crop_of_the_whole_slice_is_no_zoom_bit_for_bit(
    prompt: Prompt, rules: MemoryRules
) -> None:
    results, calls = [], []
    for zoom in (None, 100.0):
        predictor, backend = make(scene((100, 140)), zoom, rules)
        predictor.add(prompt)
        predictor.propagate()
        predictor.add(Point(slice=KEY + 2, y=90, x=141))
        results.append(predictor.propagate())
        calls.append([call.graph for call in backend.calls])
    assert set(crops(results[1])) == {None}
    assert_same(results[1], results[0])
    if isinstance(prompt, Box):
        assert calls[0] == calls[1]


def test_points_are_answered_on_the_whole_slice_first() -> None:
    pixels = scene((100, 140))
    predictor, backend = make(pixels)
    found = predictor.add(Point(slice=KEY, y=100, x=140))
    assert num_encoded(backend) == 2
    assert found.crop is not None and found.crop.holds(Region((90, 110), (130, 150)))
    decoded = [call.inputs for call in backend.calls if call.graph == "mask_decoder"]
    assert [bool(inputs["has_mask_input"][0]) for inputs in decoded] == [False, False]
    whole, crop = (inputs["point_coords"][0, 0] for inputs in decoded)
    np.testing.assert_allclose(whole, (140 / SIDE * 64, 100 / SIDE * 64))
    height, width = found.crop.shape
    inside = (140 - found.crop.x[0]) / width * 64, (100 - found.crop.y[0]) / height * 64
    np.testing.assert_allclose(crop, inside)
    assert_drawn(predictor.propagate(), pixels)


def test_a_point_on_nothing_is_seen_on_the_whole_slice_until_there_is_something() -> None:
    empty = scene()
    predictor, _ = make(empty)
    assert predictor.add(Point(slice=KEY, y=100, x=140)).crop is None
    pixels = scene((100, 140))
    predictor, _ = make(pixels)
    predictor.add(Mask(slice=0, mask=np.zeros((SIDE, SIDE), bool)))
    assert predictor.add(Point(slice=KEY, y=100, x=140)).crop is not None


def test_a_mask_is_shown_in_a_crop_about_itself() -> None:
    pixels = scene((100, 140))
    predictor, _ = make(pixels)
    found = predictor.add(Mask(slice=KEY, mask=pixels[KEY] > 100))
    assert found.crop == Region((70, 130), (110, 170))
    overlap = found.mask() & (pixels[KEY] > 100)
    assert overlap.sum() > 0.8 * found.mask().sum() and overlap.sum() > 0.9 * 400
    assert_drawn(predictor.propagate(), pixels)


def test_an_absent_object_says_nothing_of_where_it_is() -> None:
    predictor, _ = make(scene((100, 140)))
    predictor.add(box(KEY, 100, 140))
    predictor.add(Mask(slice=0, mask=np.zeros((SIDE, SIDE), bool)))
    result = predictor.propagate()
    assert set(crops(result)) == {Region((70, 130), (110, 170))}
    assert not result.slices[1][0].mask().any()


def test_a_click_where_the_object_was_said_to_be_absent_keeps_its_crop() -> None:
    predictor, _ = make(scene((100, 140)))
    predictor.add(Mask(slice=0, mask=np.zeros((SIDE, SIDE), bool)))
    crop = predictor.add(box(KEY, 100, 140)).crop
    assert crop is not None
    assert predictor.add(Point(slice=0, y=100, x=140)).crop == crop
    assert set(crops(predictor.propagate())) == {crop}


def test_thick_pixels_are_shown_in_their_true_shape() -> None:
    volume = Volume.from_array(scene((100, 140)), (5.0, 2.0, 0.5))
    predictor, _ = make(volume)
    found = predictor.add(box(KEY, 100, 140))  # 40 mm x 10 mm
    assert found.crop is not None and found.crop.shape == (60, 240)


def test_objects_that_are_near_share_encodings_and_far_ones_do_not() -> None:
    pixels = scene((100, 100), (106, 108), (30, 220))
    predictor, backend = make(pixels)
    near = predictor.add(box(KEY, 100, 100)), predictor.add(box(KEY, 106, 108), object_id=2)
    assert near[0].crop == near[1].crop
    far = predictor.add(box(KEY, 30, 220), object_id=3)
    assert far.crop != near[0].crop
    result = predictor.propagate()
    assert num_encoded(backend) == predictor.num_encodings == 2 * DEPTH
    assert [set(crops(result, i)) for i in (1, 2, 3)] == [{near[0].crop}] * 2 + [{far.crop}]
    steps = [call for call in backend.calls if call.graph == "memory_attention"]
    assert len(steps[0].inputs["memory_time"]) == 6, "all of them are one batch"


def test_a_drifting_object_is_followed_into_wider_crops() -> None:
    pixels = scene((128, 90), drift=9)
    predictor, _ = make(pixels)
    first = predictor.add(box(KEY, 128, 90)).crop
    result = predictor.propagate()
    assert_drawn(result, pixels)
    for direction in (1, -1):
        seen = crops(result)[KEY::direction]
        for before, after in pairwise(seen):
            assert before == after or after is None or (before is not None and after.holds(before))
        assert 2 <= len(set(seen)) <= 4, "wider, but not again and again"
    assert first == Region((98, 158), (60, 120))
    for z, mask in result.slices[1].items():
        if mask.crop is not None:
            truth = Region.of_mask(pixels[z] > 100)
            assert truth is not None and mask.crop.holds(truth), "nothing is cut off"


def test_a_growing_object_ends_up_in_the_whole_slice() -> None:
    pixels = scene((128, 128), size=20, grow=60)
    pixels[:KEY] = scene((128, 128))[:KEY]
    predictor, _ = make(pixels)
    predictor.add(box(KEY, 128, 128))
    result = predictor.propagate()
    assert crops(result)[-1] is None
    assert_drawn(result, pixels)
    assert set(crops(result)[:KEY]) == {crops(result)[KEY]}, "the other direction is left alone"


def test_a_wider_crop_begins_with_prompts_and_the_last_sure_mask() -> None:
    pixels = scene((128, 90), drift=9)
    predictor, _ = make(pixels)
    predictor.add(box(KEY, 128, 90))
    result = predictor.propagate()
    seen = crops(result)
    at = next(z for z in range(KEY + 2, DEPTH) if seen[z] != seen[z - 1])
    assert result.slices[1][at].memory_frames == (KEY, at - 1)
    assert result.slices[1][at + 1].memory_frames == (KEY, at - 1, at)


def test_an_unsure_mask_is_no_seed() -> None:
    def unsure(inputs: Inputs) -> Inputs:
        found = dict(SEEING["mask_decoder"](inputs))
        is_prompted = inputs["point_labels"].max() > 0
        return found | {"ious": np.full(len(found["ious"]), 0.9 if is_prompted else 0.3)}

    predictor, _ = make(scene((128, 90), drift=9), mask_decoder=unsure)
    predictor.add(box(KEY, 128, 90))
    result = predictor.propagate()
    seen = crops(result)
    at = next(z for z in range(KEY + 2, DEPTH) if seen[z] != seen[z - 1])
    assert result.slices[1][at].memory_frames == (KEY,)


def test_a_correction_within_the_crop_keeps_it_and_one_outside_widens_it() -> None:
    pixels = scene((128, 128))
    predictor, backend = make(pixels)
    crop = predictor.add(box(KEY, 128, 128)).crop
    predictor.propagate()
    before = num_encoded(backend)
    assert predictor.add(Point(slice=KEY + 2, y=120, x=130)).crop == crop
    assert num_encoded(backend) == before
    assert predictor.add(Point(slice=KEY + 2, y=128, x=150, positive=False)).crop == crop
    outside = predictor.add(Point(slice=KEY + 2, y=128, x=170))
    assert outside.crop is not None and crop is not None and outside.crop.holds(crop)
    assert outside.crop.holds(Region((128, 129), (170, 171)))
    assert predictor.add(Point(slice=KEY, y=121, x=130)).crop == outside.crop, "for the object"
    result = predictor.propagate()
    assert set(crops(result)) == {outside.crop}
    assert_drawn(result, pixels)


def test_a_box_elsewhere_on_another_slice_widens_the_crop() -> None:
    pixels = scene((60, 60), drift=25)
    predictor, _ = make(pixels)
    first = predictor.add(box(KEY, 60, 60))
    second = predictor.add(box(KEY + 3, 60, 135))
    assert first.crop is not None and second.crop is not None
    assert second.crop.holds(first.crop) and second.crop.holds(Region((50, 70), (125, 145)))
    result = predictor.propagate()
    assert crops(result)[KEY + 1 : KEY + 3] == [second.crop] * 2
    assert result.slices[1][KEY].crop == first.crop, "an answer stays as it was given"


def test_what_is_taken_back_leaves_no_trace() -> None:
    for prompt in (Point(slice=KEY + 2, y=128, x=230), box(KEY + 1, 40, 40)):
        pixels = scene((128, 90), drift=9)
        predictor, _ = make(pixels)
        predictor.add(box(KEY, 128, 90))
        wanted = predictor.propagate()
        predictor.add(prompt)
        changed = predictor.propagate()
        assert crops(changed) != crops(wanted)
        predictor.undo()
        assert_same(predictor.current(), wanted)
        assert_same(predictor.propagate(), wanted)
        predictor.redo()
        assert_same(predictor.propagate(), changed)
        predictor.undo()
        corrected = predictor.add(Point(slice=DEPTH - 1, y=128, x=120))
        again, _ = make(pixels)
        again.add(box(KEY, 128, 90))
        again.propagate()
        same = again.add(Point(slice=DEPTH - 1, y=128, x=120))
        np.testing.assert_array_equal(corrected.segmented.logits, same.segmented.logits)
        assert corrected.crop == same.crop
        predictor.reset()
        arena = predictor._tracker._arena  # type: ignore[union-attr]
        assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
@pytest.mark.parametrize("taken", range(1, 8))
def test_a_run_that_was_cancelled_goes_on_as_if_it_had_not_been(
    taken: int, rules: MemoryRules
) -> None:
    def session(interrupt: Callable[[VolumePredictor], object]) -> Result:
        predictor, _ = make(scene((128, 90), drift=9), rules=rules)
        predictor.add(box(KEY, 128, 90))
        interrupt(predictor)
        return predictor.propagate()

    wanted = session(lambda predictor: None)
    found = session(lambda predictor: list(islice(predictor.stream(), taken)))
    assert_same(found, wanted)
    limited = session(lambda predictor: predictor.propagate(z_range=(KEY - 1, KEY + taken % 4 + 1)))
    assert_same(limited, wanted)


@cache
def undisturbed(rules: MemoryRules) -> tuple[Result, Result, Counter[str]]:
    """What a box finds, what a click on the last slice makes of it, and how often each graph has run for that."""
    predictor, backend = make(scene((128, 90), drift=9), rules=rules)
    predictor.add(box(KEY, 128, 90))
    wanted = predictor.propagate()
    predictor.add(Point(slice=DEPTH - 1, y=128, x=120))
    return wanted, predictor.propagate(), Counter(call.graph for call in backend.calls)


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("graph", SEEING)
def test_whatever_ends_a_step_in_its_middle_changes_nothing(
    graph: str, error: type[BaseException], rules: MemoryRules
) -> None:
    pixels = scene((128, 90), drift=9)
    wanted, then, runs = undisturbed(rules)
    for at in (2, 5, 8):
        assert at <= runs[graph]
        left = [at]

        def answer(inputs: Inputs, left: list[int] = left) -> Inputs:
            left[0] -= 1
            if left[0] == 0:
                raise error
            return SEEING[graph](inputs)

        def attempt(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except error:
                return call()

        predictor, _ = make(pixels, rules=rules, **{graph: answer})
        attempt(lambda p=predictor: p.add(box(KEY, 128, 90)))
        assert_same(attempt(predictor.propagate), wanted)
        attempt(lambda p=predictor: p.add(Point(slice=DEPTH - 1, y=128, x=120)))
        assert_same(attempt(predictor.propagate), then)
        predictor.reset()
        arena = predictor._tracker._arena  # type: ignore[union-attr]
        assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(2, 60),
    st.floats(-20, 20),
    st.floats(-8, 8),
    st.sampled_from([1.0, 1.5, 3.0, 6.0]),
)
@settings(max_examples=25, deadline=None)
def test_wherever_an_object_goes_it_is_found(
    y: int, x: int, size: int, drift: float, grow: float, zoom: float
) -> None:
    pixels = scene((y, x), size=size, drift=drift, grow=grow)
    truth = Region.of_mask(pixels[KEY] > 100)
    if truth is None:
        return
    predictor, backend = make(pixels, zoom)
    predictor.add(Box(slice=KEY, y=truth.y, x=truth.x))
    result = predictor.propagate()
    assert len(result.slices[1]) == DEPTH
    assert num_encoded(backend) == predictor.num_encodings
    for direction in (1, -1):
        seen = [crop or Region.whole((SIDE, SIDE)) for crop in crops(result)[KEY::direction]]
        assert all(after.holds(before) for before, after in pairwise(seen))
        assert len(set(seen)) <= 6
    for z, mask in result.slices[1].items():
        there = Region.of_mask(pixels[z] > 100)
        is_visible = there is not None and min(there.shape) * 16 >= 2 * max(
            (mask.crop or Region.whole((SIDE, SIDE))).shape
        )
        if is_visible and mask.crop is not None and abs(drift) <= 5 and zoom >= 3:
            assert there is not None and mask.crop.holds(there)


def test_what_lies_on_a_device_comes_to_the_host_to_be_cut() -> None:
    pixels = scene((128, 90), drift=9)
    wanted, _ = make(pixels)
    model, device = on_device(fake_model(SEEING)[0])
    predictor = VolumePredictor(model, zoom=3.0)
    predictor.set_volume(device.upload(pixels, stream=cuda_of(model)[0].current))
    for each in (wanted, predictor):
        each.add(box(KEY, 128, 90))
    assert_same(predictor.propagate(), wanted.propagate())


@pytest.mark.parametrize("zoom", [nan, inf, 0.5, "3", True])
def test_a_zoom_that_is_none(zoom: Any) -> None:
    with pytest.raises(InputError, match="zoom"):
        VolumePredictor(fake_model(TELLING)[0], zoom=zoom)


def test_masks_that_were_changed_at_the_slices_size_are_of_the_whole_slice() -> None:
    predictor, _ = make(scene((100, 140)))
    mask = predictor.add(box(KEY, 100, 140))
    assert isinstance(mask, SliceMask) and mask.crop is not None
    assert mask.logits().shape == mask.mask().shape == (SIDE, SIDE)
