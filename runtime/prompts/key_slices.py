"""The few slices of a mask that stand for all of it where it is given as prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_SLICES = 8  # of a mask that is given as prompts
# An end of a mask stands for it only if it is that large, against the largest slice. With the embedded model on nine
# objects of phantoms, 8 slices of a true mask gave a mean Dice of .79 with its very ends among them, and .95, .96 and
# .97 with this share at 0.1, 0.25 and 0.5: a few pixels as a prompt teach the network that the object has ended.
LEAST_END = 0.25


def key_slices(areas: Sequence[int] | NDArray[np.integer], count: int = MAX_SLICES) -> list[int]:
    """Which slices stand for a mask, lowest first: its largest, both ends, then those farthest from the ones chosen.

    Ends are the outermost slices that are not much smaller than the largest.

    Args:
        areas: of the mask on each slice, in pixels.
        count: how many at the most.
    """
    sizes = np.asarray(areas)
    held = np.flatnonzero(sizes >= max(1, LEAST_END * sizes.max(initial=0)))
    if not len(held):
        return []
    largest = int(sizes.argmax())
    chosen = list(dict.fromkeys([largest, int(held[0]), int(held[-1])]))[:count]
    while len(chosen) < min(count, len(held)):
        distance = np.abs(held[:, None] - np.array(chosen)).min(1)
        chosen.append(int(held[distance.argmax()]))
    return sorted(chosen)
