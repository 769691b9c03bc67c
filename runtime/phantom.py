"""A seeded synthetic volume with an object that drifts and changes size: for benchmarks, certificates and examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.prompts import Box

BACKGROUND, CONTRASTS, NOISE = 70.0, (90.0, -45.0, 60.0), 6.0
NUM_OBJECTS = len(CONTRASTS)


@dataclass(frozen=True, slots=True)
class Phantom:
    """Three ellipsoids in a textured background.

    Attributes:
        pixels: uint8 (z, y, x).
        labels: uint8 (z, y, x), 1 to 3 inside the objects.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def box(self, index: int, object_id: int) -> Box:
        """The tight box of an object on a slice."""
        rows, columns = np.nonzero(self.labels[index] == object_id)
        y, x = ((int(v.min()), int(v.max()) + 1) for v in (rows, columns))
        return Box(slice=index, y=y, x=x)


def make_phantom(shape: tuple[int, int, int], seed: int = 0) -> Phantom:
    """A phantom of `shape` (z, y, x); every object crosses the middle slice."""
    rng = np.random.default_rng(seed)
    depth, height, width = shape
    z, y, x = np.ogrid[:depth, :height, :width]
    along = (z - (depth - 1) / 2) / max(depth, 2)  # -0.5 to 0.5
    pixels = BACKGROUND + 20 * np.sin(9 * y / height + 4 * along) * np.cos(7 * x / width)
    labels = np.zeros(shape, np.uint8)
    centres = ((0.38, 0.36), (0.62, 0.68), (0.72, 0.3))
    for object_id, (contrast, (cy, cx)) in enumerate(zip(CONTRASTS, centres, strict=True), 1):
        drift_y, drift_x = rng.uniform(-0.12, 0.12, 2)
        radius = rng.uniform(0.1, 0.15) * np.sqrt(np.maximum(0, 1 - (2.2 * along) ** 2))
        away_y = (y / height - cy - drift_y * along) / 1.0
        away_x = (x / width - cx - drift_x * along) / rng.uniform(0.8, 1.3)
        inside = np.broadcast_to(away_y**2 + away_x**2 < radius**2, shape)
        pixels = pixels + contrast * inside
        labels[inside] = object_id
    noisy = pixels + rng.normal(0, NOISE, shape)
    return Phantom(noisy.clip(0, 255).astype(np.uint8), labels)
