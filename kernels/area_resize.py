"""Resizing by the area that output pixels cover, as OpenCV's `INTER_AREA` defines it for eight-bit images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

COEFFICIENT_BITS = 11  # of OpenCV's weights where it enlarges


def area_resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize the first two axes of an image (y, x) or (y, x, channels), uint8, to `shape`.

    Halves go to the even integer, but upwards where both sides are halved; enlargements are computed in whole numbers.
    So does OpenCV (modules/imgproc/src/resize.cpp), whose weights for shrinking are of single precision: one pixel in
    some thousands may be one off.
    """
    if image.shape[:2] == shape:
        return image
    if image.shape[0] < shape[0] or image.shape[1] < shape[1]:
        return _enlarged(image, shape)
    out = image.astype(np.float32)
    for axis in (1, 0):
        weights = covered(image.shape[axis], shape[axis])
        out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
    is_halved = image.shape[:2] == (2 * shape[0], 2 * shape[1])
    return (np.floor(out + 0.5) if is_halved else np.rint(out)).astype(np.uint8)


@lru_cache(maxsize=64)
def covered(size_in: int, size_out: int) -> NDArray[np.float32]:
    """Which share of each output pixel each input covers (size_out, size_in); rows sum to one."""
    scale = size_in / size_out
    start, inputs = np.arange(size_out)[:, None] * scale, np.arange(size_in)
    shares = (np.minimum(inputs + 1, start + scale) - np.maximum(inputs, start)).clip(0)
    shares[shares < 1e-3] = 0  # slivers that rounding makes
    return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def _enlarged(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Two inputs along each axis, weighed in whole numbers; rows are shortened as OpenCV shortens them."""
    low, weights = _nearest_two(image.shape[1], shape[1])
    lines = np.moveaxis(image, 1, -1).astype(np.int64)
    wide = lines[..., low[0]] * weights[0] + lines[..., low[1]] * weights[1]
    wide = np.moveaxis(wide, -1, 1)
    low, weights = _nearest_two(image.shape[0], shape[0])
    column = (-1, *(1,) * (image.ndim - 1))
    parts = [
        ((wide[at] >> 4) * weight.reshape(column)) >> 16
        for at, weight in zip(low, weights, strict=True)
    ]
    return np.asarray((parts[0] + parts[1] + 2) >> 2, np.uint8)


def _nearest_two(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Indices of both inputs (2, size_out), and their weights; an output within one input is that one alone."""
    grown = size_out / size_in
    low = np.floor(np.arange(size_out) * (1 / grown)).astype(np.intp)
    share = (np.arange(1, size_out + 1) - (low + 1) * grown).astype(np.float32)
    share = np.where(share <= 0, 0, share - np.floor(share))
    share[low >= size_in - 1] = 0
    one = 1 << COEFFICIENT_BITS
    upper = np.rint(share * one).astype(np.int64)
    lower = np.rint((1 - share) * one).astype(np.int64)
    low = low.clip(0, size_in - 1)
    return np.stack([low, np.minimum(low + 1, size_in - 1)]), np.stack([lower, upper])
