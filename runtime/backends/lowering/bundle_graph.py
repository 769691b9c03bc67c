"""A bundle's ONNX graph as it is read before it is rewritten: what it may hold, what is known of its tensors.

The runtime needs onnx here and in `typed_graph` and `cut_graph`, and imports it when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.lowering.typed_attention import Array
from runtime.backends.lowering.typed_rules import FLOAT
from runtime.bundle.contract import TensorSpec
from runtime.errors import BackendUnavailable, BundleError

if TYPE_CHECKING:
    import onnx

# The first in which convolutions take bfloat16. From 20, the exporter's, to 22 the operators that bundles have were
# given more types and no other meaning (github.com/onnx/onnx, docs/Changelog.md).
OPSET, OLDEST_OPSET = 22, 20
IR_VERSION = 10  # of that opset
ELEMENTS = {FLOAT: 1, "float16": 10, "bfloat16": 16}  # TensorProto.DataType
ATTENTION = ("com.microsoft", "MultiHeadAttention")


class UnsupportedGraph(ValueError):
    """Something that no bundle in fp32 has, or that is not done to one."""


@dataclass(slots=True)
class TensorFacts:
    """What is known of tensors, by name.

    Attributes:
        elements: codes of `TensorProto.DataType`.
        shapes: lengths of axes; "?" is one that is not fixed, or not known.
        constants: values of initializers and of what follows from them.
    """

    elements: dict[str, int]
    shapes: dict[str, tuple[int | str, ...]]
    constants: dict[str, Array] = field(default_factory=dict)

    def is_float(self, name: str) -> bool:
        """Whether a tensor is float32."""
        return self.elements.get(name) == ELEMENTS[FLOAT]

    def spec(self, name: str) -> TensorSpec:
        """What is known of a float32 tensor. Raises UnsupportedGraph for any other."""
        if not self.is_float(name):
            raise UnsupportedGraph(f"{name} is no float32 tensor")
        return TensorSpec(self.shapes.get(name, ()))


@contextmanager
def rewriting(graph: str) -> Iterator[None]:
    """Whatever shows within that a graph is none of a bundle in fp32 leaves as BundleError.

    Raises BackendUnavailable without onnx.
    """
    try:
        import onnx.checker
        import onnx.shape_inference
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BackendUnavailable(
            f"graphs for TensorRT are made with onnx ({error}); pip install onnx"
        ) from error
    damages = (
        DecodeError,
        UnsupportedGraph,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    )
    try:
        yield
    except damages as error:
        raise BundleError(f"{graph} is no graph of a bundle in fp32: {error}") from error


def is_attention(node: onnx.NodeProto) -> bool:
    """Whether a node is ONNX Runtime's attention, the only one beside plain ONNX that bundles have."""
    return (node.domain, node.op_type) == ATTENTION


def read_graph(data: bytes) -> tuple[onnx.ModelProto, TensorFacts, list[onnx.NodeProto]]:
    """A graph, what is known of its tensors, and its nodes that depend on an input.

    What the other nodes compute is among the constants that are known. Raises UnsupportedGraph and onnx's own errors.
    """
    import onnx

    source = onnx.load_from_string(data)
    _check(source)
    facts = _facts_of(source)
    return source, facts, _folded(source, facts)


def _check(source: onnx.ModelProto) -> None:
    versions = {opset.domain: opset.version for opset in source.opset_import}
    if not OLDEST_OPSET <= versions.get("", 0) <= OPSET:
        raise UnsupportedGraph(f"it has opset {versions.get('')}")
    for node in source.graph.node:
        if node.domain and not is_attention(node):
            raise UnsupportedGraph(f"{node.name} is {node.domain} {node.op_type}")
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise UnsupportedGraph(f"{node.name} ({node.op_type}) has a graph of its own")


def _facts_of(source: onnx.ModelProto) -> TensorFacts:
    """Types of all tensors; onnx is told those of attention, which it does not know."""
    from onnx import helper, shape_inference

    source.graph.value_info.extend(
        helper.make_tensor_value_info(node.output[0], ELEMENTS[FLOAT], [None, None, None])
        for node in source.graph.node
        if is_attention(node)
    )
    graph = shape_inference.infer_shapes(source, data_prop=True).graph
    facts = TensorFacts({weight.name: weight.data_type for weight in source.graph.initializer}, {})
    for value in (*graph.input, *graph.value_info, *graph.output):
        facts.elements[value.name] = value.type.tensor_type.elem_type
        sides = value.type.tensor_type.shape.dim
        facts.shapes[value.name] = tuple(side.dim_value or "?" for side in sides)
    return facts


def _folded(source: onnx.ModelProto, facts: TensorFacts) -> list[onnx.NodeProto]:
    """Nodes that depend on an input; what the others compute is added to what is known."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    initializers = {weight.name: weight for weight in source.graph.initializer}
    fixed, constant, remaining = set(initializers), [], []
    for node in source.graph.node:
        if all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            constant.append(node)
        else:
            remaining.append(node)
    read = dict.fromkeys(name for node in remaining for name in node.input if name in fixed)
    computed = [name for name in read if name not in initializers]
    outputs = [helper.make_tensor_value_info(name, facts.elements[name], None) for name in computed]
    part = helper.make_graph(constant, "constants", [], outputs, source.graph.initializer)
    model = helper.make_model(part, opset_imports=source.opset_import)
    values = dict(zip(computed, ReferenceEvaluator(model).run(None, {}), strict=True))
    for name in read:
        value = values[name] if name in values else numpy_helper.to_array(initializers[name])
        dtype = helper.tensor_dtype_to_np_dtype(facts.elements[name])
        facts.constants[name] = np.asarray(value, dtype)
    return remaining
