"""The shape of every tensor of an ONNX graph once its dynamic axes have lengths.

ONNX's own inference stops at shapes that are computed along the way and at operators of ONNX Runtime, so nodes are
walked one by one: what a `Shape` says is kept as a value, arithmetic on such values is done at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.defs import get_schema
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

from runtime.errors import BundleError

Shape = tuple[int, ...]
MAX_VALUES = 4096  # of a tensor that is kept by value: shapes and indices, not weights
ATTENTION = "MultiHeadAttention"


def infer_shapes(
    model: onnx.ModelProto,
    axes: Mapping[str, int],
    values: Mapping[str, NDArray[np.generic]] | None = None,
) -> dict[str, Shape]:
    """Shapes of inputs, weights and everything in between.

    Args:
        model: without subgraphs.
        axes: length of each dynamic axis by its name.
        values: of inputs that decide about shapes: pooled memories are read in full where a row weighs just one.

    Raises BundleError for a tensor whose shape cannot be known.
    """
    walk = _Walk(model, axes, values or {})
    for node in model.graph.node:
        walk.visit(node)
    return {name: _sides(name, kind) for name, kind in walk.types.items()}


class _Walk:
    """What is known of the tensors met so far: types of all, values of small ones."""

    def __init__(
        self,
        model: onnx.ModelProto,
        axes: Mapping[str, int],
        values: Mapping[str, NDArray[np.generic]],
    ) -> None:
        self.types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, NDArray[np.generic]] = dict(values)
        self._opsets = list(model.opset_import)
        self._versions = {opset.domain: opset.version for opset in self._opsets}
        for tensor in model.graph.initializer:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if np.prod(tensor.dims) <= MAX_VALUES:
                self._values[tensor.name] = numpy_helper.to_array(tensor)
        for value in model.graph.input:
            self.types[value.name] = _bound(value, axes)

    def visit(self, node: onnx.NodeProto) -> None:
        """Learn a node's outputs."""
        if node.op_type == ATTENTION:
            self._attention(node)
            return
        schema = get_schema(node.op_type, self._versions[node.domain], node.domain)
        inputs = [name for name in node.input if name]
        constants = {name: self._values[name] for name in inputs if name in self._values}
        try:
            types = infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in inputs},
                {name: numpy_helper.from_array(value, name) for name, value in constants.items()},
                opset_imports=self._opsets,
            )
        except onnx.shape_inference.InferenceError as error:
            raise BundleError(
                f"no shape for node '{node.name}' ({node.op_type}): {error}"
            ) from error
        self.types.update(types)
        self._evaluate(node, inputs, constants)

    def _attention(self, node: onnx.NodeProto) -> None:
        """Queries (b, q, h) and values (b, k, v) give (b, q, v)."""
        query, _, value = (_sides(name, self.types[name]) for name in node.input[:3])
        kind = self.types[node.input[0]].tensor_type.elem_type
        self.types[node.output[0]] = helper.make_tensor_type_proto(kind, (*query[:2], value[-1]))

    def _evaluate(
        self, node: onnx.NodeProto, inputs: list[str], constants: Mapping[str, NDArray[np.generic]]
    ) -> None:
        if node.op_type == "Shape":
            span = {attribute.name: attribute.i for attribute in node.attribute}
            sides = _sides(inputs[0], self.types[inputs[0]])
            self._values[node.output[0]] = np.array(
                sides[span.get("start", 0) : span.get("end", len(sides))], np.int64
            )
            return
        if not all(name in constants for name in inputs):
            return
        sizes = [np.prod(_sides(name, self.types[name])) for name in node.output if name]
        if max(sizes) <= MAX_VALUES:
            results = ReferenceEvaluator(node).run(None, dict(constants))
            self._values.update(zip(node.output, results, strict=True))


def _bound(value: onnx.ValueInfoProto, axes: Mapping[str, int]) -> onnx.TypeProto:
    tensor = value.type.tensor_type
    sides = [axes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
    return helper.make_tensor_type_proto(tensor.elem_type, sides)


def _sides(name: str, kind: onnx.TypeProto) -> Shape:
    shape = kind.tensor_type.shape
    if not kind.tensor_type.HasField("shape") or not all(
        dim.HasField("dim_value") for dim in shape.dim
    ):
        raise BundleError(f"the shape of tensor '{name}' cannot be known beforehand")
    return tuple(dim.dim_value for dim in shape.dim)
