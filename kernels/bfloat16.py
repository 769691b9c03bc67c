"""Rounding to bfloat16 precision, kept in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def round_to_bfloat16(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write `values`, rounded to the nearest bfloat16 (ties to even), to `out`; finite values only.

    Upstream stores every memory in bfloat16, whatever it computes in (sam2_video_predictor.py).
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    out[...] = rounded.view(np.float32)
