"""Attention in plain ONNX operators, described without onnx.

The scale is on the query, before the product: scores stay small, and TensorRT asks for it there before it fuses
(docs.nvidia.com/deeplearning/tensorrt, "Fused Attention").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FORMS = ("fused", "unfused")
SCORES = "/scores"  # what the names of scores end in
# Weights that are not normalised yet are at most 1, so that 32768 keys may sum up to 32768 times their values, which
# float16 holds (65504) only if values are made smaller. Not the weights: those of keys that count may be small beside
# one that has slot weight 0, and have no bits to lose. A power of two rounds nothing.
VALUE_SCALE = 2.0**-8

QUERY_AXES = [0, 2, 1, 3]  # (b, T, heads, d) to (b, heads, T, d) and back
KEY_AXES = [0, 2, 3, 1]  # (b, T, heads, d) to (b, heads, d, T)


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of ONNX's own domain, with one output, after which it is named."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AttentionNode:
    """Tensors of one attention, and how many heads it has.

    Attributes:
        query, key: names, float (b, T, heads * d), each with its own T.
        value: name, float (b, T of the key, heads * e); e need not be d.
        output: name, float (b, T of the query, heads * e).
        num_heads: heads.
        scale: what scores are multiplied by.
    """

    query: str
    key: str
    value: str
    output: str
    num_heads: int
    scale: float


@dataclass(slots=True)
class Lowered:
    """Operators and constants that replace one attention, in order."""

    prefix: str
    ops: list[Op] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def add(self, kind: str, *inputs: str | Array, to: str | None = None, **attributes: Any) -> str:
        """Append an operator; arrays among its inputs become constants. Returns its output's name."""
        output = to or f"{self.prefix}/{len(self.ops)}_{kind}"
        names = []
        for i, source in enumerate(inputs):
            if not isinstance(source, str):
                self.constants[f"{output}/{i}"] = source
                source = f"{output}/{i}"
            names.append(source)
        self.ops.append(Op(kind, tuple(names), output, attributes))
        return output


def lower(attention: AttentionNode, form: str) -> Lowered:
    """Plain operators of an attention.

    Args:
        attention: the tensors.
        form: "fused", softmax as one operator between two products, which engines know how to fuse; or "unfused",
            exp(scores - max) against the values, divided by its sum afterwards: equal in exact arithmetic, and no
            pattern that TensorRT knows, whose fused kernels in float16 were seen to overflow where keys are very many
            (github.com/tier4/autoware-ml/pull/95).
    """
    out = Lowered(attention.output)
    split = np.array([0, 0, attention.num_heads, -1], np.int64)  # 0 keeps an axis, dynamic or not
    query, key, value = (
        out.add("Transpose", out.add("Reshape", name, split), perm=axes)
        for name, axes in (
            (attention.query, QUERY_AXES),
            (attention.key, KEY_AXES),
            (attention.value, QUERY_AXES),
        )
    )
    scaled = out.add("Mul", query, np.array([attention.scale], np.float32))
    scores = out.add("MatMul", scaled, key, to=f"{attention.output}{SCORES}")
    read = (_fused if form == "fused" else _unfused)(out, scores, value)
    joined = out.add("Transpose", read, perm=QUERY_AXES)
    out.add("Reshape", joined, np.array([0, 0, -1], np.int64), to=attention.output)
    return out


def _fused(out: Lowered, scores: str, value: str) -> str:
    return out.add("MatMul", out.add("Softmax", scores, axis=-1), value)


def _unfused(out: Lowered, scores: str, value: str) -> str:
    last, small = np.array([-1], np.int64), np.array([VALUE_SCALE], np.float32)
    highest = out.add("ReduceMax", scores, last)
    weights = out.add("Exp", out.add("Sub", scores, highest))
    read = out.add("MatMul", weights, out.add("Mul", value, small))
    return out.add("Div", read, out.add("Mul", out.add("ReduceSum", weights, last), small))
