"""A seeded synthetic volume with an object that drifts and changes size: for benchmarks, certificates and examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.prompts.prompts import Box

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
    y, x = np.ogrid[:height, :width]
    centres = ((0.38, 0.36), (0.62, 0.68), (0.72, 0.3))
    ways = [
        (rng.uniform(-0.12, 0.12, 2), rng.uniform(0.1, 0.15), rng.uniform(0.8, 1.3))
        for _ in centres
    ]
    pixels, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for z in range(depth):
        along = (z - (depth - 1) / 2) / max(depth, 2)  # -0.5 to 0.5
        plane = BACKGROUND + 20 * np.sin(9 * y / height + 4 * along) * np.cos(7 * x / width)
        for object_id, (contrast, centre, way) in enumerate(
            zip(CONTRASTS, centres, ways, strict=True), 1
        ):
            drift, size, stretch = way
            radius = size * np.sqrt(max(0.0, 1 - (2.2 * along) ** 2))
            away_y = y / height - centre[0] - drift[0] * along
            away_x = (x / width - centre[1] - drift[1] * along) / stretch
            inside = away_y**2 + away_x**2 < radius**2
            plane = plane + contrast * inside
            labels[z][inside] = object_id
        noisy = plane + rng.normal(0, NOISE, plane.shape)
        pixels[z] = noisy.clip(0, 255)
    return Phantom(pixels, labels)
