"""The masks of several objects at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.serve.planes import Spans


@dataclass(frozen=True, slots=True)
class ObjectMasks:
    """Objects as they were at one moment, of which each keeps what it shares with others.

    Attributes:
        shape: (z, y, x) of their volume.
        crops: by number, where each lies and its mask there.
        names: by number.
    """

    shape: tuple[int, int, int]
    crops: dict[int, tuple[Spans, NDArray[np.bool_]]]
    names: dict[int, str]

    @property
    def object_ids(self) -> Sequence[int]:
        """Numbers of the objects that have a voxel, lowest first."""
        return sorted(self.crops)

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one."""
        mask = np.zeros(self.shape, bool)
        spans, crop = self.crops[object_id]
        mask[tuple(slice(*span) for span in spans)] = crop
        return mask

    def labels(self) -> NDArray[np.uint8]:
        """Numbers (z, y, x), 0 outside; later objects lie over earlier ones."""
        labels = np.zeros(self.shape, np.uint8)
        for number in self.object_ids:
            spans, crop = self.crops[number]
            labels[tuple(slice(*span) for span in spans)][crop] = number
        return labels


def extent(mask: NDArray[np.bool_]) -> Spans | None:
    """The tight box about what is inside a mask (z, y, x), None where nothing is."""
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        if not len(inside):
            return None
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    return spans[0], spans[1], spans[2]
