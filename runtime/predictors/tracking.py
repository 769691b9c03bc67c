"""What volumes and image sets are alike in: prompts that can be taken back, what is known by now, runs with an end."""

from __future__ import annotations

from typing import ClassVar

from runtime.errors import PromptError
from runtime.model import Model, check_model
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.runs import Run, Runs
from runtime.predictors.tracker import Planner, Tracker
from runtime.prompts.prompts import Prompt, is_whole, shown


class TrackingPredictor:
    """Objects of a volume's slices, or of the images of a set, as one tracker has them.

    Args:
        model: what `load` gives.

    Raises BundleError for a model without memory, InputError for what is no model.
    """

    is_ordered: ClassVar[bool] = True
    """Whether slices follow each other."""
    nothing_yet: ClassVar[str]
    """What to say to somebody who has given no slices."""

    def __init__(self, model: Model) -> None:
        check_model(model)
        model.check_memory()
        self._model = model
        self._tracker: Tracker | None = None
        self._runs = Runs()
        self._shapes: tuple[tuple[int, int], ...] = ()

    @property
    def num_encodings(self) -> int:
        """How many slices and crops of slices have been encoded since they were set, each counted once."""
        return 0 if self._tracker is None else self._tracker.num_encodings

    def undo(self) -> None:
        """Take back the last `add` or `reset`, step by step. Raises PromptError if there is none.

        Its object is as it was: its prompts, and what runs had found by then, which is kept for that and costs as much
        as another result for each `add` that was followed by a run. Nothing that is left has seen what is taken back.
        """
        self._need_tracker().history.undo()

    def redo(self) -> None:
        """Bring back what the last `undo` took, and what runs had found by then.

        Raises PromptError if there is none, or if there has been another `add` or `reset` since.
        """
        self._need_tracker().history.redo()

    @property
    def can_undo(self) -> bool:
        """Whether there is something for `undo` to take back."""
        return self._tracker is not None and bool(self._tracker.history.past)

    @property
    def can_redo(self) -> bool:
        """Whether there is something for `redo` to bring back."""
        return self._tracker is not None and bool(self._tracker.history.future)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects that there are, lowest first."""
        return () if self._tracker is None else tuple(sorted([*self._tracker.objects]))

    def prompts(self, object_id: int = 1) -> dict[int, tuple[Prompt, ...]]:
        """An object's prompts by slice, but for those that a later box or mask has replaced. Raises PromptError."""
        objects = self._need_tracker().objects
        obj = objects.get(object_id) if is_whole(object_id) else None
        if obj is None:
            raise PromptError(f"no object {shown(object_id)}; there are: {list(self.object_ids)}")
        return {index: obj.prompted[index].prompts for index in sorted(obj.prompted)}

    def current(self) -> Result:
        """What is known by now, without computing anything: also during a run, after `undo`, and after a correction.

        Slices that no run has come to are missing; where prompts have changed since a run, the others are as it found
        them, until the next one. It says that it is complete if every object has a mask on every slice.
        """
        tracker = self._need_tracker()
        with tracker.lock:
            results = {i: obj.results() for i, obj in sorted(tracker.objects.items())}
        slices = {
            i: {z: tracker.slice_mask(i, z, answer) for z, answer in masks.items()}
            for i, masks in results.items()
        }
        is_complete = bool(slices) and all(len(m) == len(self._shapes) for m in slices.values())
        return Result(self._shapes, slices, is_complete, self.is_ordered)

    def reset(self, object_id: int | None = None) -> None:
        """Forget one object, or all; slices stay encoded. Raises PromptError for an object that is not there."""
        self._need_tracker().reset(object_id)

    def cancel(self) -> None:
        """End whatever `stream` or `propagate` is under way, after the current slice.

        It may be called from any thread, and from a signal handler. A stream that was made but has not begun is under
        way too, and gives nothing then; one that is made afterwards is not touched, so that a cancel with nothing
        under way does nothing. Who runs in one thread and cancels from another should therefore make the stream where
        it may be cancelled and hand it over: before `propagate` has been entered there is nothing to cancel yet.
        """
        self._runs.cancel()

    def _collected(self, tracker: Tracker, run: Run, plan: Planner) -> Result:
        """All that a run gives."""
        shapes = self._shapes
        slices: dict[int, dict[int, SliceMask]] = {i: {} for i in [*tracker.objects]}
        for slice_mask in tracker.run(run, plan):
            if slice_mask is not None:
                slices.setdefault(slice_mask.object_id, {})[slice_mask.slice] = slice_mask
        return Result(shapes, slices, run.is_complete, self.is_ordered)

    def _need_tracker(self) -> Tracker:
        if self._tracker is None:
            raise PromptError(self.nothing_yet)
        return self._tracker
