"""Memory slots: gathered into a batch, and stored rounded to bfloat16; `kernels.slot_similarity` compares them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import round_to_bfloat16
from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks
from kernels.slot_similarity import slot_similarity

THREADS = 256
PIECE = 4  # float32 numbers in 16 bytes
BLOCKS_A_ROW = 16


def gather_slots(values: NDArray[np.float32], index: NDArray[np.int64]) -> Arrays:
    """`gathered` (b, k, ...): `values` (slots, ...) at `index` (b, k)."""
    return {"gathered": values[index]}


def store_slots(
    memories: NDArray[np.float32],
    index: NDArray[np.int64],
    before: NDArray[np.float32],
    is_rounded: bool,
) -> Arrays:
    """Give `values`: `before` with `memories` (b, ...), perhaps rounded to bfloat16, put at `index` (b,)."""
    values = before.copy()
    for memory, slot in zip(memories, index, strict=True):
        if is_rounded:
            round_to_bfloat16(memory, values[slot])
        else:
            values[slot] = memory
    return {"values": values}


def _row(shapes: Shapes, name: str) -> int:
    return math.prod(shapes[name][1:])


def _gather_plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    length, count = _row(shapes, "values") // PIECE, math.prod(shapes["index"])
    grid = (min(blocks(length, THREADS), BLOCKS_A_ROW), count, 1)
    arguments = ("values", "index", "gathered", np.int32(length))
    return [Launch("gather_slots", grid, (THREADS, 1, 1), arguments)]


def _store_plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    length, count = _row(shapes, "values"), math.prod(shapes["index"])
    grid = (min(blocks(length, THREADS), BLOCKS_A_ROW), count, 1)
    is_rounded = np.int32(numbers["is_rounded"])
    arguments = ("memories", "index", "values", np.int32(length), is_rounded)
    return [Launch("store_slots", grid, (THREADS, 1, 1), arguments)]


def _similarity_plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    arguments = ("values", "index", "probe", "cosines", np.int32(_row(shapes, "values")))
    return [Launch("slot_similarity", (shapes["index"][0], 1, 1), (THREADS, 1, 1), arguments)]


def _values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype(np.float32)


def _index(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


GATHER = Kernel(
    "gather_slots",
    "slots.cu",
    gather_slots,
    lambda shapes, _: {"gathered": ((*shapes["index"], *shapes["values"][1:]), "float32")},
    _gather_plan,
    {
        "memories": lambda: KernelCase(
            {"values": _values(9, 16, 8), "index": _index([0, 8, 3], [3, 3, 1])}
        ),
        "pointers": lambda: KernelCase({"values": _values(3, 4), "index": _index([2])}),
        "long rows": lambda: KernelCase({"values": _values(2, 20000), "index": _index([1, 0])}),
    },
    lambda: KernelCase(
        {
            "values": _values(64, 1024, 64),
            "index": np.arange(8)[:, None] + np.arange(7),
        }
    ),
)
STORE = Kernel(
    "store_slots",
    "slots.cu",
    store_slots,
    lambda shapes, _: {"values": (shapes["before"], "float32")},
    _store_plan,
    {
        "two": lambda: KernelCase(
            {
                "memories": _values(2, 16, 8),
                "index": np.array([4, 1]),
                "before": _values(5, 16, 8),
            },
            {"is_rounded": True},
        ),
        "as they are": lambda: KernelCase(
            {
                "memories": _values(2, 300),
                "index": np.array([0, 2]),
                "before": _values(3, 300),
            },
            {"is_rounded": False},
        ),
        "ties": lambda: KernelCase(
            {
                "memories": (1 + np.arange(64) / 256).astype(np.float32)[None],
                "index": np.array([0]),
                "before": _values(1, 64),
            },
            {"is_rounded": True},
        ),
    },
    lambda: KernelCase(
        {
            "memories": _values(8, 1024, 64),
            "index": np.arange(8) * 3,
            "before": _values(64, 1024, 64),
        },
        {"is_rounded": True},
    ),
    starts_from={"values": "before"},
)
SIMILARITY = Kernel(
    "slot_similarity",
    "slots.cu",
    lambda values, index, probe: {"cosines": slot_similarity(values, index, probe)},
    lambda shapes, _: {"cosines": ((shapes["index"][0],), "float32")},
    _similarity_plan,
    {
        "some": lambda: KernelCase(
            {"values": _values(6, 100), "index": np.array([5, 0, 2]), "probe": _values(100)}
        ),
        "short": lambda: KernelCase(
            {"values": _values(2, 3), "index": np.array([1]), "probe": _values(3)}
        ),
        "nothing": lambda: KernelCase(
            {
                "values": np.zeros((2, 40), np.float32),
                "index": np.array([0, 1]),
                "probe": _values(40),
            }
        ),
    },
    lambda: KernelCase(
        {
            "values": _values(32, 256 * 1024),
            "index": np.arange(32),
            "probe": _values(256 * 1024),
        }
    ),
    tolerance=1e-5,
)
