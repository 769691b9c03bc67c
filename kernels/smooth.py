"""Logits smoothed by a Gaussian, at the resolution that the network gives them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

REACH = 4.0  # in sigmas; what lies beyond weighs less than 1e-4


def smooth(logits: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Logits (y, x) convolved with a Gaussian of `sigma` pixels; beyond the border the last pixel goes on.

    A sigma of 0 changes nothing.
    """
    if sigma == 0:
        return logits
    reach = math.ceil(REACH * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        margin = [(reach, reach) if axis == other else (0, 0) for other in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(logits, margin, "edge"), len(weights), axis
        )
        logits = windows @ weights
    return logits
