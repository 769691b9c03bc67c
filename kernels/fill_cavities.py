"""Cavities of a mask: background that nothing connects with the outside."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_cavities(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask (z, y, x) with its cavities filled; a way out leads through faces of voxels, and over the border too."""
    held = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not all(len(indices) for indices in held):
        return mask.copy()
    part = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in held)
    sitk: Any = import_module("SimpleITK")
    image = sitk.GetImageFromArray(np.pad(mask[part], 1).astype(np.uint8))
    filled = sitk.GetArrayFromImage(sitk.BinaryFillhole(image, False))[1:-1, 1:-1, 1:-1]
    result = mask.copy()
    result[part] = filled > 0
    return result
