"""The largest connected part of a mask."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part with the most voxels, neighbours sharing at least a corner; the first of equals, in (z, y, x) order."""
    sitk: Any = import_module("SimpleITK")
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if len(sizes) == 1:
        return np.zeros_like(mask)
    return np.asarray(parts == sizes.argmax())
