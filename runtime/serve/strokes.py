"""Scribbles as what the network takes: points on their middle lines, far apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask2 = NDArray[np.bool_]
MAX_POINTS = 16  # of one scribble: more say nothing new to the network, which sees 64 x 64 tokens at the most
NEAREST = 2.0  # pixels: points of one stroke that are nearer say the same


def skeleton(mask: Mask2) -> NDArray[np.intp]:
    """Pixels (n, 2) on the ridges of a mask (y, x): as far from its edge as all eight neighbours, or farther."""
    if not mask.any():
        return np.zeros((0, 2), np.intp)
    y, x = ((at[0], at[-1] + 1) for at in map(np.flatnonzero, (mask.any(1), mask.any(0))))
    mask = mask[slice(*y), slice(*x)]
    depth = depths(mask)
    around = np.pad(depth, 1)
    rows = np.maximum(np.maximum(around[:-2], around[1:-1]), around[2:])
    beside = np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    corner = np.array([y[0], x[0]], np.intp)
    return np.asarray(np.argwhere(mask & (depth >= beside)) + corner, np.intp)


def depths(mask: Mask2) -> NDArray[np.int32]:
    """How many steps to a neighbour lead out of a mask (y, x) at the least: 0 outside, 1 at its edge."""
    steps = _steps_along(np.pad(mask, 1), axis=1)
    rows = np.arange(len(steps), dtype=np.int32)[:, None]
    down = np.minimum.accumulate(steps - rows, 0) + rows
    up = np.minimum.accumulate((steps + rows)[::-1], 0)[::-1] - rows
    return np.asarray(np.minimum(down, up)[1:-1, 1:-1], np.int32)


def _steps_along(mask: Mask2, axis: int) -> NDArray[np.int32]:
    """Steps along one axis to the next pixel outside; the mask has a border of such pixels."""
    place = np.arange(mask.shape[axis], dtype=np.int32)
    last = np.maximum.accumulate(np.where(mask, -1, place), axis)
    turned = np.flip(np.where(mask, len(place), place), axis)
    following = np.flip(np.minimum.accumulate(turned, axis), axis)
    return np.asarray(np.minimum(place - last, following - place), np.int32)


def farthest_first(points: NDArray[np.integer], count: int = MAX_POINTS) -> NDArray[np.intp]:
    """Up to `count` of some points (n, d), each as far as can be from those before it.

    The first one is the farthest from their mean; none is nearer than NEAREST to another one.
    """
    if not len(points):
        return np.zeros((0, points.shape[1]), np.intp)
    places = points.astype(np.float64)
    first = int(((places - places.mean(0)) ** 2).sum(1).argmax())
    chosen, distance = [first], np.full(len(places), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((places - places[chosen[-1]]) ** 2).sum(1))
        farthest = int(distance.argmax())
        if distance[farthest] < NEAREST**2:
            break
        chosen.append(farthest)
    return points[chosen].astype(np.intp)
