"""Zoom: which part of a slice the network is shown, so that it sees an object large.

A network for S x S pixels squeezes a whole slice into them; a lesion of 50 pixels in a slice of 512 is 25 to a network
of 256, and 3 tokens across to its memory. A crop about the object gives it the resolution and takes away what only
looks like it.

A crop is square in millimetres where spacing is known, in pixels elsewhere, so that shapes are true to the network,
and becomes as oblong as the slice only where the slice is too narrow for it. Its side is `factor` times the larger
extent of the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.predictors.region import Region, Shape
from runtime.prompts.prompts import shown

LEAST_SHARE = 0.25  # of the network's side: a crop is enlarged to four times its own pixels at most
WIDEN = 2.0  # times as wide as the crop before, at the least
NEAR = 1 / 16  # of a crop's side: a mask that comes so near to its edge goes on in a wider one
SURE = 0.5  # confidence of a mask with which a chain goes on in a wider crop: more right than wrong
SHARED = 1.5  # times as wide as an object's own crop: another object's is taken instead up to there
ROUNDED = 1e-3  # pixels of a crop that are none: spacings in float32, such as NIfTI's, and in float64 differ by less
ROOM = 0.5  # of the margin that an object's own crop would leave: what a shared one has to leave


def check_zoom(factor: object) -> float | None:
    """A factor as a number; None is the whole slice. Raises InputError for any other than a finite one from 1."""
    if factor is None:
        return None
    if not isinstance(factor, int | float | np.integer | np.floating) or isinstance(factor, bool):
        raise InputError(
            f"zoom is {shown(factor)}; wanted a number from 1, or None for the whole slice"
        )
    if not (isfinite(factor) and factor >= 1):
        raise InputError(
            f"zoom {shown(factor)} is no finite number from 1: a crop's side in extents of the object, such as 3; "
            "None for the whole slice"
        )
    return float(factor)


@dataclass(frozen=True, slots=True)
class Zoom:
    """How crops are made. None stands for the whole slice everywhere, as it does for a slice without zoom.

    Attributes:
        factor: a crop's side in extents of the object; None never zooms.
        image_size: S of the network.
        spacing: of pixels (y, x), in any unit.
    """

    factor: float | None
    image_size: int
    spacing: tuple[float, float] = (1.0, 1.0)

    def about(self, extent: Region, shape: Shape) -> Region | None:
        """The crop about an object on a slice of a shape (y, x)."""
        if self.factor is None:
            return None
        least = LEAST_SHARE * self.image_size * min(self.spacing)
        return self._square(extent, max(self.factor * self._side(extent), least), shape)

    def wider(self, crop: Region | None, extent: Region, shape: Shape) -> Region | None:
        """A crop that holds one before it and an object that it is too tight for, and is much wider."""
        if crop is None or self.factor is None:
            return None
        side = max(WIDEN * self._side(crop), self.factor * self._side(extent))
        square = (self._square(extent, side, shape) or Region.whole(shape)).with_(crop)
        return self._square(square, self._side(square), shape)

    def fits(self, crop: Region | None, extent: Region, shape: Shape) -> bool:
        """Whether a crop that is there already serves an object as well as one of its own."""
        own = self.about(extent, shape)
        if crop is None or own is None:
            return crop is own
        room = [self.room(region, extent, shape) for region in (crop, own)]
        is_roomy = room[0] * self._side(crop) >= ROOM * room[1] * self._side(own)
        return is_roomy and self._side(crop) <= SHARED * self._side(own)

    def is_at_edge(self, crop: Region, extent: Region, shape: Shape) -> bool:
        """Whether an object comes so near to the edge of its crop that there may be more of it outside."""
        return self.room(crop, extent, shape) < NEAR

    def room(self, crop: Region, extent: Region, shape: Shape) -> float:
        """What is left between an object and the nearest edge of a crop, in sides of the crop; below zero outside.

        The slice's own edges are none: there is nothing beyond them. Infinite where no other edge is left.
        """
        room = float("inf")
        for within, held, size in zip((crop.y, crop.x), (extent.y, extent.x), shape, strict=True):
            side = within[1] - within[0]
            if within[0] > 0:
                room = min(room, (held[0] - within[0]) / side)
            if within[1] < size:
                room = min(room, (within[1] - held[1]) / side)
        return room

    def _side(self, region: Region) -> float:
        """The larger of both, in the unit of the spacing."""
        return max(n * step_mm for n, step_mm in zip(region.shape, self.spacing, strict=True))

    def _square(self, about: Region, side: float, shape: Shape) -> Region | None:
        """A square of a side (in the unit of the spacing) about a region, moved and cut to lie within the slice."""
        spans = []
        for span, step_mm, size in zip((about.y, about.x), self.spacing, shape, strict=True):
            length = ceil(min(side / step_mm, size) - ROUNDED)  # of odd spacings it may be infinite
            length = max(length, span[1] - span[0])
            start = min(max((span[0] + span[1] - length) // 2, 0), size - length)
            spans.append((start, start + length))
        square = Region(*spans)
        return None if square.shape == shape else square


def extent_of(logits: NDArray[np.float32], crop: Region | None, shape: Shape) -> Region | None:
    """What a mask takes up on its slice of a shape (y, x), from logits of its crop; None where it is empty."""
    extent = Region.of_mask(logits > 0)
    if extent is None:
        return None
    part = crop or Region.whole(shape)
    spans = []
    for span, (first, last), cells in zip(
        (extent.y, extent.x), (part.y, part.x), logits.shape, strict=True
    ):
        scale = (last - first) / cells
        spans.append((first + int(span[0] * scale), min(first + ceil(span[1] * scale), last)))
    return Region(*spans)
