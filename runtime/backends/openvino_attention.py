"""Attention as OpenVINO runs it fastest: two products with a softmax between them, which its CPU plugin fuses itself.

Its own operator, `ScaledDotProductAttention`, comes apart into the same three, and turns every key about beforehand:
4 ms of the 57 that SAM 2.1 tiny's memory attention takes at 512 pixels, 7 of its encoder's 80 (benchmarks/notes.md).
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import openvino.opset13 as ops


@cache
def source_digest() -> str:
    """SHA-256 of this file: a model that was compiled with attention spelled otherwise is another one."""
    return sha256(Path(__file__).read_bytes()).hexdigest()


def attention(node: Any) -> Any:
    """The bundle's attention node, ONNX Runtime's MultiHeadAttention: (b, n, heads * c) of each query.

    Queries are scaled rather than scores, which are many more; OpenVINO does it at the end of their projection.
    """
    query, key, value = (node.get_input(i) for i in range(3))
    heads = node.get_attribute("num_heads")
    scale = (query.get_partial_shape()[2].get_length() // heads) ** -0.5
    query = ops.multiply(query, ops.constant(np.float32(scale)))
    query, key, value = (_by_head(x, heads) for x in (query, key, value))
    shares = ops.softmax(ops.matmul(query, key, False, True), -1)
    return _joined(ops.matmul(shares, value, False, False), heads).outputs()


def _by_head(tokens: Any, heads: int) -> Any:
    """(b, heads, n, c) of (b, n, heads * c). One head needs no transposition, and OpenVINO would do it."""
    if heads == 1:
        return ops.unsqueeze(tokens, _ints(1))
    return ops.transpose(ops.reshape(tokens, _ints(0, 0, heads, -1), True), _ints(0, 2, 1, 3))


def _joined(tokens: Any, heads: int) -> Any:
    """(b, n, heads * c) of (b, heads, n, c)."""
    if heads == 1:
        return ops.squeeze(tokens, _ints(1))
    return ops.reshape(ops.transpose(tokens, _ints(0, 2, 1, 3)), _ints(0, 0, -1), True)


def _ints(*numbers: int) -> Any:
    return ops.constant(list(numbers), dtype=np.int64)
