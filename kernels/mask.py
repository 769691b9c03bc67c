"""Low-resolution logits to masks of the slice's size, with area and tight box: what goes back to the host.

A box is (y0, y1, x0, x1), half-open; of an empty mask (height, 0, width, 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks
from kernels.resize import resize, taps

THREADS = 256
TABLES = ("low_y", "share_y", "low_x", "share_x")


def mask_of_logits(logits: NDArray[np.float32], size: tuple[int, int]) -> Arrays:
    """`mask` (b, h, w) uint8, `area` (b,) and `box` (b, 4) int32 of logits (b, low, low), resized to (h, w)."""
    mask = resize(logits, size) > 0
    height, width = size
    box = np.tile(np.array([height, 0, width, 0], np.int32), (len(mask), 1))
    for one, found in zip(mask, box, strict=True):
        for start, axis in ((0, 1), (2, 0)):
            if (held := np.flatnonzero(one.any(axis))).size:
                found[start : start + 2] = held[0], held[-1] + 1
    return {
        "mask": mask.astype(np.uint8),
        "area": mask.sum((1, 2)).astype(np.int32),
        "box": box,
    }


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    rows, size = shapes["logits"][0], tuple(numbers["size"])
    return {
        "mask": ((rows, *size), "uint8"),
        "area": ((rows,), "int32"),
        "box": ((rows, 4), "int32"),
    }


def _tables(shapes: Shapes, numbers: Numbers) -> Arrays:
    tables: dict[str, NDArray[Any]] = {}
    for axis, side in zip("yx", numbers["size"], strict=True):
        low, _, share = taps(shapes["logits"][1], side)
        tables |= {f"low_{axis}": low.astype(np.int32), f"share_{axis}": share}
    return tables


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    rows, low, _ = shapes["logits"]
    height, width = (np.int32(side) for side in numbers["size"])
    return [
        Launch(
            "clear_statistics",
            (blocks(rows, THREADS), 1, 1),
            (THREADS, 1, 1),
            ("area", "box", np.int32(rows), height, width),
        ),
        Launch(
            "mask_of_logits",
            (blocks(int(width), THREADS), int(height), rows),
            (THREADS, 1, 1),
            ("logits", *TABLES, "mask", "area", "box", np.int32(low), height, width),
        ),
    ]


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
