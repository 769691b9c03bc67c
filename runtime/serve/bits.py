"""Masks of boxes as bits: one a voxel, in C order, the most significant first, the last byte filled with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PromptError
from runtime.serve.planes import Box3


def pack(mask: NDArray[np.generic]) -> bytes:
    """The bits of a mask (z, y, x), set where it is not zero."""
    return np.packbits(mask != 0, axis=None).tobytes()


def unpack(data: bytes, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A mask of that shape, 0 or 1. Raises PromptError for another number of bytes than it takes."""
    check_size(data, shape)
    return np.unpackbits(np.frombuffer(data, np.uint8), count=prod(shape)).reshape(shape)


def check_size(data: bytes, shape: Sequence[int]) -> None:
    """Raise PromptError for another number of bytes than a mask of that shape takes."""
    if len(data) != (wanted := num_bytes(shape)):
        raise PromptError(
            f"found {len(data)} bytes for a mask of shape {tuple(shape)} (z, y, x); wanted {wanted}, one bit a voxel"
        )


def num_bytes(shape: Sequence[int]) -> int:
    """How many bytes a mask of that shape takes."""
    return (prod(shape) + 7) // 8


def window(box: Box3) -> tuple[slice, slice, slice]:
    """A box as an index into an array (z, y, x)."""
    k, j, i = (slice(start, stop) for start, stop in box)
    return k, j, i
