"""Videos: frames arrive one by one, without end; nothing of the past is kept but the memory bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import inf
from threading import RLock

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Buffer
from runtime.errors import InputError, PromptError
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules
from runtime.model import Model, check_model
from runtime.predictors.chosen import check_stop, memory_rules
from runtime.predictors.encoded import Encoded
from runtime.predictors.followed_object import FollowedObject, ObjectMemory
from runtime.predictors.image import check_image
from runtime.predictors.prompted import PromptedSlice, Tracked, check_prompts, mask_in
from runtime.predictors.region import Region
from runtime.predictors.result import SliceMask, check_smooth
from runtime.predictors.runs import alone
from runtime.predictors.stop import End, StopRule
from runtime.predictors.tracker import FORWARD, MAX_ROWS
from runtime.predictors.zoom import Zoom, check_zoom, extent_of
from runtime.predictors.zoomed import Asked, prompt_zoomed
from runtime.prompts.prompts import Prompt, check_kind, check_object_id, is_whole, shown
from runtime.track import BatchRow, Segmented, memorise_prompted, track_step


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
        zoom: side of the crop that the network is shown, in extents of the object (`runtime.predictors.zoom`); None
            shows it whole frames. With it the frames on which an object was prompted are kept, as is the last one on
            which it was surely found, for a crop that becomes wider.
        smooth: as for volumes; None is off.

    Raises InputError if the rules of memory do not fit the model, or the zoom is no number from 1, BundleError for a
    model without memory.
    """

    def __init__(
        self,
        model: Model,
        memory: MemoryRules | None = None,
        stop: StopRule | None = None,
        zoom: float | None = None,
        smooth: float | None = None,
    ) -> None:
        check_model(model)
        model.check_memory()
        self._model, self._stop = model, check_stop(stop)
        self._zoom = Zoom(check_zoom(zoom), model.numbers.image_size)
        self._smooth = check_smooth(smooth)
        self._rules = memory_rules(model, memory)
        self._confidence = model.confidence(self._rules.confidence)
        self.lock: AbstractContextManager[object] = RLock()
        self._arena = model.arena()
        self._objects: dict[int, FollowedObject] = {}
        self._frame: NDArray[np.uint8] | None = None
        self._encoded = Encoded(model, lambda index: self._read(index))
        self.index = -1
        """Number of the frame pushed last, -1 before the first."""

    @alone
    def push(self, frame: NDArray[np.uint8]) -> dict[int, SliceMask]:
        """Take the next frame, uint8 (y, x) or (y, x, 3), and find every object on it that has not ended.

        Raises InputError for a frame of another kind or size than the one before; the frame is not taken then. After
        any other error it is: objects that were not found on it have nothing there to be corrected.
        """
        # The caller may write the next frame into the same buffer.
        pixels = self._model.device_memory.take(frame, is_kept=True)
        check_image(pixels, f"frame {self.index + 1}")
        if self._frame is not None and pixels.shape != self._frame.shape:
            raise InputError(
                f"frame {self.index + 1} is {pixels.shape}, those before it are {self._frame.shape}; "
                "a video of another size needs a predictor of its own"
            )
        if self._zoom.factor is not None:  # crops are cut on the host
            pixels = self._model.device_memory.get(pixels)
        for obj in self._objects.values():
            obj.prompted = obj.tracked = None
        self._encoded.clear()
        self._frame, self.index = pixels, self.index + 1
        followed = [(i, obj) for i, obj in self._objects.items() if obj.end is None]
        masks = {}
        for start in range(0, len(followed), MAX_ROWS):
            batch = followed[start : start + MAX_ROWS]
            with self._sound_memory():
                again = [self._condition_again(obj) for _, obj in batch]
                answers = self._step([obj for _, obj in batch])
                for n, (_, obj) in enumerate(batch):
                    while self._widens(obj, answers[n]):
                        again[n] = self._condition_again(obj)
                        (answers[n],) = self._step([obj])
            for (object_id, obj), segmented, condition in zip(batch, answers, again, strict=True):
                obj.tracked = Tracked(segmented, condition, obj.crop)
                obj.come_to(self.index, self._pixels(), segmented, self._stop)
                masks[object_id] = self._slice_mask(object_id, segmented, obj.crop)
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
        check_prompts(here, (1, *self._shape))
        check_object_id(object_id)
        object_id = int(object_id)
        obj = self._objects.get(object_id)
        prompted = self._prompted(object_id, obj, here)
        with self._sound_memory():
            obj = obj or self._new_object(prompted.crop)
            if obj.crop != prompted.crop:
                self._move(obj, prompted.crop)
            self._memorise(obj.memory, self.index, prompted)
            obj.bank.drop(self.index)
            obj.begin_again(self.index, self._pixels(), prompted)
            self._objects[object_id] = obj
        return self._slice_mask(object_id, prompted.segmented, prompted.crop)

    def _prompted(
        self, object_id: int, obj: FollowedObject | None, prompts: Sequence[Prompt]
    ) -> PromptedSlice:
        """What prompts give on the current frame."""
        asked = Asked(
            self.index,
            self._shape,
            prompts,
            obj.prompted if obj else None,
            obj.tracked if obj else None,
            [obj.crop] if obj and obj.since < self.index else [],
            [other.crop for i, other in self._objects.items() if i != object_id],
        )
        return prompt_zoomed(self._model, self._encoded, self._zoom, asked, self._confidence)

    @property
    def num_encodings(self) -> int:
        """How many frames and crops of frames have been encoded, each counted once."""
        return self._encoded.numbering.num_read

    @property
    def ends(self) -> dict[int, End]:
        """Objects that have ended by the stop rule, and where."""
        return {i: obj.end for i, obj in self._objects.items() if obj.end is not None}

    @alone
    def reset(self, object_id: int | None = None) -> None:
        """Stop following one object, or all. Raises PromptError for one that is not followed."""
        if object_id is not None and (not is_whole(object_id) or object_id not in self._objects):
            raise PromptError(f"no object {shown(object_id)}; there are: {sorted(self._objects)}")
        for chosen in list(self._objects) if object_id is None else [object_id]:
            with self._sound_memory():
                obj = self._objects.pop(chosen)
                obj.bank.close()
                obj.conditioning.clear()

    def _new_object(self, crop: Region | None) -> FollowedObject:
        return FollowedObject(self._empty(crop), self.index)

    def _empty(self, crop: Region | None) -> ObjectMemory:
        conditioning = ConditioningFrames(self._arena, self._rules)
        bank = MemoryBank(self._arena, conditioning, FORWARD, inf, self._model.numbers, self._rules)
        return ObjectMemory(conditioning, bank, crop)

    def _memorise(self, memory: ObjectMemory, index: int, prompted: PromptedSlice) -> None:
        """Remember a frame that was prompted, or is read as if it were: a mask, if it was seen in another crop."""
        features, crop = self._encoded(index, memory.crop), memory.crop
        seen = prompted.segmented
        if prompted.crop != crop:
            seen = mask_in(self._model, features, seen, prompted.crop, crop, self._shape)
        memory_values = memorise_prompted(self._model, features, seen)
        scores = seen.confidence, seen.object_score
        memory.conditioning.add(
            index, features.vision_features, memory_values, seen.obj_ptr, *scores
        )

    def _move(self, obj: FollowedObject, crop: Region | None) -> None:
        """Follow an object in another crop from this frame on."""
        memory = self._empty(crop)
        for index, seed in obj.seeds.items():
            if index != self.index:
                self._memorise(memory, index, seed.prompted)
        before, obj.memory = obj.memory, memory
        before.bank.close()
        before.conditioning.clear()

    def _widens(self, obj: FollowedObject, segmented: Segmented) -> bool:
        """Whether a mask may be cut by its crop; the object has a wider one then."""
        crop = obj.crop
        if crop is None:
            return False
        extent = extent_of(segmented.unfilled, crop, self._shape)
        if extent is None or not self._zoom.is_at_edge(crop, extent, self._shape):
            return False
        self._move(obj, self._zoom.wider(crop, extent, self._shape))
        return True

    def _step(self, followed: Sequence[FollowedObject]) -> list[Segmented]:
        """Answers of objects on the current frame, from memory."""
        number = self._encoded.numbering.of
        rows = [BatchRow(obj.bank, self.index, number(self.index, obj.crop)) for obj in followed]
        cache = self._encoded.cache
        return track_step(self._model, self._arena, cache, rows, self._confidence)

    @contextmanager
    def _sound_memory(self) -> Iterator[None]:
        """Hold what is remembered of the objects there are, and nothing else, after an error or interrupt.

        An interrupt may come anywhere: between a slot and its record too. The past cannot be computed again here.
        """
        try:
            yield
        except BaseException:
            owners = [(obj.conditioning, obj.bank) for obj in self._objects.values()]
            both = [holder for pair in owners for holder in pair]
            needed = [
                counts
                for conditioning, bank in owners
                for counts in (
                    conditioning.slots_held,
                    bank.slots_needed(self._model.numbers, self._rules),
                )
            ]
            self._arena.keep_only(
                [record for holder in both for record in holder.memories],
                [record for holder in both for record in holder.pointers],
                [sum(counts[kind] for counts in needed) for kind in range(3)],
            )
            raise

    def _condition_again(self, obj: FollowedObject) -> Callable[[], Buffer]:
        """What conditions the current frame once more, if a prompt asks for it; to be made before the step."""
        features = self._encoded(self.index, obj.crop)
        read = obj.bank.read(self.index, features.vision_features[0])
        inputs = self._arena.gather_reads([read])
        inputs["attended_features"] = features.attended_features
        return lambda: self._model.condition(**inputs)

    def _slice_mask(self, object_id: int, segmented: Segmented, crop: Region | None) -> SliceMask:
        return SliceMask(self.index, object_id, segmented, self._shape, crop, smooth=self._smooth)

    @property
    def _shape(self) -> tuple[int, int]:
        height, width = self._pixels().shape[:2]
        return height, width

    def _pixels(self) -> NDArray[np.uint8]:
        assert self._frame is not None
        return self._frame

    def _read(self, index: int) -> NDArray[np.uint8]:
        """The current frame, or one that is kept for an object."""
        if index == self.index:
            return self._pixels()
        seeds = (obj.seeds for obj in self._objects.values())
        return next(frames[index].pixels for frames in seeds if index in frames)
