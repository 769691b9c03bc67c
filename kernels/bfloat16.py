"""Rounding to bfloat16 precision, kept in float32 or as bits."""

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


def to_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bit patterns of values rounded to bfloat16: what kernels take, as numpy has no bfloat16."""
    rounded = np.empty(values.shape, np.float32)
    round_to_bfloat16(values, rounded)
    return (rounded.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that `to_bits` gave the patterns of."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
