"""Whatever ends a step in its middle leaves a predictor that gives what it would have given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.memory import MemoryBank, MemoryRules
from runtime.memory.arena import Arena
from runtime.predictors import VideoPredictor, VolumePredictor
from runtime.predictors.result import Result
from runtime.prompts.prompts import Box, Point
from tests.fakes import TELLING, Inputs, fake_model

DEPTH, SIDE = 8, 16
GREYS = np.random.default_rng(5).integers(0, 255, DEPTH, np.uint8)
PIXELS = np.broadcast_to(GREYS[:, None, None], (DEPTH, SIDE, SIDE))
RULES = [MemoryRules(), MemoryRules(policy="self_sorting", min_confidence=0.0, pick_up="weighted")]
BOX = Box(slice=3, y=(2, 12), x=(2, 12))
CLICK = Point(slice=5, y=6, x=8)


class Tripwire:
    """Raises on one call of many."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        self.error, self.left = error, at

    def step_on(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def make(rules: MemoryRules, wire: Tripwire, graph: str) -> VolumePredictor:
    def answer(inputs: Inputs) -> Inputs:
        wire.step_on()
        return TELLING[graph](inputs)

    predictor = VolumePredictor(fake_model({**TELLING, graph: answer})[0], rules)
    predictor.set_volume(PIXELS)
    return predictor


def session(predictor: VolumePredictor, attempt: Callable[[Callable[[], Any]], Any]) -> Result:
    """Two objects, a run, a correction, another run; each call is attempted."""
    attempt(lambda: predictor.add(BOX))
    attempt(lambda: predictor.add(BOX, object_id=2))
    attempt(predictor.propagate)
    attempt(lambda: predictor.add(CLICK))
    result: Result = attempt(predictor.propagate)
    return result


def assert_same(found: Result, wanted: Result) -> None:
    for object_id, masks in wanted.slices.items():
        for index, mask in masks.items():
            got = found.slices[object_id][index]
            np.testing.assert_array_equal(got.segmented.logits, mask.segmented.logits)
            assert got.memory_frames == mask.memory_frames


def check(predictor: VolumePredictor, wire: Tripwire, rules: MemoryRules) -> None:
    """Each call that fails is made once more, and the end is as if none had failed."""
    failed = []

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except wire.error:
            failed.append(1)
            return call()

    found = session(predictor, attempt)
    assert failed
    never = Tripwire(KeyboardInterrupt, 0)
    assert_same(found, session(make(rules, never, "image_encoder"), lambda call: call()))
    predictor.reset()
    arena = predictor._tracker._arena
    assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
@pytest.mark.parametrize("graph", TELLING)
def test_a_graph_that_ends_in_its_middle(
    graph: str, rules: MemoryRules, error: type[BaseException]
) -> None:
    for at in (1, 2, 3, 5, 6):
        wire = Tripwire(error, at)
        check(make(rules, wire, graph), wire, rules)


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
@pytest.mark.parametrize("owner, name", [(MemoryBank, "keep"), (MemoryBank, "take_targets")])
@pytest.mark.parametrize("is_after", [False, True])
def test_an_interrupt_between_a_slot_and_its_record(
    owner: type, name: str, is_after: bool, rules: MemoryRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(owner, name)
    for at in (1, 2, 5, 7):
        wire = Tripwire(KeyboardInterrupt, at)

        def watched(*args: Any, wire: Tripwire = wire, **kwargs: Any) -> Any:
            if not is_after:
                wire.step_on()
            made = original(*args, **kwargs)
            if is_after:
                wire.step_on()
            return made

        monkeypatch.setattr(owner, name, watched)
        check(make(rules, Tripwire(KeyboardInterrupt, 0), "image_encoder"), wire, rules)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_memory_that_cannot_be_written_is_given_back(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Arena.store_one
    for at in (1, 2, 3, 4):
        wire = Tripwire(error, at)

        def watched(*args: Any, wire: Tripwire = wire) -> None:
            wire.step_on()
            original(*args)

        monkeypatch.setattr(Arena, "store_one", watched)
        check(make(RULES[0], Tripwire(error, 0), "image_encoder"), wire, RULES[0])


def test_a_frame_that_fails_leaves_nothing_of_the_frame_before_to_be_corrected() -> None:
    wire = Tripwire(MemoryError, 3)

    def answer(inputs: Inputs) -> Inputs:
        wire.step_on()
        return TELLING["memory_attention"](inputs)

    model, backend = fake_model({**TELLING, "memory_attention": answer})
    video = VideoPredictor(model)
    video.push(PIXELS[0])
    video.add(BOX)
    video.push(PIXELS[1])
    video.add(CLICK)
    with pytest.raises(MemoryError):
        video.push(PIXELS[2])
    video.add(CLICK)
    decoded = [call.inputs for call in backend.calls if call.graph == "mask_decoder"][-1]
    np.testing.assert_array_equal(decoded["point_labels"], [[1]])
    assert not decoded["has_mask_input"].any()
    assert video.push(PIXELS[3])[1].memory_frames == (0, 1, 2)
