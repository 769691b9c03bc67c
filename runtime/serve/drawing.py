"""What is drawn of one object, slice by slice: each slice's mask as the bits of its tight box.

Nobody ever has to look through a volume for it: what changes is known from the boxes of the slices that change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.serve.planes import Span, Spans, in_volume, part_of, planes_of, union
from runtime.track import Segmented


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An object's mask on one slice; two are equal only if they are one.

    Attributes:
        y, x: half-open spans of its tight box, both (0, 0) where nothing is drawn.
        bits: of that box in C order, eight to a byte.
        num_pixels: that are set.
        source: what it was drawn from, to know it again.
    """

    y: Span
    x: Span
    bits: NDArray[np.uint8]
    num_pixels: int
    source: Segmented | None = None

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Drawn:
        """A mask (y, x)."""
        rows = np.flatnonzero(mask.any(1))
        if not len(rows):
            return NOTHING
        y = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(mask[slice(*y)].any(0))
        x = int(columns[0]), int(columns[-1]) + 1
        crop = mask[slice(*y), slice(*x)]
        return cls(y, x, np.packbits(crop), int(np.count_nonzero(crop)))

    @property
    def crop(self) -> NDArray[np.bool_]:
        """What lies in the tight box."""
        shape = self.y[1] - self.y[0], self.x[1] - self.x[0]
        bits = np.unpackbits(self.bits, count=shape[0] * shape[1])
        return bits.reshape(shape).view(np.bool_)

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask on a slice of a shape (y, x)."""
        mask = np.zeros(shape, bool)
        mask[slice(*self.y), slice(*self.x)] = self.crop
        return mask

    def spans(self, index: int, axis: int) -> Spans | None:
        """The tight box within the volume; None where nothing is drawn."""
        return in_volume(index, self.y, self.x, axis) if self.num_pixels else None


NOTHING = Drawn((0, 0), (0, 0), np.zeros(0, np.uint8), 0)
Slices = Mapping[int, Drawn]


def within(limit: Slices | None, index: int, mask: NDArray[np.bool_]) -> Drawn:
    """A slice's mask (y, x), cut to what a limit has there; None is no limit."""
    if limit is None:
        return Drawn.of(mask)
    return Drawn.of(mask & limit.get(index, NOTHING).mask((mask.shape[0], mask.shape[1])))


def extent(slices: Slices, axis: int) -> Spans | None:
    """The tight box about everything that is drawn."""
    boxes = (drawn.spans(index, axis) for index, drawn in slices.items())
    start: Spans | None = None
    return reduce(union, boxes, start)


def part_drawn(slices: Slices, axis: int, spans: Spans) -> NDArray[np.bool_]:
    """What is drawn within a box of the volume, as an array of its size."""
    part = np.zeros([stop - start for start, stop in spans], bool)
    planes = planes_of(part, axis)
    start, stop = spans[axis]
    (y0, y1), (x0, x1) = (span for i, span in enumerate(spans) if i != axis)
    for index in range(start, stop):
        drawn = slices.get(index, NOTHING)
        ya, yb = max(y0, drawn.y[0]), min(y1, drawn.y[1])
        xa, xb = max(x0, drawn.x[0]), min(x1, drawn.x[1])
        if ya < yb and xa < xb:
            rows = slice(ya - drawn.y[0], yb - drawn.y[0])
            columns = slice(xa - drawn.x[0], xb - drawn.x[0])
            planes[index - start, ya - y0 : yb - y0, xa - x0 : xb - x0] = drawn.crop[rows, columns]
    return part


class Canvas:
    """A buffer (z, y, x) in which one object is shown, and what is shown there.

    Args:
        buffer: bool or integers, written in place where something changes and nowhere else.
    """

    def __init__(self, buffer: NDArray[Any]) -> None:
        self.buffer = buffer
        self._shown: dict[int, Drawn] = {}
        self._axis = 0

    def show(self, slices: Slices, axis: int) -> Spans | None:
        """Show these slices, and of others what was shown before. Returns the box of what was written."""
        changed = self.clear() if axis != self._axis else None
        self._axis = axis
        for index, drawn in slices.items():
            changed = union(changed, self._write(index, drawn))
        return changed

    def show_only(self, slices: Slices, axis: int) -> Spans | None:
        """Show these slices and nothing else. Returns the box of what was written."""
        gone = {index: NOTHING for index in self._shown if index not in slices}
        if axis != self._axis:
            return self.show(slices, axis)
        return self.show({**gone, **slices}, axis)

    def clear(self) -> Spans | None:
        """Show nothing. Returns the box of what was written."""
        changed: Spans | None = None
        for index in [*self._shown]:
            changed = union(changed, self._write(index, NOTHING))
        return changed

    def wipe(self) -> None:
        """Show nothing, whatever somebody else has written to the buffer."""
        self.buffer[...] = 0
        self._shown = {}

    def _write(self, index: int, drawn: Drawn) -> Spans | None:
        before = self._shown.get(index, NOTHING)
        if before is drawn:
            return None
        boxes: Iterator[Spans | None] = iter(
            part.spans(index, self._axis) for part in (before, drawn)
        )
        old, new = boxes
        if old is not None:
            part_of(self.buffer, old)[...] = 0
        if new is not None:
            planes = planes_of(self.buffer, self._axis)
            planes[index, slice(*drawn.y), slice(*drawn.x)] = drawn.crop
        self._shown[index] = drawn
        return union(old, new)
