"""Intensities to eight bits: clip, stretch what is left over 0..255 in float64, drop the fraction (MedSAM2's way)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks

THREADS = 256
ENTRIES = {"int16": "window_int16", "float32": "window_float32"}


def stretch(
    raw: NDArray[Any],
    lower: float,
    upper: float,
    low: float,
    high: float,
    keep_zero: bool,
) -> NDArray[np.uint8]:
    """Clip voxels and stretch them over uint8.

    Args:
        raw: voxels of any shape; NaN counts as `low`.
        lower, upper: to clip to.
        low, high: what becomes 0 and 255; all becomes 0 unless `high` is above `low`.
        keep_zero: voxels of exactly zero become zero.
    """
    out = np.zeros(raw.shape, np.uint8)
    if high <= low:
        return out
    values = np.clip(raw.astype(np.float64), lower, upper)
    np.copyto(values, low, where=np.isnan(values))
    out[...] = (values - low) / (high - low) * 255.0
    if keep_zero:
        out[raw == 0] = 0
    return out


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    return {"out": (shapes["raw"], "uint8")}


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    count = math.prod(shapes["raw"])
    bounds = [np.float64(numbers[name]) for name in ("lower", "upper", "low", "high")]
    keep_zero = np.int32(numbers["keep_zero"])
    arguments: tuple[str | np.generic, ...] = ("raw", "out", np.int64(count), *bounds, keep_zero)
    grid = (blocks(count, THREADS), 1, 1)
    return [Launch(ENTRIES[numbers["dtype"]], grid, (THREADS, 1, 1), arguments)]


def _reference(raw: NDArray[Any], dtype: str, **bounds: Any) -> Arrays:
    return {"out": stretch(raw, **bounds)}


def _case(
    dtype: str,
    bounds: tuple[float, float, float, float],
    keep_zero: bool = False,
    shape: tuple[int, ...] = (3, 11, 50),
) -> KernelCase:
    raw = np.random.default_rng(3).normal(40, 300, shape).astype(dtype)
    raw[0, 0, :5] = 0
    if dtype == "float32":
        raw[1, 2, :3] = np.nan
    names = ("lower", "upper", "low", "high")
    return KernelCase(
        {"raw": raw},
        {"dtype": dtype, "keep_zero": keep_zero, **dict(zip(names, bounds, strict=True))},
    )


KERNEL = Kernel(
    "window",
    "preprocess.cu",
    _reference,
    _outputs,
    _plan,
    {
        "CT": lambda: _case("int16", (-160, 240, -160, 240)),
        "narrower than its window": lambda: _case("int16", (-2000, 2000, -973, 1042)),
        "floating point": lambda: _case("float32", (-57.5, 164.25, -57.5, 164.25)),
        "zero is kept": lambda: _case("float32", (3, 700, 3, 700), keep_zero=True),
        "nothing to stretch": lambda: _case("int16", (-5, 5, 1, 1)),
    },
    lambda: _case("int16", (-160, 240, -160, 240), shape=(64, 512, 512)),
)
