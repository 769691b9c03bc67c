"""Low-resolution logits to masks of the slice's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks
from kernels.resize import resize, taps

THREADS = 256
TABLES = ("low_y", "share_y", "low_x", "share_x")


def mask_of_logits(logits: NDArray[np.float32], size: tuple[int, int]) -> Arrays:
    """`mask` (b, h, w) uint8 of logits (b, low, low), resized to `size` (h, w)."""
    return {"mask": (resize(logits, size) > 0).astype(np.uint8)}


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    return {"mask": ((shapes["logits"][0], *numbers["size"]), "uint8")}


def _tables(shapes: Shapes, numbers: Numbers) -> Arrays:
    tables: dict[str, NDArray[Any]] = {}
    for axis, side in zip("yx", numbers["size"], strict=True):
        low, _, share = taps(shapes["logits"][1], side)
        tables |= {f"low_{axis}": low.astype(np.int32), f"share_{axis}": share}
    return tables


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    rows, low, _ = shapes["logits"]
    height, width = (np.int32(side) for side in numbers["size"])
    grid = (blocks(int(width), THREADS), int(height), rows)
    arguments = ("logits", *TABLES, "mask", np.int32(low), height, width)
    return [Launch("mask_of_logits", grid, (THREADS, 1, 1), arguments)]


def _case(rows: int, low: int, size: tuple[int, int], level: float = 0.0) -> KernelCase:
    rng = np.random.default_rng(low)
    smooth = resize(rng.standard_normal((rows, 5, 5)).astype(np.float32), (low, low))
    return KernelCase({"logits": smooth + np.float32(level)}, {"size": size})


KERNEL = Kernel(
    "mask",
    "mask.cu",
    mask_of_logits,
    _outputs,
    _plan,
    {
        "enlarged": lambda: _case(3, 16, (50, 70)),
        "shrunk": lambda: _case(2, 32, (20, 11)),
        "wide": lambda: _case(1, 16, (9, 600)),
        "empty": lambda: _case(2, 16, (30, 30), level=-9.0),
        "full": lambda: _case(2, 16, (30, 30), level=9.0),
        "one pixel": lambda: _case(1, 1, (1, 1), level=9.0),
    },
    lambda: _case(8, 128, (512, 512)),
    tables=_tables,
)
