"""What a predictor knows by now, for programs with a window: masks without computing any, and prompts."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import PromptError
from runtime.predictors.result import Result
from runtime.predictors.tracker import Tracker
from runtime.prompts.prompts import Prompt, shown


def object_ids(tracker: Tracker | None) -> tuple[int, ...]:
    """The objects that there are, lowest first."""
    return () if tracker is None else tuple(sorted([*tracker.objects]))


def prompts_of(tracker: Tracker, object_id: int) -> dict[int, tuple[Prompt, ...]]:
    """An object's prompts by slice. Raises PromptError for one that is not there."""
    obj = tracker.objects.get(object_id)
    if obj is None:
        raise PromptError(f"no object {shown(object_id)}; there are: {list(object_ids(tracker))}")
    return {index: obj.prompted[index].prompts for index in sorted(obj.prompted)}


def current(tracker: Tracker, shapes: Sequence[tuple[int, int]], is_ordered: bool = True) -> Result:
    """Masks of all slices that were prompted or come to.

    Args:
        tracker: that found them.
        shapes: (y, x) of each slice.
        is_ordered: False for images of a set.
    """
    with tracker.lock:
        results = {i: obj.results() for i, obj in sorted(tracker.objects.items())}
    slices = {
        i: {z: tracker.slice_mask(i, z, answer) for z, answer in masks.items()}
        for i, masks in results.items()
    }
    is_complete = bool(slices) and all(len(masks) == len(shapes) for masks in slices.values())
    return Result(tuple(shapes), slices, is_complete, is_ordered)
