"""Bilinear resizing with half-pixel centres, with and without antialiasing, as PyTorch defines it.

Both are separable, so a resize is two small matrix products. The resize of image slices is another one, Pillow's
bicubic (`kernels.preprocess`): the four kernels of the field must not be merged.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=64)
def bilinear_weights(size_in: int, size_out: int, antialias: bool) -> Array:
    """Weights (size_out, size_in) of a 1-D bilinear resize; rows sum to one.

    Without antialiasing the support is always one input pixel and edges are clamped
    (torch.nn.functional.interpolate, align_corners=False); with it the support grows with the scale and the weights
    are cut off at the border and renormalised (antialias=True).
    """
    scale = size_in / size_out
    support = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    if not antialias:
        centres = centres.clip(0, size_in - 1)
    distance = np.abs(np.arange(size_in)[None, :] - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def resize(image: NDArray[np.generic], size: tuple[int, int], antialias: bool = False) -> Array:
    """Resize the last two axes of float data (..., h, w) to `size`, in fp32."""
    h, w = image.shape[-2:]
    data = np.asarray(image, np.float32)
    if (h, w) == size:
        return data
    rows = bilinear_weights(h, size[0], antialias)
    columns = bilinear_weights(w, size[1], antialias)
    return np.asarray(rows @ data @ columns.T, np.float32)
