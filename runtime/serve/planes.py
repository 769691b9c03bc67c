"""Points and boxes as viewers send them, in voxels of a volume along its three axes, and the planes they lie in.

Viewers send floats, boxes that pass the edge by one, and planes as boxes that are one voxel thin. Here they become
whole numbers first, and lie within the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf, isfinite
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PromptError
from runtime.prompts.prompts import shown

Position = tuple[int, int, int]
Span = tuple[int, int]
Spans = tuple[Span, Span, Span]
"""A half-open box within a volume, along its axes 0, 1 and 2; at least one voxel wide."""
Box3 = list[list[int]]
"""The same as viewers take it: [[k0, k1], [j0, j1], [i0, i1]]."""

N = TypeVar("N", int, float)

FARTHEST = 2**40  # voxels: what is farther away than any volume reaches is as far as this


def position_of(coordinates: object, shape: Position) -> Position:
    """A click, rounded to whole voxels. Raises PromptError for one that is not three numbers, or lies outside."""
    values = _three(coordinates, "a point", "three numbers (k, j, i)")
    k, j, i = (whole(value, "a point's coordinate") for value in values)
    for name, value, size in zip("kji", (k, j, i), shape, strict=True):
        if not 0 <= value < size:
            raise PromptError(
                f"point {name} = {value} is outside the image: 0 to {size - 1}; nothing was changed"
            )
    return k, j, i


def spans_of(bbox: object, shape: Position) -> Spans:
    """A box, rounded first, then moved to the volume's edges where it passes them; it keeps at least one voxel.

    Raises PromptError for what is not three pairs of numbers.
    """
    pairs = _three(bbox, "a box", "three pairs [[k0, k1], [j0, j1], [i0, i1]]")
    k, j, i = (_span(pair, size) for pair, size in zip(pairs, shape, strict=True))
    return k, j, i


def whole(value: object, what: str) -> int:
    """A number rounded to a whole one, halves upwards. Raises PromptError for anything but a finite number."""
    if not isinstance(value, Real | np.bool_) or isinstance(value, bool | np.bool_):
        raise PromptError(f"{what} is {shown(value)}; wanted a number")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond any float
        number = inf
    if not isfinite(number):
        raise PromptError(f"{what} is {shown(value)}; wanted a finite number")
    return floor(min(max(number, -FARTHEST), FARTHEST) + 0.5)


def thin_axis(spans: Spans, preferred: int | None) -> int | None:
    """The axis along which a box is one voxel thin, the preferred one if it is, else the lowest; None if none is."""
    thin = [axis for axis, (start, stop) in enumerate(spans) if stop - start == 1]
    if preferred in thin:
        return preferred
    return thin[0] if thin else None


def in_plane(position: Sequence[N], axis: int) -> tuple[N, N, N]:
    """A position, or other numbers by axis, as (slice, y, x) of the planes across an axis."""
    y, x = (value for i, value in enumerate(position) if i != axis)
    return position[axis], y, x


def in_volume(index: int, y: Span, x: Span, axis: int) -> Spans:
    """A part of one plane across an axis as a box of the volume."""
    spans = [y, x]
    spans.insert(axis, (index, index + 1))
    return spans[0], spans[1], spans[2]


def whole_plane(shape: Position, across: int, index: int) -> Spans:
    """A plane across an axis, as a box one voxel thin."""
    k, j, i = ((index, index + 1) if axis == across else (0, n) for axis, n in enumerate(shape))
    return k, j, i


def position_in(spans: Spans, axis: int, index: int, y: int, x: int) -> Position:
    """A voxel of the volume from its plane and pixel within a box."""
    inside = [y, x]
    inside.insert(axis, index)
    k, j, i = (span[0] + int(at) for span, at in zip(spans, inside, strict=True))
    return k, j, i


def planes_of(volume: NDArray[Any], axis: int) -> NDArray[Any]:
    """A view of a volume as planes across an axis: (plane, y, x), the other axes in their order."""
    return np.moveaxis(volume, axis, 0)


def plane_shape(shape: Position, axis: int) -> tuple[int, int]:
    """(y, x) of the planes across an axis."""
    y, x = (n for i, n in enumerate(shape) if i != axis)
    return y, x


def part_of(volume: NDArray[Any], spans: Spans) -> NDArray[Any]:
    """What lies in a box, as a view."""
    return volume[tuple(slice(*span) for span in spans)]


def union(one: Spans | None, other: Spans | None) -> Spans | None:
    """The tight box about two; None is an empty one."""
    if one is None or other is None:
        return one or other
    k, j, i = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return k, j, i


def as_lists(spans: Spans | None) -> Box3 | None:
    """A box as viewers take it."""
    return None if spans is None else [[int(start), int(stop)] for start, stop in spans]


def _three(values: object, what: str, wanted: str) -> list[Any]:
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != 3:
        raise PromptError(f"{what} is {shown(values)}; wanted {wanted}")
    return list(values)


def _span(pair: object, size: int) -> Span:
    if not isinstance(pair, list | tuple | np.ndarray) or len(pair) != 2:
        raise PromptError(f"a box's side is {shown(pair)}; wanted two numbers, start and stop")
    start, stop = sorted(whole(value, "a box's side") for value in pair)
    start = min(max(start, 0), size - 1)
    return start, min(max(stop, start + 1), size)
