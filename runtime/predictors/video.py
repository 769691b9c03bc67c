"""Videos: frames arrive one by one, without end; nothing of the past is kept but the memory bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Buffer
from runtime.errors import InputError, PromptError
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules
from runtime.model import Model
from runtime.predictors.image import check_image
from runtime.predictors.prompted import PromptedSlice, Tracked, check_prompts, prompt_slice
from runtime.predictors.result import SliceMask
from runtime.predictors.runs import alone
from runtime.predictors.stop import End, StopRule, reason_of
from runtime.predictors.tracker import FORWARD, MAX_ROWS
from runtime.prompts.prompts import Prompt, check_kind, check_object_id
from runtime.track import BatchRow, Segmented, memorise_prompted, track_step


@dataclass(slots=True)
class FollowedObject:
    """One object: its memory, and what is known of it on the current frame.

    Attributes:
        templates, bank: its memory.
        prompted, tracked: on the current frame.
        latest: frames that it was followed to since it was prompted last, as many as a stop rule looks at.
        end: where it ended by the rule.
    """

    conditioning: ConditioningFrames
    bank: MemoryBank
    prompted: PromptedSlice | None = None
    tracked: Tracked | None = None
    latest: list[tuple[int, Segmented]] = field(default_factory=list)
    end: End | None = None

    def come_to(self, index: int, found: Segmented, rule: StopRule | None) -> None:
        """Take note of what was found on a frame."""
        if rule is None:
            return
        self.latest = [(index, found), *self.latest][: rule.after]
        if rule.is_over(self.latest, FORWARD, prompted=[-1]):  # all of these are later
            self.end = End(FORWARD, index, reason_of([each for _, each in self.latest]))

    def begin_again(self, prompted: PromptedSlice) -> None:
        """Follow it on from a prompt."""
        self.prompted, self.latest, self.end = prompted, [], None


class VideoPredictor:
    """Follows objects through frames as they are pushed.

    Objects are prompted on the frame pushed last, at any time; a later prompt there corrects what tracking found.
    Each prompted frame stays in memory for good, everything else is bounded, whatever the length of the video.

    Example:
        video = VideoPredictor(load())
        for number, frame in enumerate(read_video("clip.mp4")):
            masks = video.push(frame)                             # object id to mask
            if number == 0:
                masks = {1: video.add(Point(y=120, x=200))}

    Args:
        model: what `load` gives.
        memory: policy and pick-up; None is SAM 2's own memory.
        stop: when an object is followed no further; None follows each until it is reset. A prompt takes one that has
            ended up again.

    Raises InputError if the rules of memory do not fit the model.
    """

    def __init__(
        self, model: Model, memory: MemoryRules | None = None, stop: StopRule | None = None
    ) -> None:
        self._model, self._stop = model, stop
        self._rules = memory or MemoryRules()
        self._rules.limits(model.numbers)
        self._confidence = model.confidence(self._rules.confidence)
        self.lock: AbstractContextManager[object] = RLock()
        self._arena = model.arena()
        self._objects: dict[int, FollowedObject] = {}
        self._frame: NDArray[np.uint8] | None = None
        self._features = model.features(lambda index: self._pixels())
        self.index = -1
        """Number of the frame pushed last, -1 before the first."""

    @alone
    def push(self, frame: NDArray[np.uint8]) -> dict[int, SliceMask]:
        """Take the next frame, uint8 (y, x) or (y, x, 3), and find every object on it that has not ended.

        Raises InputError for a frame of another kind or size than the one before; the frame is not taken then. After
        any other error it is: objects that were not found on it have nothing there to be corrected.
        """
        # The caller may write the next frame into the same buffer.
        kept = self._model.device_memory.take(frame, is_kept=True)
        check_image(kept, f"frame {self.index + 1}")
        if self._frame is not None and frame.shape != self._frame.shape:
            raise InputError(
                f"frame {self.index + 1} is {frame.shape}, those before it are {self._frame.shape}; "
                "a video of another size needs a predictor of its own"
            )
        for known in self._objects.values():
            known.prompted = known.tracked = None
        self._features.clear()
        self._frame, self.index = kept, self.index + 1
        followed = [(i, known) for i, known in self._objects.items() if known.end is None]
        masks = {}
        for start in range(0, len(followed), MAX_ROWS):
            batch = followed[start : start + MAX_ROWS]
            rows = [BatchRow(known.bank, self.index) for _, known in batch]
            with self._sound_memory():
                again = [self._condition_again(known) for _, known in batch]
                found = track_step(self._model, self._arena, self._features, rows, self._confidence)
            for (object_id, known), segmented, condition in zip(batch, found, again, strict=True):
                known.tracked = Tracked(segmented, condition)
                known.come_to(self.index, segmented, self._stop)
                masks[object_id] = self._slice_mask(object_id, segmented)
        return masks

    @alone
    def add(self, *prompts: Prompt, object_id: int = 1) -> SliceMask:
        """Prompt a new object, or correct one that is followed, on the frame pushed last.

        The prompts' `slice` is not looked at: there is only the current frame. Rules otherwise as for volumes.

        Raises PromptError if there is no frame, or the prompts do not fit it or each other.
        """
        if self._frame is None:
            raise PromptError("no frame yet; call push first")
        for prompt in prompts:
            check_kind(prompt)
        here = [replace(prompt, slice=0) for prompt in prompts]
        shape = self._frame.shape[:2]
        check_prompts(here, (1, *shape))
        check_object_id(object_id)
        object_id, features = int(object_id), self._features[self.index]
        known = self._objects.get(object_id)
        prompted = prompt_slice(
            self._model,
            lambda: features,
            shape,
            here,
            known.prompted if known else None,
            known.tracked if known else None,
            self._confidence,
        )
        found = prompted.segmented
        memory = memorise_prompted(self._model, features, found)
        scores = found.confidence, found.object_score
        with self._sound_memory():
            known = known or self._new_object()
            known.conditioning.add(
                self.index, features.vision_features, memory, found.obj_ptr, *scores
            )
            known.bank.drop(self.index)
            known.begin_again(prompted)
            self._objects[object_id] = known
        return self._slice_mask(object_id, found)

    @property
    def ends(self) -> dict[int, End]:
        """Objects that have ended by the stop rule, and where."""
        return {i: known.end for i, known in self._objects.items() if known.end is not None}

    @alone
    def reset(self, object_id: int | None = None) -> None:
        """Stop following one object, or all. Raises PromptError for one that is not followed."""
        if object_id is not None and object_id not in self._objects:
            raise PromptError(f"no object {object_id}; there are: {sorted(self._objects)}")
        for chosen in list(self._objects) if object_id is None else [object_id]:
            with self._sound_memory():
                known = self._objects.pop(chosen)
                known.bank.close()
                known.conditioning.clear()

    def _new_object(self) -> FollowedObject:
        conditioning = ConditioningFrames(self._arena, self._rules)
        bank = MemoryBank(self._arena, conditioning, FORWARD, inf, self._model.numbers, self._rules)
        return FollowedObject(conditioning, bank)

    @contextmanager
    def _sound_memory(self) -> Iterator[None]:
        """Hold what is remembered of the objects there are, and nothing else, after an error or interrupt.

        An interrupt may come anywhere: between a slot and its record too. The past cannot be computed again here.
        """
        try:
            yield
        except BaseException:
            owners = [(known.conditioning, known.bank) for known in self._objects.values()]
            both = [each for pair in owners for each in pair]
            needed = [
                counts
                for conditioning, bank in owners
                for counts in (
                    conditioning.slots_held,
                    bank.slots_needed(self._model.numbers, self._rules),
                )
            ]
            self._arena.keep_only(
                [record for each in both for record in each.memories],
                [record for each in both for record in each.pointers],
                [sum(counts[kind] for counts in needed) for kind in range(3)],
            )
            raise

    def _condition_again(self, known: FollowedObject) -> Callable[[], Buffer]:
        """What conditions the current frame once more, if a prompt asks for it; to be made before the step."""
        features = self._features[self.index]
        read = known.bank.read(self.index, features.vision_features[0])
        inputs = self._arena.gather_reads([read])
        inputs["attended_features"] = features.attended_features
        return lambda: self._model.condition(**inputs)

    def _slice_mask(self, object_id: int, segmented: Segmented) -> SliceMask:
        height, width = self._pixels().shape[:2]
        return SliceMask(self.index, object_id, segmented, (height, width))

    def _pixels(self) -> NDArray[np.uint8]:
        assert self._frame is not None
        return self._frame
