"""Cubic spline resizing with Gaussian antialiasing, as scikit-image's `transform.resize(order=3)` defines it.

Values outside the image mirror about its outermost pixels. Everything is linear and separable, in float64, and equal
to scikit-image's to rounding. Filters: scipy's ndimage (`gaussian_filter`, `spline_filter`, `zoom` in grid mode).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

GAUSSIAN_REACH = 4.0  # standard deviations
POLE = math.sqrt(3.0) - 2.0  # of the cubic B-spline's prefilter


def spline_resize(image: NDArray[np.generic], shape: tuple[int, int]) -> Doubles:
    """Resize the first two axes of an image (y, x) or (y, x, channels) to `shape`; its range is kept.

    An axis that shrinks is smoothed first, by a Gaussian of half of what the factor is above one. Splines overshoot,
    so that the result is cut off at the image's own extremes.
    """
    smooth: Doubles = np.asarray(image, np.float64)
    lowest, highest = smooth.min(), smooth.max()
    for axis in (0, 1):
        factor = image.shape[axis] / shape[axis]
        if factor > 1:
            smooth = _gaussian(smooth, (factor - 1) / 2, axis)
    for axis in (0, 1):
        smooth = _coefficients(smooth, axis)
    for axis in (0, 1):
        smooth = _sampled(smooth, shape[axis], axis)
    return smooth.clip(lowest, highest)


def _mirrored(index: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Indices with those outside reflected about the outermost pixels, which are not repeated."""
    if length == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * length - 2)
    return np.asarray(np.minimum(folded, 2 * length - 2 - folded))


def _gaussian(image: Doubles, sigma: float, axis: int) -> Doubles:
    lines = np.moveaxis(image, axis, 0)
    reach = int(GAUSSIAN_REACH * sigma + 0.5)
    taps = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    taps /= taps.sum()
    at = np.arange(len(lines))
    out = lines * taps[reach]
    for away in range(reach, 0, -1):
        both = lines[_mirrored(at - away, len(lines))] + lines[_mirrored(at + away, len(lines))]
        out += both * taps[reach - away]
    return np.moveaxis(out, 0, axis)


def _coefficients(image: Doubles, axis: int) -> Doubles:
    """Coefficients of the spline that goes through all values: one recursion forwards, one back."""
    length = image.shape[axis]
    if length == 1:
        return image
    c = np.moveaxis(image, axis, 0) * ((1 - POLE) * (1 - 1 / POLE))
    c[0] = np.tensordot(_start(length), c, 1)
    for i in range(1, length):
        c[i] += POLE * c[i - 1]
    c[-1] = (POLE * c[-2] + c[-1]) * (POLE / (POLE * POLE - 1))
    for i in range(length - 2, -1, -1):
        c[i] = POLE * (c[i + 1] - c[i])
    return np.moveaxis(c, 0, axis)


def _start(length: int) -> Doubles:
    """What the first forward value is a sum of, on a line that mirrors at both ends for ever."""
    powers = POLE ** np.arange(length)
    weights = powers + np.where(
        np.arange(length) > 0, POLE ** (2 * length - 2 - np.arange(length)), 0
    )
    weights[-1] = powers[-1]
    return np.asarray(weights / (1 - POLE ** (2 * length - 2)))


def _sampled(coefficients: Doubles, size: int, axis: int) -> Doubles:
    """The spline at the centres of `size` pixels over the same extent."""
    index, weights = _taps(coefficients.shape[axis], size)
    lines = np.moveaxis(coefficients, axis, -1)
    out = np.zeros((*lines.shape[:-1], size))
    for at, weight in zip(index, weights, strict=True):
        out += lines[..., at] * weight
    return np.moveaxis(out, -1, axis)


@lru_cache(maxsize=64)
def _taps(length: int, size: int) -> tuple[NDArray[np.intp], Doubles]:
    """The four coefficients around each pixel's centre (4, size), and how much they weigh."""
    centres = np.abs((np.arange(size) + 0.5) * (length / size) - 0.5)
    centres = np.minimum(centres, 2 * (length - 1) - centres) if length > 1 else 0 * centres
    first = np.floor(centres).astype(np.intp)
    t = centres - first
    u = 1 - t
    weights = [u**3 / 6, (t * t * (t - 2) * 3 + 4) / 6, (u * u * (u - 2) * 3 + 4) / 6]
    weights.append(1 - sum(weights))
    around = first + np.arange(-1, 3)[:, None]
    return _mirrored(around, length), np.array(weights)
