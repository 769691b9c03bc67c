"""What may be done to an object's mask once all of it is known: keep its largest part, fill its cavities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels.fill_cavities import fill_cavities
from kernels.fill_holes import FILLED_LOGIT
from kernels.largest_component import largest_component
from runtime.predictors.result import Result, SliceMask

Mask = NDArray[np.bool_]


CLEANINGS: dict[str, Callable[[Mask], Mask]] = {
    "largest": largest_component,
    "holes": fill_cavities,
    "both": lambda mask: fill_cavities(largest_component(mask)),
}
"""Of a mask (z, y, x): its largest component (26 neighbours), all of it with its cavities filled, of whatever size, or
the largest component with its cavities filled, and what lay within them."""


def clean(result: Result, how: str | None) -> Result:
    """A result whose objects have been cleaned, each by itself; `how` is a key of `CLEANINGS`, or None."""
    if how is None:
        return result
    slices = {}
    for object_id, masks in result.slices.items():
        wanted = CLEANINGS[how](result.mask(object_id))
        slices[object_id] = {i: shaped(mask, wanted[i]) for i, mask in masks.items()}
    return replace(result, slices=slices)


def shaped(slice_mask: SliceMask, wanted: Mask) -> SliceMask:
    """A slice's mask, at its own resolution, with the pixels (y, x) that are wanted and no others."""
    logits = slice_mask.logits()
    inside = logits > 0
    if (wanted == inside).all():
        return slice_mask
    logits = np.where(inside & ~wanted, -np.abs(logits), logits)
    logits = np.where(wanted & ~inside, FILLED_LOGIT, logits).astype(np.float32)
    return slice_mask.with_logits(logits)
