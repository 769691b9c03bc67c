"""Several rows' reads to the batched inputs of memory attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.arena import Arena
from runtime.backends import Buffer
from runtime.memory.records import MemoryRead


def gather(arena: Arena, reads: Sequence[MemoryRead]) -> dict[str, Buffer]:
    """`memory`, `memory_time`, `memory_weight`, `obj_ptrs`, `obj_ptr_pos`, `obj_ptr_weight` for b rows.

    Rows of unequal length are padded with copies of their own first slot at weight 0, which the graph masks
    exactly: a copy's logits are of the row's own scale, so that fp32 loses nothing.
    """
    return {
        "memory": arena.memories.values[_padded([r.slots for r in reads], np.int64)],
        "memory_time": _padded([r.times for r in reads], np.int64),
        "memory_weight": _padded([r.weights for r in reads], np.float32, fill=0.0),
        "obj_ptrs": arena.pointers.values[_padded([r.ptr_slots for r in reads], np.int64)],
        "obj_ptr_pos": _padded([r.ptr_positions for r in reads], np.float32),
        "obj_ptr_weight": _padded([r.ptr_weights for r in reads], np.float32, fill=0.0),
    }


def _padded(
    rows: Sequence[Sequence[float]], dtype: type[np.generic], fill: float | None = None
) -> Buffer:
    length = max(len(row) for row in rows)
    return np.array(
        [[*row, *[row[0] if fill is None else fill] * (length - len(row))] for row in rows], dtype
    )
