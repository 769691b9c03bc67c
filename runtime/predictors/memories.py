"""What an object's chains read: memories of its prompted slices, in each search region that a chain has had."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from runtime.backends import Buffer
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules
from runtime.memory.arena import Arena
from runtime.model import Model
from runtime.predictors.chain import Chain, Memorised, Prompted, SearchRegion
from runtime.predictors.encoded import Encoded
from runtime.predictors.prompted import PromptedSlice, mask_in
from runtime.predictors.tracked_object import TrackedObject
from runtime.track import Segmented, memorise_prompted, memorise_tracked


class Memories:
    """Makes memories and banks for a tracker, in one arena.

    Args:
        model: runs the graphs.
        rules: of memory.
        encoded: encodings of slices.
        shape_of: slice number to its (y, x) in pixels.
        num_slices: of all.
        is_ordered: False for images of a set.
    """

    def __init__(
        self,
        model: Model,
        rules: MemoryRules,
        encoded: Encoded,
        shape_of: Callable[[int], tuple[int, int]],
        num_slices: int,
        is_ordered: bool,
    ) -> None:
        self._model, self._rules, self._encoded = model, rules, encoded
        self._shape_of, self._num_slices, self._is_ordered = shape_of, num_slices, is_ordered
        self.arena: Arena = model.arena()

    def renew(self) -> None:
        """Begin with empty memory; what was made before is to be forgotten."""
        self.arena = self._model.arena()

    def bank(self, obj: TrackedObject, direction: int, search: SearchRegion) -> MemoryBank:
        """An empty bank for a chain in one search region."""
        return MemoryBank(
            self.arena,
            self._memorised(obj, search).conditioning,
            direction,
            self._num_slices,
            self._model.numbers,
            self._rules,
            self._is_ordered,
        )

    def memorise(self, obj: TrackedObject, search: SearchRegion, prompted: Prompted) -> None:
        """Make a region's conditioning frames those of some prompted slices; only what has changed is encoded."""
        memorised, wanted = self._memorised(obj, search), {**search.seeds, **prompted}
        for index in [*memorised.of]:
            if memorised.of[index] is not wanted.get(index):
                memorised.conditioning.drop(index)
                del memorised.of[index]
        for index, answer in sorted(wanted.items()):
            if index not in memorised.of:
                features = self._encoded(index, search.crop)
                segmented = self._seen(index, answer, search)
                memory = memorise_prompted(self._model, features, segmented)
                scores = segmented.confidence, segmented.object_score
                memorised.conditioning.add(
                    index, features.vision_features, memory, segmented.obj_ptr, *scores
                )
                memorised.of[index] = answer

    def condition_again(self, obj: TrackedObject, chain: Chain, index: int) -> Buffer:
        """Condition a slice on what its step read: the slices that were prompted by then, and tracked ones.

        Memories are not kept for all slices, so these are made anew.
        """
        step = chain.steps[index]
        search = step.search
        self.memorise(obj, search, step.prompted)
        bank = self.bank(obj, chain.direction, search)
        try:
            in_memory = set(step.segmented.memory_frames)
            before = list(takewhile(lambda frame: frame != index, chain.steps))
            before = [
                frame
                for frame in before
                if frame not in step.prompted and chain.steps[frame].search is search
            ]
            if self._rules.row.is_recency:
                before = before[-(self._model.numbers.max_obj_ptrs - 1) :]
            else:
                before = [frame for frame in before if frame in in_memory]
            for frame in before:
                features, segmented = (
                    self._encoded(frame, search.crop),
                    chain.steps[frame].segmented,
                )
                memory = None
                if frame in in_memory:
                    memory = memorise_tracked(self._model, features, segmented)
                bank.recall(frame, features.vision_features, memory, segmented.obj_ptr)
            own = self._encoded(index, search.crop)
            inputs = self.arena.gather_reads([bank.read(index, own.vision_features[0])])
            return self._model.condition(attended_features=own.attended_features, **inputs)
        finally:
            bank.close()

    def _seen(self, index: int, prompted: PromptedSlice, search: SearchRegion) -> Segmented:
        """What was found in another crop is a mask in this one."""
        if prompted.crop == search.crop:
            return prompted.segmented
        features = self._encoded(index, search.crop)
        crops = prompted.crop, search.crop
        return mask_in(self._model, features, prompted.segmented, *crops, self._shape_of(index))

    def _memorised(self, obj: TrackedObject, search: SearchRegion) -> Memorised:
        if search not in obj.memorised:
            obj.memorised[search] = Memorised(ConditioningFrames(self.arena, self._rules))
        return obj.memorised[search]
