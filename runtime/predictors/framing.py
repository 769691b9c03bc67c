"""How an image lies in the square that a network sees, for networks that see single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.image_profiles import IMAGE_PROFILES, Profile
from runtime.bundle.contract import (
    LABEL_BOX_START,
    LABEL_BOX_STOP,
    LABEL_NEGATIVE,
    LABEL_PAD,
    LABEL_POSITIVE,
    ModelNumbers,
)
from runtime.prompts.prompts import Box, Point, PointPrompt, ends

Shape = tuple[int, int]
Corners = tuple[float, float, float, float]
"""x and y of the first and of the last pixel of a box, in the network's square."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Of an image of one shape.

    Attributes:
        name: a key of `IMAGE_PROFILES`.
        size: side of the network's square in pixels, in which points and boxes are given too.
        shape: (y, x) of the image.
    """

    name: str
    size: int
    shape: Shape

    @classmethod
    def of(cls, numbers: ModelNumbers, shape: Shape) -> Framing:
        """As a model sees an image of a shape."""
        return cls(numbers.profile, numbers.image_size, shape)

    @property
    def profile(self) -> Profile:
        """What the family does."""
        return IMAGE_PROFILES[self.name]

    def logits(self, low_res: NDArray[np.float32]) -> NDArray[np.float32]:
        """Low-resolution logits at the image's size; above zero is inside."""
        return self.profile.logits(low_res, self.size, self.shape)

    def corners(self, box: Box) -> Corners:
        """Those of a box of the image; its last pixels are the second corner, as in upstream's tight boxes."""
        (top, bottom), (left, right) = (
            ends(span, side) for span, side in zip((box.y, box.x), self.shape, strict=True)
        )
        by_y, by_x = self.profile.scale(self.shape, self.size)
        moved = left * by_x, top * by_y, right * by_x, bottom * by_y
        if not self.profile.whole_pixels:
            return moved
        x0, y0, x1, y1 = (float(int(value)) for value in moved)
        return x0, y0, x1, y1

    def point_prompt(self, points: Sequence[Point], corners: Corners | None) -> PointPrompt:
        """Points, and perhaps a box, in upstream's order. Only where there is no box does upstream pad with a point."""
        by_y, by_x = self.profile.scale(self.shape, self.size)
        xy = [(p.x * by_x, p.y * by_y) for p in points]
        labels = [LABEL_POSITIVE if p.positive else LABEL_NEGATIVE for p in points]
        if corners is None:
            xy, labels = [*xy, (0.0, 0.0)], [*labels, LABEL_PAD]
        else:
            xy, labels = [*xy, corners[:2], corners[2:]], [*labels, LABEL_BOX_START, LABEL_BOX_STOP]
        return PointPrompt(np.array([xy], np.float32), np.array([labels], np.int64))
