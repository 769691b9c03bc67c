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
from functools import partial
from threading import RLock

from runtime.backends import Buffer
from runtime.errors import InputError, PromptError
from runtime.memory import MemoryRules
from runtime.memory.arena import Arena
from runtime.model import Model
from runtime.predictors.chain import Chain, Plan, SearchRegion, TrackedSlice, Way
from runtime.predictors.encoded import Encoded
from runtime.predictors.history import History
from runtime.predictors.memories import Memories
from runtime.predictors.prompted import PromptedSlice, Tracked
from runtime.predictors.region import Region
from runtime.predictors.result import SliceMask
from runtime.predictors.runs import Run, alone, each_alone
from runtime.predictors.search import Search
from runtime.predictors.tracked_object import TrackedObject, crops_of, in_turn
from runtime.predictors.zoom import Zoom
from runtime.predictors.zoomed import Asked, prompt_zoomed
from runtime.prompts.prompts import Prompt, check_object_id, is_whole, shown

Planner = Callable[[], Mapping[int, Plan]]
MAX_ROWS = 8  # larger batches cost memory and win nothing
FORWARD, BACKWARD = 1, -1


class Tracker:
    """Prompts and follows objects through numbered slices, whose order the owner plans.

    Args:
        model: runs the graphs.
        rules: of memory.
        encoded: encodings of slices.
        zoom: what is seen of them.
        shape_of: slice number to its (y, x) in pixels.
        num_slices: of all.
        is_ordered: False for images of a set.
        smooth: sigma of the Gaussian over logits of masks; 0 is none.
    """

    def __init__(
        self,
        model: Model,
        rules: MemoryRules,
        encoded: Encoded,
        zoom: Zoom,
        shape_of: Callable[[int], tuple[int, int]],
        num_slices: int,
        is_ordered: bool = True,
        smooth: float = 0.0,
    ) -> None:
        self._model, self._encoded, self._features = model, encoded, encoded.cache
        self._shape_of, self.num_slices, self._is_ordered = shape_of, num_slices, is_ordered
        self._zoom, self._smooth = zoom, smooth
        self.lock: AbstractContextManager[object] = RLock()
        self._memories = Memories(model, rules, encoded, shape_of, num_slices, is_ordered)
        self._confidence = model.confidence(rules.confidence)
        self._search = Search(model, self._memories, encoded, zoom, shape_of, self._confidence)
        self._run: Run | None = None
        self.objects: dict[int, TrackedObject] = {}
        # No method: a tracker that holds itself would keep its memory until a garbage collection.
        self._new_object = partial(TrackedObject, is_ordered)
        self.history = History(self.lock, self.objects, self._new_object)

    @property
    def _arena(self) -> Arena:
        return self._memories.arena

    @property
    def num_encodings(self) -> int:
        """How many slices and crops have been encoded, each counted once."""
        return self._encoded.numbering.num_read

    def embedding(self, index: int) -> Buffer:
        """What a slice looks like to the network: features (C, G, G)."""
        embedding: Buffer = self._features[index].vision_features[0]
        return embedding

    @alone
    def add(self, prompts: Sequence[Prompt], object_id: int, at_once: bool = False) -> SliceMask:
        """Prompt one object on one slice; prompts have been checked against the slices. Raises PromptError."""
        check_object_id(object_id)
        object_id, index = int(object_id), int(prompts[0].slice)
        obj = self.objects.get(object_id) or self._new_object()
        with self._sound_memory():
            asked = self._asked(obj, object_id, index, prompts)
            asked = asked.at_once() if at_once else asked
            prompted = prompt_zoomed(
                self._model, self._encoded, self._zoom, asked, self._confidence
            )
        self.history.note([object_id])
        self.objects[object_id] = obj
        obj.prompted = {**obj.prompted, index: prompted}
        return self.slice_mask(object_id, index, prompted)

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
        to_come = [way for i, plan in plans.items() for way in self._set_out(i, plan, run)]
        behind = [(i, c, c.behind) for i, c, frames in to_come if not c.steps.keys() >= {*frames}]
        for _ in self._advance(behind, run):
            yield None
        if self._is_over(run):
            return
        for object_id in plans:
            obj = self.objects.get(object_id)
            for index, prompted in sorted(obj.prompted.items()) if obj else ():
                yield self.slice_mask(object_id, index, prompted)
                if self._is_over(run):
                    return
        for object_id, chain, frames in to_come:
            steps = dict(chain.steps) if self._is_followed(object_id, chain) else {}
            for index in [frame for frame in frames if frame in steps]:
                yield self.slice_mask(object_id, index, steps[index])
                if self._is_over(run):
                    return
            frames[:] = [frame for frame in frames if frame not in steps]
        for masks in self._advance(to_come, run):
            yield from masks
        run.is_complete = not (run.has_gaps or any(frames for *_, frames in to_come))

    def _set_out(self, object_id: int, plan: Plan, run: Run) -> list[Way]:
        """An object's chains and what is planned for them."""
        obj = self.objects[object_id]
        ways = obj.set_out(plan, run.stop, partial(self._memories.bank, obj))
        return [(object_id, chain, frames) for chain, frames in ways]

    def _is_followed(self, object_id: int, chain: Chain) -> bool:
        """Whether a chain is still its object's: that was not reset, nor what the chain has read taken back."""
        obj = self.objects.get(object_id)
        return obj is not None and obj.chains.get(chain.direction) is chain

    def _advance(self, ways: list[Way], run: Run) -> Iterator[list[SliceMask]]:
        """Steps of chains side by side, each to its last slice, or until the run is over."""
        active = [way for way in ways if way[2]]
        expected = self._expect(active)
        while active:
            for start in range(0, len(active), MAX_ROWS):
                if self._is_over(run):
                    return
                with self._sound_memory():
                    masks = self._step(active[start : start + MAX_ROWS], run)
                yield masks
            active = [way for way in active if way[2]]
            if [chain.search for _, chain, _ in active] != expected:
                expected = self._expect(active)  # what lies beyond an end is not needed

    def _expect(self, ways: list[Way]) -> list[SearchRegion]:
        """Say which encodings these chains will ask for, by where each searches."""
        number = self._encoded.numbering.of
        self._features.expect(
            in_turn([[number(i, chain.search.crop) for i in frames] for _, chain, frames in ways])
        )
        return [chain.search for _, chain, _ in ways]

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
            obj, frame = self.objects[object_id], frames[0]
            self._memories.memorise(obj, chain.search, obj.prompted)
            obj.agree()
            if prompted := obj.prompted.get(frame):  # since this run began
                masks.append(self.slice_mask(object_id, frame, prompted))
            else:
                batch.append((object_id, obj, chain, frames, frame))
        if batch:
            answers = self._search.segment([(obj, chain, z) for _, obj, chain, _, z in batch])
            for (object_id, obj, chain, frames, frame), segmented in zip(
                batch, answers, strict=True
            ):
                chain.steps[frame] = step = TrackedSlice(segmented, obj.prompted, chain.search)
                chain.num_remembered += 1
                if chain.ends(run.stop, obj.prompted):
                    frames.clear()
                masks.append(self.slice_mask(object_id, frame, step))
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
            self._memories.renew()
            for obj in self.objects.values():
                obj.memorised = {}
                for chain in obj.chains.values():
                    chain.lose_memory()
            raise

    def _asked(
        self, obj: TrackedObject, object_id: int, index: int, prompts: Sequence[Prompt]
    ) -> Asked:
        """Prompts, and what is known of their object by now."""
        others = {i: p for i, p in obj.prompted.items() if i != index}
        return Asked(
            index,
            self._shape_of(index),
            prompts,
            obj.prompted.get(index),
            self._tracked(obj, index),
            crops_of(others) if self._is_ordered else (),
            self._crops_beside(object_id, index),
        )

    def _crops_beside(self, object_id: int, index: int) -> list[Region | None]:
        """In which other objects are seen on a slice."""
        others = [obj for i, obj in self.objects.items() if i != object_id]
        if self._is_ordered:
            return [obj.crop for obj in others]
        return [obj.prompted[index].crop for obj in others if index in obj.prompted]

    def _tracked(self, obj: TrackedObject, index: int) -> Tracked | None:
        """What tracking found on a slice, if it came there."""
        chain_step = obj.step(index)
        if chain_step is None:
            return None
        chain, step = chain_step
        again = self._memories.condition_again
        return Tracked(step.segmented, lambda: again(obj, chain, index), step.search.crop)

    def slice_mask(
        self, object_id: int, index: int, answer: PromptedSlice | TrackedSlice
    ) -> SliceMask:
        """What is handed out of an answer."""
        shape = self._shape_of(index)
        return SliceMask(
            index, object_id, answer.segmented, shape, answer.crop, smooth=self._smooth
        )
