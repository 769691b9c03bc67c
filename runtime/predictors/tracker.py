"""Objects, their prompts and their chains: what volumes and image sets have in common.

A chain keeps its memory between runs, so that a run goes on where the one before stopped: after a cancel, over a
wider range, or for other objects only. Once an object's prompts change, all of its chains begin anew, since every
step reads every prompted slice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest

from runtime.backends import Buffer
from runtime.errors import InputError, PromptError
from runtime.features import Cache
from runtime.memory import MemoryBank, MemoryRules, Templates
from runtime.model import Model
from runtime.predictors.prompted import PromptedSlice, Tracked, prompt_slice
from runtime.predictors.tracked_object import Chain, Plan, TrackedObject
from runtime.prompts import Prompt, check_object_id
from runtime.result import SliceMask
from runtime.track import Row, Segmented, memorise_prompted, memorise_tracked, track_step

MAX_ROWS = 8  # larger batches cost memory and win nothing
FORWARD, BACKWARD = 1, -1


class Tracker:
    """Prompts and follows objects through numbered slices, whose order the owner plans.

    Args:
        model: runs the graphs.
        rules: of memory.
        features: encodings by slice number.
        shape_of: slice number to its (y, x) in pixels.
        num_slices: of all.
        is_ordered: False for images of a set.
    """

    def __init__(
        self,
        model: Model,
        rules: MemoryRules,
        features: Cache,
        shape_of: Callable[[int], tuple[int, int]],
        num_slices: int,
        is_ordered: bool = True,
    ) -> None:
        self._model, self._rules, self._features = model, rules, features
        self._shape_of, self._num_slices, self._is_ordered = shape_of, num_slices, is_ordered
        self._arena = model.arena()
        self._confidence = model.confidence(rules.confidence)
        self._past: list[dict[int, dict[int, PromptedSlice]]] = []
        self._run = 0
        self.objects: dict[int, TrackedObject] = {}
        self.cancelled = threading.Event()

    def add(self, prompts: Sequence[Prompt], object_id: int) -> SliceMask:
        """Prompt one object on one slice; prompts have been checked against the slices. Raises PromptError."""
        check_object_id(object_id)
        object_id, index = int(object_id), int(prompts[0].slice)
        known = self.objects.get(object_id) or TrackedObject(Templates(self._arena, self._rules))
        prompted = prompt_slice(
            self._model,
            lambda: self._features[index],
            self._shape_of(index),
            prompts,
            known.prompted.get(index),
            self._tracked(known, index),
            self._confidence,
        )
        self._remember_state()
        self.objects[object_id] = known
        known.prompted = {**known.prompted, index: prompted}
        return self._slice_mask(object_id, index, prompted.segmented)

    def undo(self) -> None:
        """Take back the last `add` or `reset`. Raises PromptError if there is none."""
        if not self._past:
            raise PromptError("nothing to undo: no prompt has been added")
        before = self._past.pop()
        for object_id in [i for i in self.objects if i not in before]:
            self.objects.pop(object_id).forget()
        for object_id, prompted in before.items():
            known = self.objects.setdefault(
                object_id, TrackedObject(Templates(self._arena, self._rules))
            )
            known.prompted = prompted

    def reset(self, object_id: int | None) -> None:
        """Forget one object, or all. Raises PromptError for one that is not there."""
        if object_id is not None and object_id not in self.objects:
            raise PromptError(f"no object {object_id}; there are: {sorted(self.objects)}")
        self._remember_state()
        for chosen in list(self.objects) if object_id is None else [object_id]:
            self.objects.pop(chosen).forget()

    def run(self, plans: Mapping[int, Plan]) -> Iterator[SliceMask]:
        """Masks of each object's prompted slices, then of what is known along its plan, then new ones as they come.

        Prompts that are added meanwhile are read from the next step on; what was found before them is found again
        in the next run.
        """
        self._run += 1
        run = self._run
        planned = {i: (self.objects[i], self.objects[i].prompted) for i in plans}
        self.cancelled.clear()
        for object_id in plans:
            if (known := self.objects.get(object_id)) is None:
                continue
            if known.is_stale or known.went_elsewhere(plans[object_id]):
                known.start_anew()
            self._memorise(known)
            for index, prompted in sorted(known.prompted.items()):
                yield self._slice_mask(object_id, index, prompted.segmented)
                self._check_latest(run)
        to_come = []
        for object_id, plan in plans.items():
            known, prompts = planned[object_id]
            if self.objects.get(object_id) is not known:
                continue  # reset, perhaps prompted anew, since the plan was made
            for direction, frames in plan.items():
                chain = known.chains.get(direction) or self._set_out(known, direction, prompts)
                done = set(chain.done)
                for index in frames:
                    if index in done and index in known.tracked:
                        yield self._slice_mask(object_id, index, known.tracked[index])
                        self._check_latest(run)
                to_come.append((object_id, chain, [f for f in frames if f not in done]))
        yield from self._follow(to_come, run)

    def _follow(self, to_come: list[tuple[int, Chain, list[int]]], run: int) -> Iterator[SliceMask]:
        active = [each for each in to_come if each[2]]
        self._features.expect(_in_turn([frames for *_, frames in active]))
        while active:
            for start in range(0, len(active), MAX_ROWS):
                if self.cancelled.is_set():
                    return
                self._check_latest(run)
                yield from self._step(active[start : start + MAX_ROWS])
            active = [each for each in active if each[2]]

    def _check_latest(self, run: int) -> None:
        if run != self._run:
            raise InputError("another run of this predictor has begun; this one is over")

    def _step(self, chains: list[tuple[int, Chain, list[int]]]) -> list[SliceMask]:
        """The next slice of each chain."""
        masks, batch = [], []
        for object_id, chain, frames in chains:
            known = self.objects.get(object_id)
            if known is None or known.chains.get(chain.bank.direction) is not chain:
                frames.clear()  # the object was reset meanwhile
                continue
            self._memorise(known)
            way = (frames[0] - min(known.prompted)) * chain.bank.direction
            if self._is_ordered and way < 0:
                frames.clear()  # its first prompt was taken back meanwhile
                continue
            frame = frames.pop(0)
            if prompted := known.prompted.get(frame):  # since this run began
                masks.append(self._slice_mask(object_id, frame, prompted.segmented))
            else:
                batch.append((object_id, known, chain, Row(chain.bank, frame)))
        if batch:
            rows = [row for *_, row in batch]
            found = track_step(self._model, self._arena, self._features, rows, self._confidence)
            for (object_id, known, chain, row), segmented in zip(batch, found, strict=True):
                known.tracked[row.frame] = segmented
                chain.done.append(row.frame)
                masks.append(self._slice_mask(object_id, row.frame, segmented))
        return masks

    def _set_out(
        self, known: TrackedObject, direction: int, planned: dict[int, PromptedSlice]
    ) -> Chain:
        if not known.chains:
            known.based_on = planned if known.memorised == planned else None
        chain = known.chains[direction] = Chain(self._bank(known, direction))
        return chain

    def _bank(self, known: TrackedObject, direction: int) -> MemoryBank:
        return MemoryBank(
            self._arena,
            known.templates,
            direction,
            self._num_slices,
            self._model.numbers,
            self._rules,
            self._is_ordered,
        )

    def _tracked(self, known: TrackedObject, index: int) -> Tracked | None:
        """What tracking found on a slice, if it came there."""
        found = known.tracked.get(index)
        if found is None:
            return None
        chain = next(chain for chain in known.chains.values() if index in chain.done)
        return Tracked(found, lambda: self._condition_again(known, chain, index))

    def _condition_again(self, known: TrackedObject, chain: Chain, index: int) -> Buffer:
        """Condition a slice on the tracked slices its step read and on all that are prompted by now.

        Memories are not kept for all slices, so these are made anew.
        """
        bank = self._bank(known, chain.bank.direction)
        try:
            in_memory = set(known.tracked[index].memory_frames)
            before = chain.done[: chain.done.index(index)]
            before = [frame for frame in before if frame not in known.memorised]
            if self._rules.row.is_recency:
                before = before[-(self._model.numbers.max_obj_ptrs - 1) :]
            else:
                before = [frame for frame in before if frame in in_memory]
            for frame in before:
                features, found = self._features[frame], known.tracked[frame]
                memory = None
                if frame in in_memory:
                    memory = memorise_tracked(self._model, features, found)
                bank.recall(frame, features.vision_features, memory, found.obj_ptr)
            own = self._features[index]
            inputs = self._arena.gather_reads([bank.read(index, own.vision_features[0])])
            return self._model.condition(attended_features=own.attended_features, **inputs)
        finally:
            bank.close()

    def _memorise(self, known: TrackedObject) -> None:
        """Bring templates up to date with prompted slices; only what has changed is encoded."""
        if known.memorised == known.prompted:
            return
        if known.chains:
            known.based_on = None
        for index in [*known.memorised]:
            if known.memorised[index] is not known.prompted.get(index):
                known.templates.drop(index)
                del known.memorised[index]
        for index, prompted in sorted(known.prompted.items()):
            if index not in known.memorised:
                features, found = self._features[index], prompted.segmented
                memory = memorise_prompted(self._model, features, found)
                scores = found.confidence, found.object_score
                known.templates.add(index, features.vision_features, memory, found.obj_ptr, *scores)
                known.memorised[index] = prompted
            for chain in known.chains.values():
                chain.bank.drop(index)

    def _remember_state(self) -> None:
        self._past.append({i: dict(known.prompted) for i, known in self.objects.items()})

    def _slice_mask(self, object_id: int, index: int, segmented: Segmented) -> SliceMask:
        return SliceMask(index, object_id, segmented, self._shape_of(index))


def _in_turn(ways: Sequence[Sequence[int]]) -> list[int]:
    """Slices in the order in which chains that advance together come to them, each once."""
    met = (frame for frames in zip_longest(*ways) for frame in frames if frame is not None)
    return list(dict.fromkeys(met))
