"""Cosine similarity of one tensor with some slots: tensors stay where they are, a few numbers come back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def slot_similarity(
    values: NDArray[np.generic], slots: Sequence[int], probe: NDArray[np.generic]
) -> NDArray[np.float32]:
    """Cosines (len(slots),) of `probe` with `values[slot]`, both taken as flat vectors; 0 where either is zero.

    Args:
        values: (s, ...), any float shape behind the first axis.
        slots: rows of `values`.
        probe: as many numbers as one slot holds, in the same order.
    """
    flat = np.asarray(probe, np.float32).reshape(-1)
    length = np.sqrt(np.dot(flat, flat))
    cosines = np.zeros(len(slots), np.float32)
    for i, slot in enumerate(slots):
        other = np.asarray(values[slot], np.float32).reshape(-1)
        product = length * np.sqrt(np.dot(other, other))
        if product > 0:
            cosines[i] = np.dot(flat, other) / product
    return cosines.clip(-1, 1)
