"""A part of a slice in whole pixels: what an object takes up, and what the network is shown of a slice.

It is called a crop where it is shown, since a window is what intensities go through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil, floor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.bundle.contract import NO_OBJ_SCORE
from runtime.prompts.prompts import Box, Mask, Point, Prompt

Shape = tuple[int, int]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Region:
    """Half-open spans of pixels along y and x, neither of them empty."""

    y: tuple[int, int]
    x: tuple[int, int]

    @classmethod
    def whole(cls, shape: Shape) -> Region:
        """All of a slice of a shape (y, x)."""
        return cls((0, shape[0]), (0, shape[1]))

    @classmethod
    def of_mask(cls, mask: NDArray[np.generic]) -> Region | None:
        """The tight one about what is set in a mask (y, x), or None where nothing is."""
        spans = []
        for axis in (1, 0):
            held = np.flatnonzero(np.any(mask, axis))
            if not len(held):
                return None
            spans.append((int(held[0]), int(held[-1]) + 1))
        return cls(*spans)

    @classmethod
    def of_prompts(cls, prompts: Sequence[Prompt]) -> Region | None:
        """The tight one about prompts of one slice, or None for an empty mask."""
        region: Region | None = None
        for prompt in prompts:
            one = _of_prompt(prompt)
            region = one if region is None else region if one is None else region.with_(one)
        return region

    @property
    def shape(self) -> Shape:
        """(y, x) in pixels."""
        return self.y[1] - self.y[0], self.x[1] - self.x[0]

    def holds(self, other: Region) -> bool:
        """Whether another one lies within this one."""
        return all(a[0] <= b[0] and b[1] <= a[1] for a, b in ((self.y, other.y), (self.x, other.x)))

    def with_(self, other: Region) -> Region:
        """The tight one about both."""
        spans = ((self.y, other.y), (self.x, other.x))
        return Region(*((min(a[0], b[0]), max(a[1], b[1])) for a, b in spans))

    def of(self, pixels: NDArray[Number]) -> NDArray[Number]:
        """This part of a slice (y, x) or (y, x, 3); a view."""
        return pixels[self.y[0] : self.y[1], self.x[0] : self.x[1]]

    def moved(self, prompts: Sequence[Point | Box]) -> list[Point | Box]:
        """Prompts as they lie in this part."""
        y, x = self.y[0], self.x[0]
        moved: list[Point | Box] = []
        for p in prompts:
            if isinstance(p, Point):
                moved.append(replace(p, y=p.y - y, x=p.x - x))
            else:
                moved.append(replace(p, y=(p.y[0] - y, p.y[1] - y), x=(p.x[0] - x, p.x[1] - x)))
        return moved

    def put_back(
        self, logits: NDArray[np.float32], shape: Shape, outside: float = NO_OBJ_SCORE
    ) -> NDArray[np.float32]:
        """Logits of this part, at any resolution, on a slice of a shape (y, x), as if nothing were outside."""
        whole = np.full(shape, outside, np.float32)
        whole[slice(*self.y), slice(*self.x)] = resize(logits, self.shape)
        return whole


def widest(crops: Sequence[Region | None]) -> Region | None:
    """The crop that holds all of them; None, the whole slice, among them is the widest."""
    regions = [crop for crop in crops if crop is not None]
    return reduce(Region.with_, regions) if regions and len(regions) == len(crops) else None


def _of_prompt(prompt: Prompt) -> Region | None:
    if isinstance(prompt, Mask):
        return Region.of_mask(prompt.mask)
    if isinstance(prompt, Point):
        y, x = floor(prompt.y), floor(prompt.x)
        return Region((y, y + 1), (x, x + 1))
    # A box of less than a pixel still takes up one.
    return Region(*((floor(s), max(ceil(e), floor(s) + 1)) for s, e in (prompt.y, prompt.x)))
