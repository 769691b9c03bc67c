"""Which slices of a volume each object visits: outwards from its first prompted one, within a range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, PromptError
from runtime.predictors.chain import Plan
from runtime.predictors.tracker import BACKWARD, FORWARD, Tracker
from runtime.prompts.prompts import is_pair, is_whole, shown
from runtime.steps.features import ReadSlice

ZRange = tuple[int, int]
"""Half-open range of slices."""


def plans(tracker: Tracker, z_range: ZRange | None, directions: Sequence[int]) -> dict[int, Plan]:
    """Each object's slices to be tracked, outwards from its first prompted one.

    Raises PromptError without prompts or with one outside `z_range`, InputError for arguments that do not fit.
    """
    objects = [*tracker.objects.items()]  # others may add some meanwhile
    if not objects:
        raise PromptError("no prompt yet; call add first")
    if z_range is not None:
        check_z_range(z_range, tracker.num_slices)
    start, stop = (0, tracker.num_slices) if z_range is None else z_range
    check_directions(directions)
    by_object: dict[int, Plan] = {}
    for object_id, obj in objects:
        prompted = obj.prompted
        if outside := [index for index in prompted if not start <= index < stop]:
            raise PromptError(
                f"object {object_id} is prompted on slice {outside[0]}, outside the z-range [{start}, {stop})"
            )
        first = min(prompted)
        ways = {FORWARD: range(first + 1, stop), BACKWARD: range(first - 1, start - 1, -1)}
        by_object[object_id] = {
            direction: [frame for frame in ways[direction] if frame not in prompted]
            for direction in directions
        }
    return by_object


def check_z_range(z_range: ZRange, num_slices: int) -> None:
    """Raise InputError unless a half-open range holds a slice and lies within the volume."""
    if not is_pair(z_range) or not all(is_whole(end) for end in z_range):
        raise InputError(f"z-range {shown(z_range)} is not two whole numbers, start and stop")
    start, stop = z_range
    if not 0 <= start < stop <= num_slices:
        raise InputError(
            f"z-range [{shown(start)}, {shown(stop)}) does not fit: wanted at least one slice, within [0, {num_slices})"
        )


def check_directions(directions: Sequence[int]) -> None:
    """Raise InputError for anything but some of both directions."""
    if not isinstance(directions, Iterable):
        raise InputError(f"directions are {shown(directions)}; wanted some, such as ({FORWARD},)")
    for direction in directions:
        if not is_whole(direction) or direction not in (FORWARD, BACKWARD):
            raise InputError(f"no direction {shown(direction)}; there are: {FORWARD}, {BACKWARD}")


def check_slices(shape: tuple[int, int, int], spacing_mm: tuple[float, float]) -> None:
    """Raise InputError for a shape (z, y, x) or a spacing (y, x) that slices cannot have."""
    if len(shape) != 3 or not all(is_whole(side) and side > 0 for side in shape):
        raise InputError(f"found slices of shape {shown(shape)}; wanted (z, y, x), none below 1")
    if len(spacing_mm) != 2 or not all(isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise InputError(
            f"found a spacing of {shown(spacing_mm)} mm; wanted two numbers (y, x) above zero"
        )


def checked(read_slice: ReadSlice, shape: tuple[int, int, int]) -> ReadSlice:
    """Read slices of a volume of a shape (z, y, x); raises InputError for one of another shape or type.

    The network takes any numbers, and would make masks of intensities that went through no window.
    """

    def read(index: int) -> NDArray[np.uint8]:
        pixels = read_slice(index)
        dtype, found = getattr(pixels, "dtype", None), getattr(pixels, "shape", None)
        if not (isinstance(dtype, np.dtype) and dtype == np.uint8) or found not in (
            shape[1:],
            (*shape[1:], 3),
        ):
            kind = type(pixels).__name__ if dtype is None else f"{dtype}{tuple(found or ())}"
            raise InputError(f"slice {index} was read as {kind}; wanted uint8{shape[1:]}")
        return pixels

    return read


def slices_ahead(order: Iterable[int] | None, num_slices: int) -> list[int]:
    """Slices to be encoded ahead of need, in this order; None is outwards from the middle one.

    Raises InputError for a slice that is not there.
    """
    if order is None:
        return sorted(range(num_slices), key=lambda index: abs(index - num_slices // 2))
    wanted = [*order]
    for index in wanted:
        if not is_whole(index) or not 0 <= index < num_slices:
            raise InputError(f"there is no slice {shown(index)}: slices are 0 to {num_slices - 1}")
    return wanted


def encoded(tracker: Tracker, order: Iterable[int]) -> Iterator[int]:
    """Slices as they are encoded, each when it is asked for."""
    for index in order:
        with tracker.lock:
            tracker.embedding(index)
        yield index
