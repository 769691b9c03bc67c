"""Intensities to eight bits: clip, stretch what is left over 0..255 in float64, drop the fraction (MedSAM2's way)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stretch(
    raw: NDArray[Any],
    lower: float,
    upper: float,
    low: float,
    high: float,
    keep_zero: bool,
) -> NDArray[np.uint8]:
    """Clip voxels and stretch them over uint8.

    Args:
        raw: voxels of any shape; NaN counts as `low`.
        lower, upper: to clip to.
        low, high: what becomes 0 and 255; all becomes 0 unless `high` is above `low`.
        keep_zero: voxels of exactly zero become zero.
    """
    out = np.zeros(raw.shape, np.uint8)
    if high <= low:
        return out
    values = np.clip(raw.astype(np.float64), lower, upper)
    np.copyto(values, low, where=np.isnan(values))
    out[...] = (values - low) / (high - low) * 255.0
    if keep_zero:
        out[raw == 0] = 0
    return out
