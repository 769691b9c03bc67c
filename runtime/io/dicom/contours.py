"""Masks of slices as closed lines along the edges of their pixels, and back.

Lines along edges enclose exactly the pixels, and no centre of a pixel lies on one, so that every rule by which a reader
fills them gives the same mask. A hole is cut open to the line around it, by a channel without width that is gone along
there and back (the keyhole of PS3.3 C.8.8.6.3), since a closed planar contour knows no holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Corner = tuple[int, int]
"""(x, y) of a corner of pixels: that of indices 0, 0 towards the origin is (0, 0), half a pixel from the centre."""
Loop = list[Corner]
Way = tuple[int, int]

_RIGHT, _DOWN, _LEFT, _UP = (1, 0), (0, 1), (-1, 0), (0, -1)
_NEXT_TO_THE_RIGHT = {_RIGHT: _DOWN, _DOWN: _LEFT, _LEFT: _UP, _UP: _RIGHT}


def outlines(plane: NDArray[np.bool_]) -> list[Loop]:
    """Closed lines around what is inside a mask (y, x), as corners where they turn; the last is joined to the first.

    Pixels that touch with a corner alone are parts of their own.
    """
    loops = [*_loops(plane)]
    rings = _Rings([loop for loop in loops if _area(loop) > 0])
    # From left to right, so that what a channel meets has been joined before.
    for hole in sorted((loop for loop in loops if _area(loop) < 0), key=min):
        rings.join(hole)
    return rings.loops()


def filled(lines: Iterable[NDArray[np.floating]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (y, x) of pixels whose centres lie within an odd number of closed lines, of indices (n, 2) as (x, y)."""
    height, width = shape
    toggles = np.zeros((height, width + 1), np.uint8)
    for line in lines:
        for (x, y), (next_x, next_y) in zip(line, np.roll(line, -1, axis=0), strict=True):
            low, high = sorted((y, next_y))
            rows = np.arange(max(0, int(np.ceil(low))), min(height, int(np.ceil(high))))
            if len(rows):
                crossings = x + (rows - y) * ((next_x - x) / (next_y - y))
                toggles[rows, np.ceil(crossings).astype(int).clip(0, width)] ^= 1
    inside: NDArray[np.bool_] = np.bitwise_xor.accumulate(toggles, axis=1)[:, :width] == 1
    return inside


def _loops(plane: NDArray[np.bool_]) -> Iterable[Loop]:
    """Lines with what is inside to their right (below a line that goes right): outer ones, and those of holes."""
    padded = np.pad(plane, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (_RIGHT, padded[:-2, 1:-1], 0, 0),
        (_DOWN, padded[1:-1, 2:], 1, 0),
        (_LEFT, padded[2:, 1:-1], 1, 1),
        (_UP, padded[1:-1, :-2], 0, 1),
    )
    leaving: dict[Corner, list[Way]] = {}
    for direction, neighbour, right, down in sides:
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            leaving.setdefault((x + right, y + down), []).append(direction)
    # The first that is left is where a line turns, since nothing is left of it or above it.
    for corner in sorted(leaving):
        while corner in leaving:
            yield _followed(leaving, corner)


def _followed(leaving: dict[Corner, list[Way]], corner: Corner) -> Loop:
    """One closed line from a corner on, whose edges are taken out of those that leave each corner."""
    loop: Loop = []
    before: Way | None = None
    while not loop or corner != loop[0] or _to_right(before) in leaving.get(corner, ()):
        ways = leaving[corner]
        # Where two pixels touch with a corner two lines leave; that to the right stays with the pixel.
        way = next((way for way in ways if way == _to_right(before)), ways[0])
        ways.remove(way)
        if not ways:
            del leaving[corner]
        if way != before:
            loop.append(corner)
        before = way
        corner = corner[0] + way[0], corner[1] + way[1]
    return loop


def _to_right(way: Way | None) -> Way | None:
    return None if way is None else _NEXT_TO_THE_RIGHT[way]


def _area(loop: Loop) -> float:
    """In pixels; below 0 around a hole."""
    x, y = np.array(loop, np.int64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


class _Rings:
    """Closed lines that are cut open and joined, in time that does not grow with their length.

    Args:
        outer: lines around what is inside.
    """

    def __init__(self, outer: Iterable[Loop]) -> None:
        self._corners: list[Corner] = []
        self._next: list[int] = []
        # (x, y) to the corner from which an upright edge comes by on its way between y and y + 1.
        self._upright: dict[Corner, int] = {}
        self._starts = [self._add(loop) for loop in outer]

    def join(self, hole: Loop) -> None:
        """Cut a hole open, from its leftmost corner to the line left of it."""
        start = hole.index(min(hole))
        x, y = hole[start]
        # A hole lies within a line, which is met at the latest at the image's border.
        column = next(
            c for c in range(x, -1, -1) if (c, y) in self._upright or (c, y - 1) in self._upright
        )
        before = self._upright.get((column, y - 1), self._upright.get((column, y), -1))
        after = self._next[before]
        way = [(column, y), *hole[start:], *hole[:start], hole[start], (column, y)]
        self._next[before] = first = self._add(way)
        last = first + len(way) - 1
        self._next[last] = after
        self._mark(last)

    def loops(self) -> list[Loop]:
        """All lines."""
        return [[*self._around(start)] for start in self._starts]

    def _add(self, loop: Loop) -> int:
        first = len(self._corners)
        self._corners += loop
        self._next += [*range(first + 1, first + len(loop)), first]
        for index in range(first, first + len(loop)):
            self._mark(index)
        return first

    def _mark(self, index: int) -> None:
        """Note where the edge from a corner comes by, if it is upright."""
        (x, y), (next_x, next_y) = self._corners[index], self._corners[self._next[index]]
        if x == next_x:
            for row in range(min(y, next_y), max(y, next_y)):
                self._upright[x, row] = index

    def _around(self, start: int) -> Iterator[Corner]:
        index = start
        while True:
            yield self._corners[index]
            index = self._next[index]
            if index == start:
                return
