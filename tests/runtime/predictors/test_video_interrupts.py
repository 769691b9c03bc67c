"""Ctrl-C at any line of a video predictor: it goes on with what it remembers, and every slot is accounted for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.memory import ConditioningFrames, MemoryRules
from runtime.predictors.video import VideoPredictor
from runtime.prompts.prompts import Box, Point
from tests.fakes import TELLING, fake_model

FRAMES = [np.full((64, 64), 10 * i + 10, np.uint8) for i in range(10)]
BOX, CLICK = Box(slice=0, y=(10, 40), x=(10, 40)), Point(slice=0, y=20, x=20)
RULES = [MemoryRules(), MemoryRules(policy="self_sorting", pick_up="weighted")]
OWN = str(Path(runtime.__file__).parent)
MOMENTS = 30  # of each call, evenly

CALLS: dict[str, Callable[[VideoPredictor], object]] = {
    "push": lambda video: video.push(FRAMES[5]),
    "add": lambda video: video.add(CLICK, object_id=3),
    "correct": lambda video: video.add(CLICK, object_id=1),
    "prompt again": lambda video: video.add(BOX, object_id=2),
    "reset": lambda video: video.reset(1),
}


def begun(rules: MemoryRules) -> VideoPredictor:
    """Two objects, followed over four frames; the second one was prompted anew on the last of them."""
    video = VideoPredictor(fake_model(TELLING)[0], rules)
    video.push(FRAMES[0])
    video.add(BOX)
    video.add(CLICK, object_id=2)
    for frame in FRAMES[1:5]:
        video.push(frame)
    video.add(BOX, object_id=2)
    return video


class Moment:
    """Raises KeyboardInterrupt at a line of the runtime, counted from 1; 0 counts only."""

    def __init__(self, at: int) -> None:
        self._at, self.lines = at, 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                raise KeyboardInterrupt
        return self.trace

    def interrupts(self, call: Callable[[], object]) -> bool:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def check_slots(video: VideoPredictor) -> None:
    owners = [
        each for known in video._objects.values() for each in (known.conditioning, known.bank)
    ]
    memories = [record for each in owners for record in each.memories]
    pointers = [record for each in owners for record in each.pointers]
    arena = video._arena
    assert arena.memories.in_use == len({r.slot for r in memories}) == len(memories)
    assert arena.pointers.in_use == len({r.slot for r in pointers}) == len(pointers)
    assert arena.embeddings.in_use == sum(r.embedding is not None for r in memories)


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.policy)
@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_breaks_and_leaks_nothing(name: str, rules: MemoryRules) -> None:
    counted, whole = Moment(0), begun(rules)
    assert not counted.interrupts(lambda: CALLS[name](whole))
    for at in range(1, counted.lines + 1, max(counted.lines // MOMENTS, 1)):
        video = begun(rules)
        followed = set(video._objects)
        assert Moment(at).interrupts(partial(CALLS[name], video))
        for frame in FRAMES[5:]:
            assert set(video.push(frame)) <= followed | {3}
        check_slots(video)
        for object_id in (1, 2, 3):
            video.add(CLICK, object_id=object_id)
        assert set(video.push(FRAMES[0])) == {1, 2, 3}
        check_slots(video)
        video.reset()
        check_slots(video)
        assert video._arena.memories._reserved == 0


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_object_whose_memory_has_no_room_is_not_followed(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = begun(RULES[0])

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ConditioningFrames, "add", full)
        with pytest.raises(error):
            video.add(CLICK, object_id=3)
    assert set(video.push(FRAMES[5])) == {1, 2}
    check_slots(video)
