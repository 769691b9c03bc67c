"""Reading memory on the device: attention of one head, whose keys have weights.

out = sum_j w_j e^s_j v_j / sum_j w_j e^s_j with s = q . k / sqrt(KEY_CHANNELS). A weight of 0 is an exact mask, as in
`export.exact.memory_attention`; there the weights come multiplied into the values, here values are plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import from_bits, to_bits
from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks

KEY_CHANNELS, VALUE_CHANNELS = 256, 64
THREADS = 256
QUERIES, KEYS = 128, 32  # tiles of `memory_read.cu`
BLOCKS = 128  # to share the work among: about an H100's 132 multiprocessors, of which each holds one block
FEWEST_TILES = 4  # of a split: below, queries and scratch cost more than keys

# Shares w e^(s - max) are rounded to bfloat16, by up to 2^-9 of each, to be multiplied with the values. Their sum takes
# the rounded ones, so that one key alone gives its value exactly. Measured on the host: 1.6e-3 at the workload; in
# numpy, 2.9e-3 where as many keys have nearly equal shares, so that the mean is small.
TOLERANCE = 4e-3


def memory_read(
    query: NDArray[np.uint16],
    key: NDArray[np.uint16],
    value: NDArray[np.uint16],
    weight: NDArray[np.float32],
) -> Arrays:
    """`out` (b, T, 64) float32, in double precision inside.

    Args:
        query: (b, T, 256), bits of finite bfloat16 numbers.
        key: (b, N, 256), likewise.
        value: (b, N, 64), likewise.
        weight: (b, N), non-negative; where all are 0, `out` is 0.
    """
    q, k, v = (from_bits(bits).astype(np.float64) for bits in (query, key, value))
    out = np.zeros((*q.shape[:2], v.shape[-1]), np.float32)
    for i, seen in enumerate(weight > 0):
        if seen.any():
            logits = q[i] @ k[i, seen].T / math.sqrt(KEY_CHANNELS)
            shares = np.exp(logits - logits.max(-1, keepdims=True)) * weight[i, seen]
            out[i] = shares @ v[i, seen] / shares.sum(-1, keepdims=True)
    return {"out": out}


def tiles_a_split(shapes: Shapes) -> int:
    """Tiles of keys that one block reads: as many as leave BLOCKS blocks, or one split."""
    (b, queries, _), keys = shapes["query"], shapes["key"][1]
    splits = max(1, BLOCKS // (b * blocks(queries, QUERIES)))
    return max(blocks(blocks(keys, KEYS), splits), FEWEST_TILES)


def _splits(shapes: Shapes) -> int:
    return max(1, blocks(shapes["key"][1], KEYS * tiles_a_split(shapes)))


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    b, queries, _ = shapes["query"]
    parts = (_splits(shapes), b, queries)
    return {
        "best": (parts, "float32"),
        "sum": (parts, "float32"),
        "partial": ((*parts, VALUE_CHANNELS), "float32"),
        "out": ((b, queries, VALUE_CHANNELS), "float32"),
    }


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    (b, queries, _), keys, splits = shapes["query"], shapes["key"][1], _splits(shapes)
    inputs, parts = ("query", "key", "value", "weight"), ("best", "sum", "partial")
    counts = (np.int32(queries), np.int32(keys), np.int32(tiles_a_split(shapes)))
    return [
        Launch(
            "memory_read_split",
            (blocks(queries, QUERIES), splits, b),
            (THREADS, 1, 1),
            (*inputs, *parts, *counts),
        ),
        Launch(
            "memory_read_merge",
            (blocks(b * queries * VALUE_CHANNELS, THREADS), 1, 1),
            (THREADS, 1, 1),
            (*parts, "out", np.int32(splits), np.int32(b * queries)),
        ),
    ]


Weights = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def case(b: int, queries: int, keys: int, weights: Weights, scale: float = 1.0) -> KernelCase:
    """Seeded inputs with logits of about `scale` and weights (b, keys) as drawn."""
    rng = np.random.default_rng(b * queries + keys)

    def bits(*shape: int, size: float = 1.0) -> NDArray[np.uint16]:
        return to_bits((size * rng.standard_normal(shape)).astype(np.float32))

    return KernelCase(
        {
            "query": bits(b, queries, KEY_CHANNELS, size=scale),
            "key": bits(b, keys, KEY_CHANNELS),
            "value": bits(b, keys, VALUE_CHANNELS),
            "weight": weights(rng, (b, keys)).astype(np.float32),
        }
    )


def _ones(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.ones(shape)


def _fractions(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.uniform(0.05, 1, shape)


def _any_size(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Draw weights from 1e-44, which is no normal float32, to 1e38."""
    return 10 ** rng.uniform(-44, 38, shape)


def _some_zero(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Draw weights with zeros: within tiles, in two whole tiles, at the last key, and in all of the second row."""
    weights = rng.integers(0, 3, shape) / 2.0
    weights[:, KEYS : 3 * KEYS] = 0
    weights[:, -1] = 0
    weights[1:2] = 0
    return weights


KERNEL = Kernel(
    "memory_read",
    "memory_read.cu",
    memory_read,
    _outputs,
    _plan,
    {
        "one tile": lambda: case(1, 16, 32, _ones),
        "one key": lambda: case(1, 3, 1, _fractions),
        "ragged queries": lambda: case(1, 139, 40, _fractions),
        "ragged keys in several splits": lambda: case(1, 5, 333, _fractions),
        "zero weights": lambda: case(3, 7, 5 * KEYS + 9, _some_zero),
        "weights of any size": lambda: case(1, 9, 90, _any_size),
        "large logits": lambda: case(2, 20, 150, _fractions, scale=300.0),
        "small logits": lambda: case(1, 20, 150, _fractions, scale=0.01),
    },
    lambda: case(1, 1024, 7 * 1024 + 64, _ones),
    tolerance=TOLERANCE,
)
