"""The bundle's attention node, ONNX Runtime's MultiHeadAttention, in operators that every engine knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"
SPELLINGS = ("fused", "unfused")
"""`fused` is what engines look for to put a fused kernel in its place. In `unfused` the division comes last, which is
the same algebra and which no engine recognises: fused kernels have been silently wrong in several releases."""


@dataclass(slots=True)
class Writer:
    """Adds nodes under one prefix to a list.

    Attributes:
        onnx: the package.
        prefix: of the names of all tensors made.
        nodes: made so far.
        initializers: constants made so far.
    """

    onnx: Any
    prefix: str
    nodes: list[Any]
    initializers: list[Any]

    def constant(self, values: Any, name: str) -> str:
        """A constant tensor."""
        full = f"{self.prefix}{name}"
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(values), full))
        return full

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node of one output, called `name`."""
        full = f"{self.prefix}{name}"
        made = self.onnx.helper.make_node(operator, inputs, [full], name=full, **attributes)
        self.nodes.append(made)
        return full


def spell_out(onnx: Any, node: Any, spelling: str) -> tuple[list[Any], list[Any]]:
    """Nodes and initializers that compute what one attention node does, under its output's name.

    Query (b, T, heads d), key (b, N, heads d) and value (b, N, heads e); b, T and N may be dynamic. The scale is on
    the query, where TensorRT's documentation wants it.
    """
    w = Writer(onnx, f"{node.output[0]}/", [], [])
    (heads,) = (a.i for a in node.attribute if a.name == "num_heads")
    apart = w.constant(np.array([0, 0, heads, -1], np.int64), "apart")
    query, key, value = (
        w.node("Reshape", [tensor, apart], f"{name}_heads")
        for tensor, name in zip(node.input, ("query", "key", "value"), strict=True)
    )
    query = w.node("Transpose", [query], "query", perm=[0, 2, 1, 3])
    key = w.node("Transpose", [key], "key", perm=[0, 2, 3, 1])
    value = w.node("Transpose", [value], "value", perm=[0, 2, 1, 3])
    scaled = w.node("Mul", [query, _scale(w, query)], "scaled")
    scores = w.node("MatMul", [scaled, key], "scores")
    read = _fused(w, scores, value) if spelling == "fused" else _unfused(w, scores, value)
    together = w.node("Transpose", [read], "together", perm=[0, 2, 1, 3])
    flat = w.constant(np.array([0, 0, -1], np.int64), "flat")
    w.nodes.append(onnx.helper.make_node("Reshape", [together, flat], [node.output[0]]))
    return w.nodes, w.initializers


def _scale(w: Writer, query: str) -> str:
    """1 / sqrt(d), from the query's own shape, which is static."""
    shape = w.node("Shape", [query], "shape", start=3)
    size = w.node("Cast", [shape], "size", to=w.onnx.TensorProto.FLOAT)
    root = w.node("Sqrt", [size], "root")
    return w.node("Reciprocal", [root], "scale")


def _fused(w: Writer, scores: str, value: str) -> str:
    return w.node("MatMul", [w.node("Softmax", [scores], "shares", axis=-1), value], "read")


def _unfused(w: Writer, scores: str, value: str) -> str:
    axis = w.constant(np.array([-1], np.int64), "axis")
    largest = w.node("ReduceMax", [scores, axis], "largest", keepdims=1)
    weights = w.node("Exp", [w.node("Sub", [scores, largest], "below")], "weights")
    total = w.node("ReduceSum", [weights, axis], "total", keepdims=1)
    return w.node("Div", [w.node("MatMul", [weights, value], "sum"), total], "read")


def spelled_out(onnx: Any, graph: Any, spelling: str) -> Iterator[Any]:
    """A graph's nodes with every attention node spelled out; constants are added to the graph."""
    for node in graph.node:
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            nodes, constants = spell_out(onnx, node, spelling)
            graph.initializer.extend(constants)
            yield from nodes
        else:
            yield node
