"""A bundle's graph as TensorRT is given it: plain operators, and every tensor of the type that it is computed in.

TensorRT 11 and TensorRT-RTX are strongly typed: precision is what the graph's own types say, and nothing else. Rules
are those of PyTorch's autocast, which the reduced precisions are compared with: products in half precision, everything
delicate in float32. The only file of the runtime that needs the `onnx` package, and only when an engine is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from runtime.backends.typed_attention import spelled_out
from runtime.errors import BackendUnavailable, BundleError

OPSET = 22  # the first in which convolutions and pooling are defined for bfloat16
LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Precision:
    """What is computed in half precision.

    Attributes:
        half: "bfloat16", "float16", or None for none.
        graphs: in which graphs.
        attention: a key of `typed_attention.SPELLINGS`.
    """

    half: str | None
    graphs: tuple[str, ...] = ()
    attention: str = "fused"


HEAVY = ("image_encoder", "memory_attention")
# The decoder stays in float32 in all of them: what it finds decides what is kept, what is absent and which candidate is
# taken. Public reports on float16 (cjaverliat/sam2): encoder and memory attention are safe, all graphs together lose
# the object through the recurrent loop.
PRECISIONS = {
    "fp32": Precision(None),
    "bf16": Precision("bfloat16", (*HEAVY, "memory_encoder")),
    "fp16": Precision("float16", (*HEAVY, "memory_encoder")),
    "mixed": Precision("float16", HEAVY),
}

PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
# Half only where everything that comes in is half already: they move numbers, add a bias, or pick the largest. Softmax
# is among them because a fused kernel does it inside in float32; unfused, it is spelled out in operators that are not.
# Not among them: Mul, which turns queries and keys by their positions; Div, Exp, Erf, LayerNormalization; nor Gather,
# of which TensorRT-RTX 1.7 builds no engine in the image encoder ("CHECK(def_tactic_desc) failed").
FOLLOWERS = {
    *("Add", "Concat", "Expand", "Flatten", "Identity", "MaxPool", "Pad", "Relu"),
    *("Reshape", "Slice", "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}


def typed_graph(data: bytes, precision: Precision, graph: str) -> bytes:
    """A graph of a bundle in the types that it is to be computed in; its inputs and outputs keep theirs.

    Args:
        data: the graph, in float32.
        precision: one of `PRECISIONS`, or of your own.
        graph: its name in the contract.

    Raises BackendUnavailable without the onnx package, BundleError for what is no such graph.
    """
    try:
        onnx: Any = import_module("onnx")
        import_module("onnx.shape_inference")
    except ImportError as error:
        raise BackendUnavailable(
            f"engines are built from typed graphs, which needs a package: {error}; pip install onnx"
        ) from error
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # protobuf's own classes
        raise BundleError(f"{graph} is not an ONNX graph: {error}") from error
    _widen_weights(onnx, model.graph)
    nodes = list(spelled_out(onnx, model.graph, precision.attention))
    _replace_nodes(model.graph, nodes)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    if precision.half is not None and graph in precision.graphs:
        Lowering(onnx, model, precision.half).lower()
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _widen_weights(onnx: Any, graph: Any) -> None:
    """Weights that the bundle stores as float16 behind a Cast, in float32 without it."""
    stored = {weight.name: weight for weight in graph.initializer}
    kept = []
    for node in graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = onnx.numpy_helper.to_array(weight).astype(np.float32)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
    _replace_nodes(graph, kept)


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


class Lowering:
    """Puts a float32 graph's products into half precision.

    Args:
        onnx: the package.
        model: to be changed.
        half: "bfloat16" or "float16".
    """

    def __init__(self, onnx: Any, model: Any, half: str) -> None:
        self._onnx, self._graph, self._half = onnx, model.graph, half
        self._type = getattr(onnx.TensorProto, half.upper())
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=False)
        typed = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        single = onnx.TensorProto.FLOAT
        self._floats = {v.name for v in typed if v.type.tensor_type.elem_type == single}
        self._weights = {w.name: w for w in model.graph.initializer}
        self._floats |= {name for name, w in self._weights.items() if w.data_type == single}
        self._constants = set(self._weights)
        self._halves: set[str] = set()  # tensors computed in half
        self._made: dict[tuple[str, bool], str] = {}  # casts, by tensor and whether to half
        self._nodes: list[Any] = []

    def lower(self) -> None:
        """Change the graph."""
        results = {value.name for value in self._graph.output}
        for node in self._graph.node:
            floats = [name for name in node.input if name in self._floats]
            if all(name in self._constants for name in node.input if name):
                self._constants.update(node.output)
            is_half = self._is_half(node.op_type, floats)
            for i, name in enumerate(node.input):
                if name in self._floats:
                    node.input[i] = self._as(name, is_half)
            self._nodes.append(node)
            if not is_half:
                continue
            for i, name in enumerate(node.output):
                if name in results:  # the contract's outputs stay float32
                    node.output[i] = f"{name}/{self._half}"
                    self._cast(node.output[i], name, self._onnx.TensorProto.FLOAT)
                else:
                    self._halves.add(name)
        _replace_nodes(self._graph, self._nodes)
        used = {name for node in self._graph.node for name in node.input}
        kept = [w for w in self._graph.initializer if w.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _is_half(self, operator: str, floats: list[str]) -> bool:
        variable = [name for name in floats if name not in self._constants]
        if not variable or not all(self._fits(name) for name in floats):
            return False
        if operator in PRODUCTS:
            return True
        return operator in FOLLOWERS and all(name in self._halves for name in variable)

    def _fits(self, name: str) -> bool:
        """Whether a weight is within half precision's range; of anything else nothing is known."""
        weight = self._weights.get(name)
        if weight is None or self._half != "float16":
            return True
        values = self._onnx.numpy_helper.to_array(weight)
        return values.size == 0 or bool(np.abs(values).max() <= LARGEST_FLOAT16)

    def _as(self, name: str, to_half: bool) -> str:
        """A tensor in the type asked for: itself, a weight stored so, or a Cast, of which there is never another."""
        if to_half == (name in self._halves):
            return name
        if (name, to_half) not in self._made:
            kind = self._type if to_half else self._onnx.TensorProto.FLOAT
            target = f"{name}/{self._half if to_half else 'float32'}"
            if to_half and name in self._weights:
                self._store(name, target)
            else:
                self._cast(name, target, kind)
            self._made[name, to_half] = target
        return self._made[name, to_half]

    def _store(self, name: str, target: str) -> None:
        numbers = self._onnx.numpy_helper.to_array(self._weights[name])
        stored = self._onnx.helper.make_tensor(
            target, self._type, numbers.shape, self._bytes(numbers), raw=True
        )
        self._graph.initializer.append(stored)

    def _bytes(self, numbers: Any) -> bytes:
        if self._half == "float16":
            return bytes(numbers.astype("<f2").tobytes())
        bits = numbers.astype("<f4").view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
        return bytes(rounded.astype("<u2").tobytes())

    def _cast(self, name: str, target: str, kind: int) -> None:
        self._nodes.append(self._onnx.helper.make_node("Cast", [name], [target], to=kind))
