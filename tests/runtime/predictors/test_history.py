"""What is taken back leaves no trace: any sequence of prompts, runs, cancels and undos, and what survives of it.

Two promises. An object is at any time as it would be in a predictor of its own that was asked for nothing but what has
survived: `undo` takes the last `add` or `reset` back, and for its object everything that followed; `redo` brings it
back. And a run that comes to its end gives what the prompted slices give by themselves, however they came about. So
each answer and each final mask is compared, bit by bit, with those of a fresh predictor that replays the survivors
alone, and the masks also with those of a predictor that has no past at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.memory import MemoryRules
from runtime.predictors import FlowPredictor, VolumePredictor
from runtime.predictors.result import SliceMask
from runtime.predictors.tracker import BACKWARD, FORWARD
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fakes import TELLING, fake_model

DEPTH, SIDE = 7, 16
PIXELS = np.broadcast_to(
    np.array([40, 200, 90, 160, 10, 120, 70], np.uint8)[:, None, None], (DEPTH, SIDE, SIDE)
)
RULES = {
    "fifo": MemoryRules(),
    "few": MemoryRules(capacity=2, pick_up="weighted"),
    "self_sorting": MemoryRules(policy="self_sorting", capacity=2, min_confidence=0.5),
    "confidence": MemoryRules(policy="confidence", pick_up="resample", max_similarity=0.9),
}
Steps = dict[int, tuple[int, ...]]
"""Direction to the slices that were tracked, in order."""


@dataclass(frozen=True)
class Add:
    """A prompt, and the logits it was answered with."""

    prompts: tuple[Prompt, ...]
    answer: np.ndarray


@dataclass(frozen=True)
class Begin:
    """A run that was begun."""

    asked: dict[str, Any]


@dataclass(frozen=True)
class Advance:
    """Where an object had come to."""

    steps: Steps


@dataclass
class Replay:
    """An object on its own in a predictor that has never known anything else."""

    predictor: Any
    stream: Iterator[SliceMask] = field(default_factory=lambda: iter(()))

    def go(self, event: Add | Begin | Advance) -> None:
        if isinstance(event, Add):
            answer = self.predictor.add(*event.prompts).segmented.logits
            np.testing.assert_array_equal(answer, event.answer)
        elif isinstance(event, Begin):
            self.stream = self.predictor.stream(**event.asked)
            next(self.stream)
        else:
            while steps_of(self.predictor, 1) != event.steps:
                next(self.stream)


def steps_of(predictor: Any, object_id: int) -> Steps:
    chains = predictor._tracker.objects[object_id].chains
    return {way: tuple(chain.steps) for way, chain in chains.items() if chain.steps}


Change = tuple[Any, ...]
"""A name and numbers that `History` makes something of, whatever there is by then."""

OBJECT = st.sampled_from([1, 1, 1, 2])
INDEX, Y = st.integers(0, DEPTH - 1), st.integers(0, SIDE - 1)
POINT = st.tuples(st.just("point"), Y, st.booleans())
BOX = st.tuples(st.just("box"), st.sampled_from([2, 6.5, 11.5]), st.booleans())
MASK = st.tuples(st.just("mask"), st.sampled_from([0, 5, 12]), st.just(False))
PROMPT = st.tuples(st.just("prompt"), OBJECT, INDEX, POINT | BOX | MASK)
CORRECT = st.tuples(st.just("correct"), INDEX, Y, st.booleans())
UNDO = st.just(("undo",))
REDO = st.just(("redo",))
RESET = st.tuples(st.just("reset"), st.integers(0, 2))
HOW = st.sampled_from(["leave", "cancel", "close", "end"])
RUN = st.tuples(st.just("run"), st.integers(0, 7), st.just(0), st.just("end"))
PART = st.tuples(st.just("run"), st.integers(0, 7), st.integers(0, 9), HOW)
GO_ON = st.tuples(st.just("go_on"), st.integers(0, 5), HOW)
CANCEL = st.just(("cancel_before_it_begins",))
LEFT = st.tuples(st.just("run"), st.just(0), st.integers(0, 5), st.just("leave"))
ONE = st.one_of(PROMPT, CORRECT, UNDO, REDO, RUN, PART, GO_ON, CANCEL, RESET).map(
    lambda one: (one,)
)
BLOCK = st.one_of(
    ONE,
    ONE,
    st.tuples(RUN, PROMPT, RUN, UNDO, CORRECT),  # what an undone run found
    st.tuples(LEFT, PROMPT | CORRECT, GO_ON),  # prompts that come during a run
    st.tuples(PART, PROMPT, RUN, UNDO),  # a run that was cut short, and one too many
    st.tuples(
        PROMPT, PART, UNDO, PART, REDO, CORRECT
    ),  # what was taken back, and what was found without it
    st.tuples(UNDO, UNDO, REDO, UNDO, REDO, REDO),
)
CHANGES = st.tuples(PROMPT, st.lists(BLOCK, min_size=1, max_size=6)).map(
    lambda drawn: [drawn[0], *(change for block in drawn[1] for change in block)]
)


def prompts_of(index: int, kind: str, at: float, more: bool) -> tuple[Prompt, ...]:
    """A point, positive if `more`; a box, with a point if `more`; or a mask."""
    if kind == "point":
        return (Point(slice=index, y=at, x=3, positive=more),)
    if kind == "box":
        box = Box(slice=index, y=(at, 12), x=(1.5, 9))
        return (box, Point(slice=index, y=2, x=3)) if more else (box,)
    return (Mask(slice=index, mask=np.arange(SIDE)[:, None] * np.ones(SIDE) < at),)


class History:
    """A predictor, the surviving events of each object, and those that undo goes back to."""

    def __init__(self, rules: MemoryRules, is_set: bool) -> None:
        self.rules, self.is_set = rules, is_set
        self.predictor = self.fresh()
        self.events: dict[int, tuple[Add | Begin | Advance, ...]] = {}
        self.past: list[dict[int, tuple[Add | Begin | Advance, ...] | None]] = []
        self.future: list[dict[int, tuple[Add | Begin | Advance, ...] | None]] = []
        self.stream: Iterator[SliceMask] = iter(())

    def fresh(self) -> Any:
        model, _ = fake_model(TELLING)
        if self.is_set:
            images = FlowPredictor(model, self.rules)
            images.set_images(list(PIXELS))
            return images
        volume = VolumePredictor(model, self.rules)
        volume.set_volume(PIXELS)
        return volume

    def asked(self, which: int) -> dict[str, Any]:
        """Arguments of a run that holds all prompts."""
        if self.is_set:
            return {"order": ("given", "similar")[which % 2]}
        prompted = [i for of in self.predictor._tracker.objects.values() for i in of.prompted]
        z_range = (0, DEPTH) if which % 4 < 2 else (min(prompted), max(prompted) + which % 2)
        ways = [(FORWARD, BACKWARD), (FORWARD,), (BACKWARD,), (FORWARD, BACKWARD)][which // 2]
        is_held = z_range[1] > max(prompted)
        return {"z_range": z_range if is_held else None, "directions": ways}

    def note(self) -> None:
        """Where every object has come to."""
        for object_id in self.events:
            self.events[object_id] += (Advance(steps_of(self.predictor, object_id)),)

    def prompt(self, object_id: int, index: int, given: tuple[str, float, bool]) -> None:
        prompts = prompts_of(index, *given)
        found = self.predictor.add(*prompts, object_id=object_id)
        self.past.append({object_id: self.events.get(object_id)})
        self.future.clear()
        event = Add(prompts, found.segmented.logits)
        self.events[object_id] = (*self.events.get(object_id, ()), event)

    def correct(self, which: int, y: int, is_positive: bool) -> None:
        """A click on a slice that tracking has been through, and that is not prompted by now."""
        tracked = [
            (object_id, index)
            for object_id, known in self.predictor._tracker.objects.items()
            for way in steps_of(self.predictor, object_id).values()
            for index in way
            if index not in known.prompted
        ]
        if tracked:
            self.prompt(*tracked[which % len(tracked)], ("point", y, is_positive))

    def undo(self) -> None:
        if self.past:
            self.predictor.undo()
            self.step(self.past, self.future)

    def redo(self) -> None:
        if self.future:
            self.predictor.redo()
            self.step(self.future, self.past)

    def step(self, one: list[Any], other: list[Any]) -> None:
        other.append({object_id: self.events.get(object_id) for object_id in one[-1]})
        for object_id, there in one.pop().items():
            if there is None:
                del self.events[object_id]
            else:
                self.events[object_id] = there

    def reset(self, chosen: int) -> None:
        if self.events:
            gone = [chosen] if chosen in self.events else list(self.events)
            self.predictor.reset(chosen if chosen in self.events else None)
            self.past.append({object_id: self.events.pop(object_id) for object_id in gone})
            self.future.clear()

    def run(self, which: int, taken: int, how: str) -> None:
        """A run that is left open, cancelled, closed or taken to its end."""
        if self.events:
            asked = self.asked(which)
            self.stream = self.predictor.stream(**asked)
            next(self.stream)
            for object_id in self.events:
                self.events[object_id] += (Begin(asked),)
            self.go_on(taken, how)

    def go_on(self, taken: int, how: str) -> None:
        """With the run that was left open, if any."""
        for _ in range(taken):
            next(self.stream, None)
        if how == "cancel":
            self.predictor.cancel()
        if how == "close" and hasattr(self.stream, "close"):
            self.stream.close()
        if how != "leave":
            for _ in self.stream:
                pass
        self.note()

    def cancel_before_it_begins(self) -> None:
        """Which ends that run and the one that was left open, and no other."""
        if self.events:
            stream = self.predictor.stream()
            self.predictor.cancel()
            assert list(stream) == []
            self.go_on(0, "end")

    def without_past(self) -> Any:
        """A predictor with the same prompted slices, which has asked for nothing yet."""
        fresh = self.fresh()
        for object_id, known in self.predictor._tracker.objects.items():
            fresh._tracker.objects[object_id] = fresh._tracker._new_object()
            fresh._tracker.objects[object_id].prompted = known.prompted
        return fresh

    def check(self) -> None:
        """Hold every answer and every final mask against a replay of what has survived."""
        if not self.events:
            assert self.predictor.num_results() == 0
            return
        found = self.predictor.propagate()
        assert found.is_complete
        alone = self.without_past().propagate()
        for object_id, events in self.events.items():
            replay = Replay(self.fresh())
            for event in events:
                replay.go(event)
            assert_same(found.slices[object_id], replay.predictor.propagate().slices[1])
            assert_same(found.slices[object_id], alone.slices[object_id])
        self.predictor.reset()
        arena = self.predictor._tracker._arena
        assert arena.memories.in_use == arena.pointers.in_use == arena.embeddings.in_use == 0


def assert_same(found: Mapping[int, SliceMask], wanted: Mapping[int, SliceMask]) -> None:
    assert sorted(found) == sorted(wanted) == list(range(DEPTH))
    for index, mask in wanted.items():
        np.testing.assert_array_equal(found[index].segmented.logits, mask.segmented.logits)
        assert found[index].memory_frames == mask.memory_frames
        assert found[index].confidence == mask.confidence


BOX_0, BOX_6 = (("prompt", 1, index, ("box", 2, False)) for index in (0, 6))
REPLACED = [BOX_0, ("run", 0, 0, "end"), ("prompt", 1, 0, ("box", 6.5, True))]
READ_DURING_A_RUN = [
    *(BOX_0, ("run", 0, 2, "leave"), BOX_6, ("go_on", 2, "leave")),
    *(("undo",), ("correct", 2, 8, True)),
]
FOUND_MEANWHILE = [
    *(BOX_0, ("run", 0, 2, "leave"), BOX_6, ("undo",), ("go_on", 9, "end")),
    *(("redo",), ("correct", 4, 8, True)),
]
READ_BY_A_RUN = [
    *(BOX_0, ("run", 0, 0, "end"), BOX_6, ("run", 0, 0, "end")),
    *(("undo",), ("correct", 4, 8, True)),
]

CASES = [(policy, False) for policy in RULES] + [("fifo", True), ("confidence", True)]


@pytest.mark.parametrize(("policy", "is_set"), CASES)
@settings(max_examples=30, deadline=None)
@example(changes=REPLACED)
@example(changes=READ_DURING_A_RUN)
@example(changes=READ_BY_A_RUN)
@example(changes=FOUND_MEANWHILE)
@given(changes=CHANGES)
def test_what_is_taken_back_leaves_no_trace(
    policy: str, is_set: bool, changes: list[Change]
) -> None:
    history = History(RULES[policy], is_set)
    for name, *numbers in changes:
        getattr(history, name)(*numbers)
    history.check()
