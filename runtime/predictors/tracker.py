"""Objects, their prompts and their chains: what volumes and image sets have in common.

A chain keeps its memory between runs, so that a run goes on where the one before stopped: after a cancel, over a
wider range, or for other objects only. Once an object's prompts change, all of its chains begin anew, since every
step reads every prompted slice.

Undo goes back to what there was, masks of runs included: everything that followed, on the same object, is as if it had
not been. A correction sees what was seen when its slice was found: that mask, and the memory of that step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from threading import RLock

from runtime.backends import Buffer
from runtime.errors import InputError, PromptError
from runtime.memory import ConditioningFrames, MemoryBank, MemoryRules
from runtime.model import Model
from runtime.predictors.history import History
from runtime.predictors.prompted import Tracked, prompt_slice
from runtime.predictors.result import SliceMask
from runtime.predictors.runs import Run, alone, each_alone
from runtime.predictors.tracked_object import (
    Chain,
    Plan,
    Prompted,
    TrackedObject,
    TrackedSlice,
    Way,
    in_turn,
)
from runtime.prompts.prompts import Prompt, check_object_id, is_whole, shown
from runtime.steps.features import Cache
from runtime.track import BatchRow, Segmented, memorise_prompted, memorise_tracked, track_step

Planner = Callable[[], Mapping[int, Plan]]
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
        self._shape_of, self.num_slices, self._is_ordered = shape_of, num_slices, is_ordered
        self.lock: AbstractContextManager[object] = RLock()
        self._arena = model.arena()
        self._confidence = model.confidence(rules.confidence)
        self._run: Run | None = None
        self.objects: dict[int, TrackedObject] = {}
        self.history = History(self.lock, self.objects, self._new_object)

    def embedding(self, index: int) -> Buffer:
        """What a slice looks like to the network: features (C, G, G)."""
        embedding: Buffer = self._features[index].vision_features[0]
        return embedding

    @alone
    def add(self, prompts: Sequence[Prompt], object_id: int) -> SliceMask:
        """Prompt one object on one slice; prompts have been checked against the slices. Raises PromptError."""
        check_object_id(object_id)
        object_id, index = int(object_id), int(prompts[0].slice)
        known = self.objects.get(object_id) or self._new_object()
        with self._sound_memory():
            prompted = prompt_slice(
                self._model,
                lambda: self._features[index],
                self._shape_of(index),
                prompts,
                known.prompted.get(index),
                self._tracked(known, index),
                self._confidence,
            )
        self.history.note([object_id])
        self.objects[object_id] = known
        known.prompted = {**known.prompted, index: prompted}
        return self._slice_mask(object_id, index, prompted.segmented)

    @alone
    def reset(self, object_id: int | None) -> None:
        """Forget one object, or all. Raises PromptError for one that is not there."""
        if object_id is not None and (not is_whole(object_id) or object_id not in self.objects):
            raise PromptError(f"no object {shown(object_id)}; there are: {sorted(self.objects)}")
        chosen = list(self.objects) if object_id is None else [int(object_id)]
        self.history.note(chosen)
        for i in chosen:
            self.objects.pop(i).forget()

    def run(self, run: Run, plan: Planner) -> Iterator[SliceMask | None]:
        """Masks of each object's prompted slices, then of what is known along its plan, then new ones as they come.

        Prompts that are added meanwhile are read from the next step on; what was found before them is found again
        in the next run. Once a prompt that a step has read is taken back, its object gets no more masks in this run.
        """
        return each_alone(self, self._masks(run, plan))

    def _masks(self, run: Run, plan: Planner) -> Iterator[SliceMask | None]:
        if run.is_cancelled:
            return
        plans, self._run = plan(), run
        to_come = [each for i, plan in plans.items() for each in self._set_out(i, plan, run)]
        behind = [(i, c, c.behind) for i, c, frames in to_come if not c.steps.keys() >= {*frames}]
        for _ in self._advance(behind, run):
            yield None
        if self._is_over(run):
            return
        for object_id in plans:
            known = self.objects.get(object_id)
            for index, prompted in sorted(known.prompted.items()) if known else ():
                yield self._slice_mask(object_id, index, prompted.segmented)
                if self._is_over(run):
                    return
        for object_id, chain, frames in to_come:
            steps = dict(chain.steps) if self._is_followed(object_id, chain) else {}
            for index in [frame for frame in frames if frame in steps]:
                yield self._slice_mask(object_id, index, steps[index].segmented)
                if self._is_over(run):
                    return
            frames[:] = [frame for frame in frames if frame not in steps]
        for masks in self._advance(to_come, run):
            yield from masks
        run.is_complete = not (run.has_gaps or any(frames for *_, frames in to_come))

    def _set_out(self, object_id: int, plan: Plan, run: Run) -> list[Way]:
        """An object's chains and what is planned for them."""
        known = self.objects[object_id]
        ways = known.set_out(plan, run.stop, lambda direction: self._bank(known, direction))
        return [(object_id, chain, frames) for chain, frames in ways]

    def _is_followed(self, object_id: int, chain: Chain) -> bool:
        """Whether a chain is still its object's: that was not reset, nor what the chain has read taken back."""
        known = self.objects.get(object_id)
        return known is not None and known.chains.get(chain.direction) is chain

    def _advance(self, ways: list[Way], run: Run) -> Iterator[list[SliceMask]]:
        """Steps of chains side by side, each to its last slice, or until the run is over."""
        active = [each for each in ways if each[2]]
        self._features.expect(in_turn(active))
        while active:
            for start in range(0, len(active), MAX_ROWS):
                if self._is_over(run):
                    return
                with self._sound_memory():
                    masks = self._step(active[start : start + MAX_ROWS], run)
                yield masks
            if len(going := [each for each in active if each[2]]) < len(active):
                self._features.expect(in_turn(going))  # what lies beyond an end is not needed
            active = going

    def _is_over(self, run: Run) -> bool:
        """Whether a run was cancelled. Raises InputError if another one has begun since."""
        if run.is_cancelled:
            return True
        if run is not self._run:
            raise InputError("another run of this predictor has begun; this one is over")
        return False

    def _step(self, ways: list[Way], run: Run) -> list[SliceMask]:
        """The next slice of each chain."""
        masks, batch = [], []
        for object_id, chain, frames in ways:
            if not self._is_followed(object_id, chain) or chain.bank is None:
                run.has_gaps = True
                frames.clear()
                continue
            known, frame = self.objects[object_id], frames[0]
            self._memorise(known, known.prompted)
            known.agree()
            if prompted := known.prompted.get(frame):  # since this run began
                masks.append(self._slice_mask(object_id, frame, prompted.segmented))
            else:
                batch.append((object_id, known, chain, frames, BatchRow(chain.bank, frame)))
        if batch:
            rows = [row for *_, row in batch]
            found = track_step(self._model, self._arena, self._features, rows, self._confidence)
            for (object_id, known, chain, frames, row), segmented in zip(batch, found, strict=True):
                chain.steps[row.frame] = TrackedSlice(segmented, known.prompted)
                chain.num_remembered += 1
                if chain.ends(run.stop, known.prompted):
                    frames.clear()
                masks.append(self._slice_mask(object_id, row.frame, segmented))
        for *_, frames in ways:
            del frames[:1]
        return masks

    @contextmanager
    def _sound_memory(self) -> Iterator[None]:
        """Begin with empty memory after an interrupt, which may come anywhere: between a slot and its record too.

        Errors are cleaned up where they happen, and what has been found stays in either case.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._arena = self._model.arena()
            for known in self.objects.values():
                known.conditioning, known.memorised = (
                    ConditioningFrames(self._arena, self._rules),
                    {},
                )
                for chain in known.chains.values():
                    chain.lose_memory()
            raise

    def _new_object(self) -> TrackedObject:
        return TrackedObject(ConditioningFrames(self._arena, self._rules))

    def _bank(self, known: TrackedObject, direction: int) -> MemoryBank:
        return MemoryBank(
            self._arena,
            known.conditioning,
            direction,
            self.num_slices,
            self._model.numbers,
            self._rules,
            self._is_ordered,
        )

    def _tracked(self, known: TrackedObject, index: int) -> Tracked | None:
        """What tracking found on a slice, if it came there."""
        found = known.step(index)
        if found is None:
            return None
        return Tracked(found[1].segmented, lambda: self._condition_again(known, found[0], index))

    def _condition_again(self, known: TrackedObject, chain: Chain, index: int) -> Buffer:
        """Condition a slice on what its step read: the slices that were prompted by then, and tracked ones.

        Memories are not kept for all slices, so these are made anew.
        """
        step = chain.steps[index]
        self._memorise(known, step.prompted)
        bank = self._bank(known, chain.direction)
        try:
            in_memory = set(step.segmented.memory_frames)
            before = list(takewhile(lambda frame: frame != index, chain.steps))
            before = [frame for frame in before if frame not in step.prompted]
            if self._rules.row.is_recency:
                before = before[-(self._model.numbers.max_obj_ptrs - 1) :]
            else:
                before = [frame for frame in before if frame in in_memory]
            for frame in before:
                features, found = self._features[frame], chain.steps[frame].segmented
                memory = None
                if frame in in_memory:
                    memory = memorise_tracked(self._model, features, found)
                bank.recall(frame, features.vision_features, memory, found.obj_ptr)
            own = self._features[index]
            inputs = self._arena.gather_reads([bank.read(index, own.vision_features[0])])
            return self._model.condition(attended_features=own.attended_features, **inputs)
        finally:
            bank.close()

    def _memorise(self, known: TrackedObject, wanted: Prompted) -> None:
        """Make conditioning frames those of some prompted slices; only what has changed is encoded."""
        for index in [*known.memorised]:
            if known.memorised[index] is not wanted.get(index):
                known.conditioning.drop(index)
                del known.memorised[index]
        for index, prompted in sorted(wanted.items()):
            if index not in known.memorised:
                features, found = self._features[index], prompted.segmented
                memory = memorise_prompted(self._model, features, found)
                scores = found.confidence, found.object_score
                known.conditioning.add(
                    index, features.vision_features, memory, found.obj_ptr, *scores
                )
                known.memorised[index] = prompted

    def _slice_mask(self, object_id: int, index: int, segmented: Segmented) -> SliceMask:
        return SliceMask(index, object_id, segmented, self._shape_of(index))
