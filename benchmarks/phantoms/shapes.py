"""Random fields and shapes that phantoms are made of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rng = np.random.Generator

FAMILIES = ("ellipsoid", "blob", "box", "tube", "branch")
FAMILY_SHARES = (0.35, 0.25, 0.1, 0.2, 0.1)
OUTSIDE = -9.0  # the field of a shape, far away


def smooth_field(rng: Rng, shape: tuple[int, int, int], grid: tuple[int, int, int]) -> Array:
    """A random field of unit variance that varies over a coarse grid."""
    field = rng.standard_normal(grid).astype(np.float32)
    for axis in range(3):
        weights = _spread(grid[axis], shape[axis])
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field / (field.std() + 1e-6)


def random_curve(rng: Rng, length: int, knots: int) -> Array:
    """A smooth random curve (length,) of about unit size."""
    return _spread(knots, length) @ rng.standard_normal(knots).astype(np.float32)


def object_opacity(
    rng: Rng, shape: tuple[int, int, int], radius: float, edge: float, family: str | None = None
) -> Array:
    """Opacity (z, y, x) of one object: 1 inside, 0 outside, soft in between."""
    family = family or str(rng.choice(FAMILIES, p=FAMILY_SHARES))
    depth, size = shape[0], shape[2]
    is_tube = family in ("tube", "branch")
    half = np.exp(rng.uniform(np.log(5 if is_tube else 3), np.log(40 if is_tube else 24)))
    middle = rng.uniform(0, depth)
    along = (
        (np.arange(depth, dtype=np.float32) - middle) / half
        if depth > 1
        else np.zeros(1, np.float32)
    )
    reach = (
        np.exp(0.3 * random_curve(rng, depth, 4))
        if is_tube
        else np.sqrt(np.maximum(0, 1 - along**2))
    )
    reach = np.where(np.abs(along) < 1, reach, -1).astype(np.float32)
    start = rng.uniform(0.12, 0.88, 2) * size
    drift = rng.normal(0, 0.9 * radius, 2) * (2.0 if is_tube else 1.0)
    wander = rng.uniform(0, 0.6) * radius
    centres = np.stack(
        [
            s + d * along + wander * random_curve(rng, depth, 4)
            for s, d in zip(start, drift, strict=True)
        ]
    )
    angle = rng.uniform(0, np.pi) + rng.normal(0, 0.5) * along
    ratio = rng.uniform(0.45, 1)
    rough = {"blob": rng.uniform(0.15, 0.45), "box": 0.03}.get(family, rng.uniform(0, 0.12))
    noise_side = max(4, int(2 * size / radius))
    noise = rough * smooth_field(rng, shape, (max(1, min(depth, 5)), *(min(noise_side, 48),) * 2))
    power = 3.5 if family == "box" else 2.0
    # What noise and softness may add to the field.
    margin = float(noise.max()) + 0.5 * edge / radius
    field = _implicit(shape, centres, angle, ratio, radius, reach, power, margin)
    if family == "branch":
        away = np.maximum(0, along) * rng.uniform(0.8, 2.5) * radius
        split = centres + np.stack([away * np.sin(3 * angle[:1]), away * np.cos(3 * angle[:1])])
        limb = _implicit(shape, split, angle, ratio, 0.8 * radius, reach, power, margin)
        field = np.maximum(field, limb)
    alpha = np.clip((field + noise) * radius / edge + 0.5, 0, 1)
    alpha[reach < 0] = 0
    return alpha.astype(np.float32)


def _implicit(
    shape: tuple[int, int, int],
    centres: NDArray[np.floating],
    angle: NDArray[np.floating],
    ratio: float,
    radius: float,
    reach: Array,
    power: float,
    margin: float,
) -> Array:
    """reach(z) minus the distance from the axis in radii: positive inside; OUTSIDE where surely below -margin."""
    out = np.full(shape, OUTSIDE, np.float32)
    for z in np.flatnonzero(reach >= 0):
        # A diagonal reaches 2 ** 0.5 times as far as an axis.
        half = 1.5 * (reach[z] + margin) * radius
        rows, columns = (
            slice(*np.clip([int(c[z] - half), int(c[z] + half) + 2], 0, side))
            for c, side in zip(centres, shape[1:], strict=True)
        )
        y, x = np.ogrid[rows, columns]
        dy, dx = (y - centres[0, z]) / radius, (x - centres[1, z]) / radius
        sin, cos = np.sin(angle[z]), np.cos(angle[z])
        u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / ratio
        distance = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
        out[z, rows, columns] = reach[z] - distance
    return out


@lru_cache(maxsize=512)
def _spread(size_in: int, size_out: int) -> Array:
    """Weights (out, in) that interpolate a coarse grid with Gaussian bumps."""
    centres = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    weights = np.exp(-0.5 * ((np.arange(size_in)[None] - centres[:, None]) / 0.55) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
