"""What somebody draws by hand: polygons that keep to a mask's border within a pixel, and what they enclose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1.0  # pixels that a polygon's side may be off the border
LEAST_CORNERS = 3

Mask2 = NDArray[np.bool_]
Line = NDArray[np.floating]


def drawn_by_hand(plane: Mask2, tolerance: float = TOLERANCE) -> tuple[Mask2, int]:
    """A mask (y, x) as polygons give it, one for each part and each hole, and how many vertices these have.

    Raises nothing; an empty mask is drawn without a vertex.
    """
    from contourpy import contour_generator
    from matplotlib.path import Path as Polygon

    drawn, count = np.zeros_like(plane), 0
    if not plane.any():
        return drawn, count
    padded = np.pad(plane, 1).astype(float)
    for line in contour_generator(z=padded).lines(0.5):
        corners = closed(line - 1, tolerance)
        low = np.floor(corners.min(0)).astype(int).clip(0)
        high = np.ceil(corners.max(0)).astype(int) + 1
        x, y = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)))
        inside = Polygon(corners).contains_points(np.stack([x.ravel(), y.ravel()], 1))
        rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
        part = drawn[rows, columns]
        part ^= inside.reshape(x.shape)[: part.shape[0], : part.shape[1]]  # a hole is taken out
        count += len(corners)
    return drawn, count


def closed(line: Line, tolerance: float) -> Line:
    """Corners (n, 2) of a polygon that is nowhere further than `tolerance` from a closed line (m, 2).

    The line is cut at the two points that are farthest from each other, about, and either half kept to by Douglas and
    Peucker's rule: of what lies too far off, the farthest point becomes a corner.
    """
    points = line[:-1]
    far = int(np.argmax(np.linalg.norm(points - points[0], axis=1)))
    start = int(np.argmax(np.linalg.norm(points - points[far], axis=1)))
    points = np.roll(points, -start, axis=0)
    far = (far - start) % len(points)
    ring = np.concatenate([points, points[:1]])
    kept = sorted({*_kept(ring, 0, far, tolerance), *_kept(ring, far, len(points), tolerance)})
    corners = ring[[index for index in kept if index < len(points)]]
    return corners if len(corners) >= LEAST_CORNERS else points


def _kept(ring: Line, first: int, last: int, tolerance: float) -> list[int]:
    """Which points of ring[first:last + 1] are corners."""
    kept, parts = [first, last], [(first, last)]
    while parts:
        low, high = parts.pop()
        if high - low < 2:
            continue
        a, b, between = ring[low], ring[high], ring[low + 1 : high]
        along = b - a
        share = ((between - a) @ along / max(float(along @ along), 1e-12)).clip(0, 1)
        off = np.linalg.norm(between - a - share[:, None] * along, axis=1)
        if off.max() > tolerance:
            middle = low + 1 + int(off.argmax())
            kept.append(middle)
            parts += [(low, middle), (middle, high)]
    return kept
