"""A bundle's memory attention cut where it reads memory, so that `kernels.memory_read` reads it.

What lies between reads are segments, graphs of their own. Each computes what follows from the reads before it and from
no later one, so that the keys of all layers, which no read changes, come from the first. Values and weights are in no
segment: `kernels.pack_values` makes them of the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends.bundle_graph import (
    ELEMENTS,
    Foreign,
    is_attention,
    read_graph,
    rewriting,
)
from runtime.backends.memory_reads import GRAPH, Flow, Read, find_reads
from runtime.backends.typed_rules import FLOAT
from runtime.contract import ModelNumbers, TensorSpec, graph_specs

if TYPE_CHECKING:
    import onnx

BITS = "uint16"  # dtype of tensors that hold bfloat16 numbers, which numpy does not know
CODES = {FLOAT: ELEMENTS[FLOAT], "int64": 7, BITS: ELEMENTS["bfloat16"]}  # TensorProto.DataType
AXES = ("b", "k", "p")  # of what one segment hands to another


@dataclass(frozen=True, slots=True)
class Segment:
    """A graph between reads.

    Attributes:
        name: unique within the bundle.
        data: ONNX in fp32, attention spelled as in bundles.
        inputs, outputs: tensors of the contract by their names there, and those that segments and reads hand on; axes
            as in the contract, and for keys, which are outputs alone, "N" (`ModelNumbers.num_keys`).
    """

    name: str
    data: bytes
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True, slots=True)
class CutGraph:
    """Segments, one more than reads: first a segment, then a read, and so on.

    Attributes:
        segments: in order.
        reads: of queries and keys that earlier segments give.
    """

    segments: tuple[Segment, ...]
    reads: tuple[Read, ...]


def cut_graph(data: bytes, model: ModelNumbers, is_rounded: bool = True) -> CutGraph:
    """Cut memory attention at every read.

    Args:
        data: the bundle's graph in fp32.
        model: its numbers.
        is_rounded: segments give queries and keys as bfloat16 numbers; False leaves them float32.

    Raises BackendUnavailable without onnx, BundleError for a graph that does not read memory as the kernels do.
    """
    with rewriting(GRAPH):
        source, known, nodes = read_graph(data)
        flow = Flow(source, nodes, known)
        reads = find_reads(flow, model)
        return _Cutting(flow, reads, model, BITS if is_rounded else FLOAT).result()


class _Cutting:
    """One cut.

    The level of a tensor is the number of the first segment that can compute it. What a later segment needs of it is
    handed on if it is float32 and computed; constants, and shapes, which engines want to see computed, are made again.
    """

    def __init__(self, flow: Flow, reads: Sequence[Read], model: ModelNumbers, dtype: str) -> None:
        self._flow, self._reads = flow, reads
        spec = graph_specs(model)[GRAPH]
        self._contract = spec.inputs
        self._specs: dict[str, TensorSpec] = {**spec.inputs, **spec.outputs}
        self._results = {read.result: i + 1 for i, read in enumerate(reads)}
        self._levels = self._levelled()
        # What segments give under another name: a query or key, and the node that makes it one of a read.
        self._given: dict[str, str] = {}
        self._handed: list[dict[str, None]] = [{} for _ in range(len(reads) + 1)]
        for read in reads:
            result = TensorSpec(("b", model.num_tokens, model.mem_dim))
            query = TensorSpec(("b", model.num_tokens, model.d_model), dtype)
            self._specs[read.result] = result
            self._give(read.query, query)
            self._give(read.key, replace(query, shape=("b", "N", model.d_model)))
        for name in spec.outputs:
            self._handed[self._levels[name]][name] = None

    def result(self) -> CutGraph:
        """Segments and reads."""
        parts = [self._part(level) for level in reversed(range(len(self._handed)))][::-1]
        segments = (self._segment(i, nodes, given) for i, (nodes, given) in enumerate(parts))
        reads = (Read(_as_read(r.query), _as_read(r.key), r.result) for r in self._reads)
        return CutGraph(tuple(segments), tuple(reads))

    def _give(self, name: str, spec: TensorSpec) -> None:
        given = _as_read(name)
        self._given[given], self._specs[given] = name, spec
        self._handed[self._levels.get(name, 0)][given] = None

    def _levelled(self) -> dict[str, int]:
        levels: dict[str, int] = {}
        for node in self._flow.nodes:
            highest = max((levels.get(name, 0) for name in node.input), default=0)
            levels |= {name: self._results.get(name, highest) for name in node.output}
        return levels

    def _part(self, level: int) -> tuple[list[onnx.NodeProto], list[str]]:
        """Nodes of a segment and names of its inputs; what it needs of earlier ones is noted there."""
        earlier = {
            name
            for name, made in self._levels.items()
            if made < level and self._flow.known.is_float(name)
        }
        available = {*self._contract, *self._results, *earlier}
        wanted = [self._given.get(name, name) for name in self._handed[level]]
        nodes = self._flow.needed(wanted, available)
        used = {name for node in nodes for name in node.input} | set(wanted)
        inputs = [name for name in (*self._contract, *self._levels) if name in used & available]
        for name in inputs:
            if name in earlier and name not in self._results:
                self._handed[self._levels[name]][name] = None
        return nodes, inputs

    def _segment(self, number: int, nodes: list[onnx.NodeProto], inputs: list[str]) -> Segment:
        outputs = list(self._handed[number])
        if not outputs:
            raise Foreign(f"nothing is computed before read {number}")
        nodes = [*nodes, *(self._giving(name) for name in outputs if name in self._given)]
        constants = self._flow.constants(nodes)
        self._learn(nodes, constants, inputs, outputs)
        name = f"{GRAPH}.{number}"
        data = self._model(nodes, constants, inputs, outputs, name).SerializeToString()
        specs = ({each: self._specs[each] for each in names} for names in (inputs, outputs))
        return Segment(name, bytes(data), *specs)

    def _giving(self, name: str) -> onnx.NodeProto:
        from onnx import helper

        code = CODES[self._specs[name].dtype]
        return helper.make_node("Cast", [self._given[name]], [name], name, to=code)

    def _model(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        inputs: Iterable[str],
        outputs: Iterable[str],
        name: str,
    ) -> onnx.ModelProto:
        from onnx import helper

        given, made = ([self._value(each) for each in names] for names in (inputs, outputs))
        graph = helper.make_graph(nodes, name, given, made, constants)
        source = self._flow.source
        return helper.make_model(
            graph, opset_imports=source.opset_import, ir_version=source.ir_version
        )

    def _value(self, name: str) -> onnx.ValueInfoProto:
        from onnx import helper

        spec = self._specs.get(name)
        if spec is None:
            return helper.make_tensor_value_info(name, CODES[FLOAT], None)
        return helper.make_tensor_value_info(name, CODES[spec.dtype], spec.shape)

    def _learn(
        self,
        nodes: Iterable[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        inputs: Iterable[str],
        outputs: Iterable[str],
    ) -> None:
        """Note the shapes of what a segment hands on."""
        from onnx import shape_inference

        plain: list[onnx.NodeProto] = []
        weights = list(constants)
        for node in nodes:
            plain.append(self._shaped_alike(node, weights) if is_attention(node) else node)
        model = self._model(plain, weights, inputs, outputs, "shapes")
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
        for value in graph.output:
            if value.name not in self._specs:
                sides = value.type.tensor_type.shape.dim
                shape = tuple(side.dim_param or side.dim_value for side in sides)
                is_known = all(side in AXES if isinstance(side, str) else side for side in shape)
                if not shape or not is_known:
                    raise Foreign(f"the shape of {value.name} is not known: {shape}")
                self._specs[value.name] = TensorSpec(shape)

    def _shaped_alike(
        self, node: onnx.NodeProto, weights: list[onnx.TensorProto]
    ) -> onnx.NodeProto:
        """A product of the shape of an attention, whose shape onnx does not infer."""
        from onnx import helper, numpy_helper

        widths = [self._flow.known.widths.get(node.input[i], 0) for i in (0, 2)]
        name = f"{node.output[0]}.shape"
        weights.append(numpy_helper.from_array(np.zeros(widths, np.float32), name))
        return helper.make_node("MatMul", [node.input[0], name], node.output)


def _as_read(name: str) -> str:
    """What a query or key is called where the kernel reads it."""
    return f"{name}.read"
