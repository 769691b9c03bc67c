"""A bundle's graph as TensorRT is given it: plain operators whose own types say what is computed in which precision.

TensorRT 11 and TensorRT-RTX are strongly typed, so that nothing but the graph decides. What stays float32 within a
lowered graph, and why, is in `typed_rules`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.backends.lowering.bundle_graph import (
    ELEMENTS,
    IR_VERSION,
    OPSET,
    TensorFacts,
    UnsupportedGraph,
    is_attention,
    read_graph,
    rewriting,
)
from runtime.backends.lowering.typed_attention import SCORES, AttentionNode, lower
from runtime.backends.lowering.typed_rules import FLOAT, computes_in

if TYPE_CHECKING:
    import onnx


KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Precision:
    """What a graph computes in.

    Attributes:
        name: key of `PRECISIONS`.
        half: type of matrix products and convolutions: "float16", "bfloat16", or None for float32.
        graphs: those of `contract.GRAPHS` that are lowered; the others stay float32.
        attention: one of `typed_attention.FORMS`, or `KERNEL`: memory is read by `kernels.memory_read`, and what
            is left of attention is fused.
        exact_scores: those of `graphs` in which the scores of attention stay float32, from float32 queries and keys.
    """

    name: str
    half: str | None = None
    graphs: tuple[str, ...] = ()
    attention: str = "fused"
    exact_scores: tuple[str, ...] = ("memory_attention",)

    def lowers(self, graph: str) -> bool:
        """Whether a graph computes in half."""
        return self.half is not None and graph in self.graphs

    def cuts(self, graph: str) -> bool:
        """Whether a graph is cut where it reads memory."""
        return self.attention == KERNEL and graph == "memory_attention"

    @property
    def form(self) -> str:
        """Form of attention that a graph holds."""
        return "fused" if self.attention == KERNEL else self.attention


# The decoder is never lowered: what it finds decides what is kept, what is absent and which candidate is taken. With
# all else in float16, users of SAM 2 report that objects are lost along the stack; the two graphs of "mixed" are safe.
READERS = ("image_encoder", "memory_attention")
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32"),
        Precision("bf16", "bfloat16", (*READERS, "memory_encoder")),
        Precision("fp16", "float16", (*READERS, "memory_encoder")),
        Precision("mixed", "float16", READERS),
    )
}


def typed_graph(data: bytes, graph: str, precision: Precision) -> bytes:
    """The ONNX graph that TensorRT builds an engine of; the same bytes for the same arguments.

    Inputs and outputs keep names, axes and types. Constant expressions are folded, so that weights are initializers
    of the type that they are used in, equal ones stored once.

    Args:
        data: a graph of a bundle in fp32: ONNX, opset 20 to 22, with attention as com.microsoft MultiHeadAttention.
        graph: its name in `contract.GRAPHS`.
        precision: what to compute in.

    Raises BackendUnavailable without onnx, BundleError for anything else than a graph of a bundle in fp32.
    """
    with rewriting(graph):
        from onnx import checker

        half = precision.half if precision.lowers(graph) else None
        source, facts, plain = read_graph(data)
        nodes = _lowered(plain, facts, precision.form)
        model = _Typing(half, facts, graph in precision.exact_scores).model(nodes, source.graph)
        checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _lowered(
    nodes: Iterable[onnx.NodeProto], facts: TensorFacts, form: str
) -> Iterator[onnx.NodeProto]:
    """Nodes with each attention lowered."""
    from onnx import helper

    for node in nodes:
        if not is_attention(node):
            yield node
            continue
        plain = lower(attention_of(node, facts), form)
        for name, value in plain.constants.items():
            facts.constants[name] = value
            facts.elements[name] = helper.np_dtype_to_tensor_dtype(value.dtype)
        for op in plain.ops:
            facts.elements[op.output] = ELEMENTS[FLOAT]
            yield helper.make_node(op.kind, op.inputs, [op.output], name=op.output, **op.attributes)


def attention_of(node: onnx.NodeProto, facts: TensorFacts) -> AttentionNode:
    """ONNX Runtime's operator as it is used in bundles: no bias, mask or past.

    Raises UnsupportedGraph for any other.
    """
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if len(node.input) != 3 or not attributes.keys() <= {"num_heads", "scale"}:
        raise UnsupportedGraph(f"{node.name} ({node.op_type}) has more than query, key and value")
    query, key, value = node.input
    channels = (facts.spec(query).shape or ("?",))[-1]
    if isinstance(channels, str):
        raise UnsupportedGraph(f"the channels of {query}, the query of {node.name}, are not known")
    heads = attributes.get("num_heads")
    if type(heads) is not int or heads < 1:
        raise UnsupportedGraph(f"{node.name} ({node.op_type}) has {heads} heads")
    scale = attributes.get("scale") or (channels / heads) ** -0.5
    return AttentionNode(query, key, value, node.output[0], heads, scale)


class _Typing:
    """One pass over nodes in order. `x` is a float32 tensor, `x.float16` the same one in half.

    A tensor is cast at most once, when it is first read in the other type, and never what a cast made.
    """

    def __init__(self, half: str | None, facts: TensorFacts, has_exact_scores: bool) -> None:
        self._half, self._facts, self._has_exact_scores = half, facts, has_exact_scores
        self._nodes: list[onnx.NodeProto] = []
        self._types: dict[str, str] = {}  # what each computed floating tensor was computed in
        self._cast: set[str] = set()
        self._weights: dict[tuple[str, str], str] = {}
        self._stored: dict[bytes, str] = {}
        self._initializers: list[onnx.TensorProto] = []

    def model(self, nodes: Iterable[onnx.NodeProto], source: onnx.GraphProto) -> onnx.ModelProto:
        """The typed model of these nodes, with the inputs and outputs of `source`."""
        from onnx import helper

        self._types.update({x.name: FLOAT for x in source.input if self._facts.is_float(x.name)})
        for node in nodes:
            self._add(node)
        for value in source.output:
            self._read(value.name, FLOAT)
        graph = helper.make_graph(
            self._nodes, source.name, source.input, source.output, self._initializers
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _add(self, node: onnx.NodeProto) -> None:
        floats = [name for name in node.input if self._facts.is_float(name)]
        constants = self._facts.constants
        is_exact = self._has_exact_scores and node.output[0].endswith(SCORES)
        chosen = computes_in(
            node.op_type,
            None if is_exact else self._half,
            [self._types[name] for name in floats if name not in constants],
            [constants[name] for name in floats if name in constants],
        )
        node.input[:] = [self._read(name, chosen) for name in node.input]
        for name in node.output:
            if self._facts.is_float(name):
                self._types[name] = chosen
        node.output[:] = [self._name_as(name, chosen) for name in node.output]
        self._nodes.append(node)

    def _name_as(self, name: str, dtype: str) -> str:
        return f"{name}.{dtype}" if dtype != FLOAT and self._facts.is_float(name) else name

    def _read(self, name: str, dtype: str) -> str:
        """Name of a tensor in a type, where it is floating; cast or stored if this is the first to read it so."""
        if name in self._facts.constants:
            return self._stored_as(name, dtype)
        wanted = self._name_as(name, dtype)
        if self._types.get(name, dtype) != dtype and wanted not in self._cast:
            from onnx import helper

            source_name = self._name_as(name, self._types[name])
            self._cast.add(wanted)
            self._nodes.append(
                helper.make_node(
                    "Cast", [source_name], [wanted], f"{wanted}/Cast", to=ELEMENTS[dtype]
                )
            )
        return wanted

    def _stored_as(self, name: str, dtype: str) -> str:
        from onnx import helper, numpy_helper

        wanted = self._name_as(name, dtype)
        if (name, wanted) not in self._weights:
            values = self._facts.constants[name]
            if wanted != name:
                values = values.astype(helper.tensor_dtype_to_np_dtype(ELEMENTS[dtype]))
            stored = numpy_helper.from_array(values, wanted)
            content = f"{stored.data_type} {stored.dims} ".encode() + stored.raw_data
            key = hashlib.sha256(content).digest()
            if key not in self._stored:
                self._stored[key] = wanted
                self._initializers.append(stored)
            self._weights[name, wanted] = self._stored[key]
        return self._weights[name, wanted]
