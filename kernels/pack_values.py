"""What memory attention reads, side by side as `kernels.memory_read` takes it: values, and a weight for each.

Keys are in the order of export/exact/memory_attention.py: tokens of memories, then pointers cut into pieces.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import to_bits
from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks

THREADS = 256
PIECE = 4  # channels that a thread of `pack_values.cu` moves


def pack_values(
    memory: NDArray[np.float32],
    memory_weight: NDArray[np.float32],
    obj_ptrs: NDArray[np.float32],
    obj_ptr_weight: NDArray[np.float32],
) -> Arrays:
    """`value` (b, N, M), bits of bfloat16 numbers, and `weight` (b, N) float32, with N = k T + p C / M.

    Args:
        memory: (b, k, L, M), finite; M is a multiple of 4 and divides C.
        memory_weight: (b, k).
        obj_ptrs: (b, p, C), finite.
        obj_ptr_weight: (b, p).
    """
    b, _, tokens, channels = memory.shape
    pieces = obj_ptrs.shape[-1] // channels
    rows = [memory.reshape(b, -1, channels), obj_ptrs.reshape(b, -1, channels)]
    weights = [np.repeat(memory_weight, tokens, 1), np.repeat(obj_ptr_weight, pieces, 1)]
    return {"value": to_bits(np.concatenate(rows, 1)), "weight": np.concatenate(weights, 1)}


def _counts(shapes: Shapes) -> tuple[int, int, int, int, int]:
    """k, T, p, pieces of a pointer, M."""
    (_, k, tokens, channels), (_, p, c) = shapes["memory"], shapes["obj_ptrs"]
    return k, tokens, p, c // channels, channels


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    k, tokens, p, pieces, channels = _counts(shapes)
    rows = (shapes["memory"][0], k * tokens + p * pieces)
    return {"value": ((*rows, channels), "uint16"), "weight": (rows, "float32")}


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    *counts, channels = _counts(shapes)
    b, *row = shapes["value"]
    grid = (blocks(math.prod(row) // PIECE, THREADS), 1, b)
    tensors = ("memory", "memory_weight", "obj_ptrs", "obj_ptr_weight", "value", "weight")
    lengths = (np.int32(length) for length in (*counts, channels // PIECE))
    return [Launch("pack_values", grid, (THREADS, 1, 1), (*tensors, *lengths))]


def _case(b: int, k: int, tokens: int, p: int, channels: int, pieces: int = 4) -> KernelCase:
    rng = np.random.default_rng(b * k * tokens + p)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    return KernelCase(
        {
            "memory": normal(b, k, tokens, channels),
            "memory_weight": np.abs(normal(b, k)),
            "obj_ptrs": normal(b, p, pieces * channels),
            "obj_ptr_weight": np.abs(normal(b, p)),
        }
    )


KERNEL = Kernel(
    "pack_values",
    "pack_values.cu",
    pack_values,
    _outputs,
    _plan,
    {
        "one of each": lambda: _case(1, 1, 16, 1, 64),
        "several rows": lambda: _case(3, 7, 9, 5, 64),
        "few channels": lambda: _case(2, 2, 33, 3, 4),
        "pointers in one piece": lambda: _case(2, 3, 25, 16, 8, pieces=1),
    },
    lambda: _case(2, 7, 1024, 16, 64),
)
