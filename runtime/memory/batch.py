"""A step's numbers: which slices, slots, codes and weights its rows read, and where their results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from runtime.memory.records import MemoryRead, TargetSlots


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step of b rows reads and writes; all arrays lead with b.

    Attributes:
        slices: (b,) where each row's encoding lies in the cache of features.
        slots, times, weights: (b, k) memory slots, rows of the temporal code, weights.
        ptr_slots, ptr_positions, ptr_weights: (b, p) the same for pointers.
        memory_targets, pointer_targets: (b,) slots that the results are written to.
        embedding_targets: (b,), or (0,) where no image embeddings are kept.
    """

    slices: NDArray[Any]
    slots: NDArray[Any]
    times: NDArray[Any]
    weights: NDArray[Any]
    ptr_slots: NDArray[Any]
    ptr_positions: NDArray[Any]
    ptr_weights: NDArray[Any]
    memory_targets: NDArray[Any]
    pointer_targets: NDArray[Any]
    embedding_targets: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, memories, pointers, and rows whose image embedding is kept."""
        return (*self.slots.shape, self.ptr_slots.shape[1], len(self.embedding_targets))


def pack(
    reads: Sequence[MemoryRead],
    slices: Sequence[int] = (),
    targets: Sequence[TargetSlots] = (),
    lengths: tuple[int, int] = (0, 0),
) -> Batch:
    """Several rows' reads side by side.

    Rows that are shorter than the longest, or than `lengths` (memories, pointers), are padded with copies of their own
    first slot at weight 0, which the graph masks exactly: a copy's logits are of the row's own scale, so that fp32
    loses nothing.
    """
    k, p = lengths
    embeddings = [target.embedding for target in targets if target.embedding is not None]
    return Batch(
        slices=np.array(slices, np.int64),
        slots=_padded([r.slots for r in reads], np.int64, k),
        times=_padded([r.times for r in reads], np.int64, k),
        weights=_padded([r.weights for r in reads], np.float32, k, fill=0.0),
        ptr_slots=_padded([r.ptr_slots for r in reads], np.int64, p),
        ptr_positions=_padded([r.ptr_positions for r in reads], np.float32, p),
        ptr_weights=_padded([r.ptr_weights for r in reads], np.float32, p, fill=0.0),
        memory_targets=np.array([target.memory for target in targets], np.int64),
        pointer_targets=np.array([target.pointer for target in targets], np.int64),
        embedding_targets=np.array(embeddings, np.int64),
    )


def _padded(
    rows: Sequence[Sequence[float]],
    dtype: type[np.generic],
    length: int,
    fill: float | None = None,
) -> NDArray[Any]:
    length = max(length, *(len(row) for row in rows))
    return np.array(
        [[*row, *[row[0] if fill is None else fill] * (length - len(row))] for row in rows], dtype
    )
