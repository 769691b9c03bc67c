"""Bilinear resizing with half-pixel centres, with and without antialiasing, as PyTorch defines it.

Without antialiasing an output sees two neighbours along each axis, with edges clamped (align_corners=False), also
when shrinking. The resize of image slices is another one, Pillow's bicubic (`kernels.preprocess`): the four kernels
of the field must not be merged.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=64)
def bilinear_weights(size_in: int, size_out: int) -> Array:
    """Weights (size_out, size_in) of a 1-D antialiased bilinear resize; rows sum to one.

    The support grows with the scale, and weights are cut off at the border and renormalised, as in
    torch.nn.functional.interpolate with antialias=True.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(size_in)[None, :] - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def resize(image: NDArray[np.generic], size: tuple[int, int], antialias: bool = False) -> Array:
    """Resize the last two axes of float data (..., h, w) to `size`, in fp32."""
    h, w = image.shape[-2:]
    data = np.asarray(image, np.float32)
    if (h, w) == size:
        return data
    if not antialias:
        return _interpolate(_interpolate(data, size[0], -2), size[1], -1)
    rows = bilinear_weights(h, size[0])
    columns = bilinear_weights(w, size[1])
    return np.asarray(rows @ data @ columns.T, np.float32)


def _interpolate(data: Array, size_out: int, axis: int) -> Array:
    """Two taps for each output: this runs every slice, and a matrix product there would wake a pool of threads."""
    low, high, share = taps(data.shape[axis], size_out)
    start, stop = data.take(low, axis), data.take(high, axis)
    stop -= start
    stop *= share[:, None] if axis == -2 else share
    stop += start
    return stop


@lru_cache(maxsize=64)
def taps(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Indices of both neighbours of each output's centre (size_out,), and the second one's share."""
    centres = ((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5).clip(0, size_in - 1)
    low = centres.astype(np.intp)
    return low, np.minimum(low + 1, size_in - 1), (centres - low).astype(np.float32)
