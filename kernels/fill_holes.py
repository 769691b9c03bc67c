"""Small holes in a mask are filled on its low-resolution logits."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

# SimpleITK is marked as typed and is not, so type checkers must be told to let it be.
sitk: Any = import_module("SimpleITK")

HOLE_AREA = 8  # pixels, build_sam.py's fill_hole_area
FILLED_LOGIT = 0.1  # sam2/utils/misc.py fill_holes_in_mask_scores


def fill_holes(logits: NDArray[np.float32], max_area: int = HOLE_AREA) -> NDArray[np.float32]:
    """Logits (h, w) with every 8-connected patch of non-positive pixels up to `max_area` set to 0.1.

    Upstream does this only where its compiled extension works; here it always happens.
    """
    background = logits <= 0
    if not background.any() or background.all():
        return logits
    image = sitk.GetImageFromArray(background.view(np.uint8))
    label = sitk.ConnectedComponentImageFilter()
    label.FullyConnectedOn()
    label.SetNumberOfThreads(1)  # waking threads for so few pixels takes longer than the work
    labels = sitk.GetArrayFromImage(label.Execute(image))
    areas = np.bincount(labels.ravel())
    small = areas <= max_area
    small[0] = False
    if not small.any():
        return logits
    return np.where(small[labels], np.float32(FILLED_LOGIT), logits)
