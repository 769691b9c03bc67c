"""Cavities of a mask: background that nothing connects with the outside."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_cavities(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (z, y, x) or (y, x) with its cavities filled; a way out leads through faces, or over the border."""
    axes = range(mask.ndim)
    held = [np.flatnonzero(mask.any(tuple({*axes} - {axis}))) for axis in axes]
    if not all(len(indices) for indices in held):
        return mask.copy()
    part = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in held)
    sitk: Any = import_module("SimpleITK")
    image = sitk.GetImageFromArray(np.pad(mask[part], 1).astype(np.uint8))
    filled = sitk.GetArrayFromImage(sitk.BinaryFillhole(image, False))
    result = mask.copy()
    result[part] = filled[(slice(1, -1),) * mask.ndim] > 0
    return result
