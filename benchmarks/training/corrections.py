"""Clicks where a mask is wrong, as a reader gives them: on the prompted slice, and on slices that memory segmented."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from benchmarks.phantoms.shapes import Rng

COUNTS, COUNT_SHARES = (
    (1, 2, 3, 6),
    (0.5, 0.2, 0.15, 0.15),
)  # clicks of one correction; 6: a scribble
DEEPEST_SHARE = 0.5  # of the clicks on an error; the others lie anywhere in it
AGREEING_SHARE = 0.2  # of the clicks: on what was right already


def draw_corrections(rng: Rng, logits: Tensor, truth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Clicks on errors of masks, as many for each.

    Args:
        rng: draws them.
        logits: of masks (b, h, w), positive inside.
        truth: 0 or 1, (b, S, S).
        size: of the image, S pixels a side.

    Returns coordinates (b, n, 2), model pixels (x, y), and labels (b, n).
    """
    side = logits.shape[-1]
    inside = (F.interpolate(truth[:, None], (side, side), mode="area")[:, 0] > 0.5).cpu().numpy()
    masks = (logits.detach() > 0).cpu().numpy()
    count = int(rng.choice(COUNTS, p=COUNT_SHARES))
    clicks = [_clicks(rng, mask, true, count) for mask, true in zip(masks, inside, strict=True)]
    cells = np.stack([where for where, _ in clicks])
    # A cell of the mask covers so many pixels; its middle is meant.
    scale = size / side
    coords = torch.tensor((cells + 0.5) * scale - 0.5, dtype=torch.float32, device=truth.device)
    labels = torch.tensor(np.stack([label for _, label in clicks]), device=truth.device)
    return coords, labels


def _clicks(
    rng: Rng, mask: NDArray[np.bool_], true: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells (n, 2) as (x, y), the first where the largest depth of an error is or anywhere in it, and labels."""
    wrong = mask != true
    depth = distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
    cells = []
    for number in range(count):
        where = (
            wrong if wrong.any() and rng.random() > AGREEING_SHARE * (number > 0) else mask | true
        )
        if not where.any():
            where = np.ones_like(wrong)
        flat = np.flatnonzero(where)
        at = int(flat[rng.integers(len(flat))])
        if number == 0 and wrong.any() and rng.random() < DEEPEST_SHARE:
            at = int(depth.argmax())
        cells.append(np.unravel_index(at, mask.shape)[::-1])
    chosen = np.array(cells, np.int64)
    return chosen, true[chosen[:, 1], chosen[:, 0]].astype(np.int64)
