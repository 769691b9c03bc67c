"""Thin slices: some are tracked, the others are interpolated between them.

A tracked slice costs an encoding and a step of memory; where slices lie closer than anything that is looked for,
neighbours say nearly the same. What is tracked are slices no further apart than asked for, spread evenly between those
that have to be: the prompted ones and the ends of the range. To the network they are the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.predictors.result import Result, SliceMask
from runtime.prompts.prompts import Prompt, shown

LOGIT_LIMIT = 10.0
"""Logits are clipped to it before they are mixed: an absent object's are -1024, and would end its neighbour's mask at
once rather than half-way."""


def slices_within(every_mm: float, spacing_mm: float) -> int:
    """How many slices of a spacing one step of so many millimetres covers, at least one.

    Raises InputError unless `every_mm` is a finite number above zero.
    """
    if not (math.isfinite(every_mm) and every_mm > 0):
        raise InputError(
            f"cannot track a slice every {shown(every_mm)} mm; wanted a number above zero, such as 5"
        )
    # A step of three times 1.25 mm is 3.75, whatever a product of floats says.
    return max(1, math.floor(every_mm / spacing_mm + 1e-6))


@dataclass(frozen=True, slots=True)
class SpacedSlices:
    """Which slices of a volume are tracked.

    Attributes:
        tracked: their numbers, lowest first.
    """

    tracked: tuple[int, ...]

    @classmethod
    def of(
        cls,
        z_range: tuple[int, int] | None,
        num_slices: int,
        prompted: Sequence[int],
        every: int,
    ) -> SpacedSlices:
        """Slices at most `every` apart, from end to end of a half-open range, prompted ones among them."""
        start, stop = z_range or (0, num_slices)
        fixed = sorted({start, stop - 1, *prompted})
        between = [
            round(first + (last - first) * step / steps)
            for first, last in pairwise(fixed)
            for steps in [math.ceil((last - first) / every)]
            for step in range(1, steps)
        ]
        return cls(tuple(sorted({*fixed, *between})))

    def source(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[Callable[[int], NDArray[np.uint8]], tuple[int, int, int]]:
        """How the tracked slices of a volume's pixels (z, y, x) are read, and the shape of all of them."""
        _, height, width = pixels.shape
        return lambda number: pixels[self.tracked[number]], (len(self.tracked), height, width)

    def prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Prompts of the volume as those of the tracked slices."""
        number = {index: number for number, index in enumerate(self.tracked)}
        return [replace(prompt, slice=number[prompt.slice]) for prompt in prompts]

    def slice_mask(self, mask: SliceMask) -> SliceMask:
        """A tracked slice's mask as one of the volume."""
        frames = tuple(self.tracked[frame] for frame in mask.memory_frames)
        segmented = replace(mask.segmented, memory_frames=frames)
        return replace(mask, slice=self.tracked[mask.slice], segmented=segmented)

    def filled(self, result: Result) -> Result:
        """Masks of the volume's tracked slices, and between each two neighbours those of the slices there."""
        slices = {i: dict(self._filled(masks)) for i, masks in result.slices.items()}
        return replace(result, slices=slices)

    def _filled(self, masks: Mapping[int, SliceMask]) -> Iterator[tuple[int, SliceMask]]:
        yield from masks.items()
        for first, last in pairwise(self.tracked):
            if first in masks and last in masks:
                for index in range(first + 1, last):
                    along = (index - first) / (last - first)
                    yield index, between(masks[first], masks[last], along, index)


def between(first: SliceMask, last: SliceMask, along: float, index: int) -> SliceMask:
    """The mask of a slice between two of one object, `along` from 0 to 1; scores are the nearer one's.

    Logits are mixed at the network's resolution where both were seen in one crop, else at the slice's.
    """
    nearer = first if along < 0.5 else last
    if first.crop == last.crop:
        ends, crop, smooth = (
            (first.segmented.logits, last.segmented.logits),
            first.crop,
            first.smooth,
        )
    else:
        ends, crop, smooth = (first.logits(), last.logits()), None, 0.0
    logits = mixed(*ends, along)
    segmented = replace(nearer.segmented, low_res=logits, memory_frames=(), memory_weights=())
    return replace(nearer, slice=index, segmented=segmented, crop=crop, smooth=smooth)


def mixed(
    first: NDArray[np.float32], last: NDArray[np.float32], along: float
) -> NDArray[np.float32]:
    """Logits between two."""
    first, last = (logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT) for logits in (first, last))
    return first + np.float32(along) * (last - first)
