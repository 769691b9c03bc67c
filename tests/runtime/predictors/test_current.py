"""What a program with a window asks between runs: masks by now, prompts, steps of a shared thread, encoding ahead."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InputError, PromptError
from runtime.predictors import FlowPredictor, VolumePredictor
from runtime.predictors.result import Result
from runtime.prompts.prompts import Box, Mask, Point
from tests.fakes import TELLING, fake_model

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 32, 32)).astype(np.uint8)
BOX, CLICK = Box(slice=4, y=(5, 20), x=(5, 20)), Point(slice=6, y=9, x=9)


def volume() -> VolumePredictor:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_volume(PIXELS)
    return predictor


def held(result: Result) -> dict[int, dict[int, bytes]]:
    return {
        object_id: {index: mask.segmented.logits.tobytes() for index, mask in masks.items()}
        for object_id, masks in result.slices.items()
    }


def test_current_masks_follow_prompts_runs_undo_and_redo() -> None:
    predictor = volume()
    assert predictor.current().slices == {} and not predictor.current().is_complete
    predictor.add(BOX)
    assert list(predictor.current().slices[1]) == [4]
    stream = predictor.stream()
    given = [next(stream) for _ in range(5)]
    assert sorted(predictor.current().slices[1]) == sorted(mask.slice for mask in given)
    complete = predictor.propagate()
    assert predictor.current().is_complete
    assert held(predictor.current()) == held(complete)
    predictor.add(CLICK)
    changed = held(predictor.current())
    assert changed != held(complete)
    assert {i for i in range(9) if changed[1][i] != held(complete)[1][i]} == {6}
    predictor.undo()
    assert held(predictor.current()) == held(complete)
    predictor.redo()
    assert held(predictor.current()) == changed
    predictor.reset()
    assert predictor.current().slices == {}
    predictor.undo()
    assert held(predictor.current()) == changed


def test_objects_and_prompts_are_listed() -> None:
    predictor = volume()
    assert predictor.object_ids == ()
    assert not predictor.can_undo and not predictor.can_redo
    predictor.add(BOX, object_id=3)
    predictor.add(CLICK, object_id=2)
    predictor.add(Point(slice=6, y=2, x=2, positive=False), object_id=2)
    assert predictor.object_ids == (2, 3)
    assert predictor.prompts(3) == {4: (BOX,)}
    assert [p.positive for p in predictor.prompts(2)[6] if isinstance(p, Point)] == [True, False]
    mask = Mask(slice=6, mask=np.ones((32, 32), bool))
    predictor.add(mask, object_id=2)
    assert [*predictor.prompts(2)] == [6]
    (kept,) = predictor.prompts(2)[6]
    assert isinstance(kept, Mask) and kept.slice == 6
    np.testing.assert_array_equal(kept.mask, mask.mask)
    predictor.undo()
    assert len(predictor.prompts(2)[6]) == 2
    assert predictor.can_undo and predictor.can_redo
    with pytest.raises(PromptError, match=r"no object 7; there are: \[2, 3\]"):
        predictor.prompts(7)


def test_redo_ends_with_a_new_prompt_and_says_so() -> None:
    predictor = volume()
    with pytest.raises(PromptError, match="nothing to redo"):
        predictor.redo()
    predictor.add(BOX)
    predictor.undo()
    predictor.add(CLICK)
    with pytest.raises(PromptError, match="nothing to redo"):
        predictor.redo()


def test_memory_that_is_made_again_gives_others_their_turn() -> None:
    predictor = volume()
    predictor.add(BOX)
    stream = predictor.stream()
    for _ in range(6):
        next(stream)
    predictor.add(CLICK)
    predictor.propagate()
    predictor.undo()
    steps = list(predictor.steps())
    assert steps.count(None) >= 2  # what had been found is remembered again, step by step
    assert sorted(mask.slice for mask in steps if mask is not None) == list(range(9))


def test_encoding_ahead_goes_outwards_and_is_done_once() -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    assert list(predictor.encode_ahead())[:5] == [4, 3, 5, 2, 6]
    assert list(predictor.encode_ahead([8, 0])) == [8, 0]
    assert [call.graph for call in backend.calls].count("image_encoder") == 9
    predictor.add(BOX)
    predictor.propagate()
    assert [call.graph for call in backend.calls].count("image_encoder") == 9
    with pytest.raises(InputError, match="there is no slice 9"):
        predictor.encode_ahead([9])
    with pytest.raises(PromptError, match="no volume yet"):
        VolumePredictor(model).encode_ahead()


def test_sets_of_images_tell_the_same() -> None:
    images = FlowPredictor(fake_model(TELLING)[0])
    assert images.object_ids == () and not images.can_undo and not images.can_redo
    images.set_images([PIXELS[0], PIXELS[1, :20], PIXELS[2]])
    assert images.current().slices == {}
    box = Box(slice=1, y=(5, 15), x=(5, 20))
    images.add(box)
    assert images.prompts() == {1: (box,)} and list(images.current().slices[1]) == [1]
    complete = images.propagate()
    assert held(images.current()) == held(complete)
    assert images.current().is_complete and not images.current().is_ordered
    assert images.current().slices[1][1].shape == (20, 32)
    images.undo()
    assert images.object_ids == () and images.can_redo
    images.redo()
    assert held(images.current()) == held(complete)
    with pytest.raises(PromptError, match="no object 2"):
        images.prompts(2)


@pytest.mark.parametrize("first", [CLICK, Box(slice=6, y=(5, 20), x=(5, 20))])
@pytest.mark.parametrize("at_once", [False, True])
def test_points_correct_a_mask_or_are_answered_at_once(first: Point | Box, at_once: bool) -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(first)
    second = Point(slice=6, y=2, x=2, positive=False)
    found = predictor.add(second, at_once=at_once)
    asked = backend.calls[-1].inputs
    assert asked["point_labels"].shape[1] == (2 if isinstance(first, Point) else 3)
    assert asked["has_mask_input"].tolist() == [not at_once]
    assert predictor.prompts() == {6: (first, second)}
    alone = VolumePredictor(model)
    alone.set_volume(PIXELS)
    same = (alone.add(first, second).segmented.logits == found.segmented.logits).all()
    assert bool(same) == at_once


def test_what_was_tracked_or_given_as_a_mask_is_corrected_in_any_case() -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    predictor.add(BOX)
    predictor.propagate()
    for _ in range(2):
        predictor.add(CLICK, at_once=True)
        assert backend.calls[-1].inputs["has_mask_input"].all()
    predictor.add(Mask(slice=2, mask=np.ones((32, 32), bool)))
    predictor.add(Point(slice=2, y=3, x=3), at_once=True)
    assert backend.calls[-1].inputs["has_mask_input"].all()
