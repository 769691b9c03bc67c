"""Small holes in a mask are filled on its low-resolution logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HOLE_AREA = 8  # pixels, build_sam.py's fill_hole_area
FILLED_LOGIT = 0.1  # sam2/utils/misc.py fill_holes_in_mask_scores
ROUNDS = 2  # of growing what is surely no hole; nearly all background is within so many pixels of a whole block

NEIGHBOURS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def fill_holes(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (h, w) with every 8-connected patch of non-positive pixels up to HOLE_AREA set to 0.1.

    Upstream does this only where its compiled extension works; here it always happens. Labelling every patch, as it
    does, takes several times as long: a patch with a block of 3 x 3 is too large to be a hole, and what is connected to
    such a block within a few pixels is nearly all there is.
    """
    background = logits <= 0
    if not background.any() or background.all():
        return logits
    open_to_all = _near_blocks(background)
    doubtful = np.argwhere(background & ~open_to_all)
    holes = doubtful[_are_holes(doubtful, open_to_all)]
    if not len(holes):
        return logits
    filled = logits.copy()
    filled[holes[:, 0], holes[:, 1]] = FILLED_LOGIT
    return filled


def _near_blocks(background: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Background that is connected with a block of 3 x 3 within a few pixels."""
    rows = background[:-2] & background[1:-1] & background[2:]
    reached = np.zeros(tuple(side + 2 for side in background.shape), bool)
    inside = reached[1:-1, 1:-1]
    inside[1:-1, 1:-1] = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    for _ in range(1 + ROUNDS):
        rows = reached[:-2] | reached[1:-1] | reached[2:]
        inside[...] = (rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]) & background
    return inside


def _are_holes(pixels: NDArray[np.int64], open_to_all: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of some pixels (n, 2) are in patches of up to HOLE_AREA, apart from those `open_to_all`.

    Each takes the lowest number around it, as often as the largest hole is long. Then a hole has one number, and no
    pixel beside it has another; what has that is a hole if it is small enough.
    """
    count = len(pixels)
    number = np.full(tuple(side + 2 for side in open_to_all.shape), count)
    number[tuple(pixels.T + 1)] = np.arange(count)
    beside = [number[tuple((pixels + 1 + step).T)] for step in NEIGHBOURS]
    around = np.array(beside).reshape(len(NEIGHBOURS), count)
    lowest = np.arange(count + 1)
    for _ in range(HOLE_AREA - 1):
        lowest[:count] = np.minimum(lowest[:count], lowest[around].min(0))
    own = lowest[:count]
    touches_other = ((around < count) & (lowest[around] != own)).any(0)
    wide = np.pad(open_to_all, 1)
    for step in NEIGHBOURS:
        touches_other |= wide[tuple((pixels + 1 + step).T)]
    areas = np.bincount(own, minlength=count)
    is_open = np.bincount(own, weights=touches_other, minlength=count) > 0
    are_holes: NDArray[np.bool_] = (areas[own] <= HOLE_AREA) & ~is_open[own]
    return are_holes
