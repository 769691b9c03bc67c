"""What each operator of a graph computes in when the graph is lowered to half precision.

As mixed-precision training does it: matrix products and convolutions in half the bits, what is numerically delicate in
float32. Delicate is all that is not named here, and these above all:

- softmax and its parts, normalisation, GELU, sines;
- sums of two computed tensors: the residual stream is added to many times, and rounding it each time would pile up;
- rotary codes, products with tables of cosines and sines, as SAM 2 itself does it;
- scores of memory attention (`Precision.exact_scores`): where a network is sure they reach 100, and half a unit of
  bfloat16 is there a quarter, a share of 1.3 instead of 1. On the embedded model bfloat16 is off by 1.3 % with them and
  by 8 % without. No fused kernel is lost by it, since keys have 256 channels and values 65;
- the division by slot weights in memory attention (export/exact/memory_attention.py). Weighted memories and weights are
  read in half, P [w m], which rounds each once; their ratio is taken in float32, from what both were rounded to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.backends.lowering.typed_attention import Array

FLOAT = "float32"
RANGES = {  # largest and smallest normal magnitude
    "float16": (65504.0, 2.0**-14),
    "bfloat16": (2.0**128 - 2.0**120, 2.0**-126),
}


def _always(constants: Sequence[Array]) -> bool:
    return True


def _is_bias(constants: Sequence[Array]) -> bool:
    """One constant along one axis: neither the sum of two computed tensors nor a table of positions."""
    return len(constants) == 1 and sum(side > 1 for side in constants[0].shape) <= 1


def _is_factor(constants: Sequence[Array]) -> bool:
    return len(constants) == 1 and constants[0].size == 1


LOWERED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# These stay in half if all their computed inputs are and their floating constants are as said here. They move numbers
# about, choose among them (the maximum of halves is one of them), or belong to the product before or after.
FOLLOWING: dict[str, Callable[[Sequence[Array]], bool]] = {
    **dict.fromkeys(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"), _always),
    **dict.fromkeys(("Concat", "Slice", "Split", "Gather", "Expand", "Tile", "Pad"), _always),
    **dict.fromkeys(("Identity", "MaxPool", "ReduceMax", "Relu"), _always),
    "Add": _is_bias,
    "Mul": _is_factor,
}


def computes_in(
    kind: str, half: str | None, computed: Sequence[str], constants: Sequence[Array]
) -> str:
    """Type that an operator computes in: `half` or "float32".

    Args:
        kind: the operator.
        half: a key of `RANGES`, or None if nothing is lowered.
        computed: types of its floating inputs that are no constants.
        constants: its floating constants.
    """
    if half is None or not all(fits(values, half) for values in constants):
        return FLOAT
    if kind in LOWERED:
        return half
    follows = kind in FOLLOWING and set(computed) == {half} and FOLLOWING[kind](constants)
    return half if follows else FLOAT


def fits(values: Array, half: str) -> bool:
    """Whether a half type holds float32 values: none overflows or is infinite, and not all of them vanish."""
    largest, smallest = RANGES[half]
    highest = np.abs(values).max(initial=0)
    return bool(highest == 0 or smallest <= highest <= largest)  # false for nan
