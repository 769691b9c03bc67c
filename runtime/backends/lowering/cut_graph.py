"""A bundle's memory attention cut where it reads memory, so that `kernels.memory_read` reads it.

Where that is, the graph's metadata says (`runtime.bundle.memory_reads`). What lies between reads are segments, graphs
of their own: the first gives the keys of all layers, which no read changes, and each later one goes on from the result
and the residual of the read before. Values and weights are in no segment: `kernels.pack_values` makes them of the
graph's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from runtime.backends.lowering.bundle_graph import (
    ELEMENTS,
    UnsupportedGraph,
    is_attention,
    read_graph,
    rewriting,
)
from runtime.backends.lowering.typed_graph import attention_of
from runtime.backends.lowering.typed_rules import FLOAT
from runtime.bundle.contract import ModelNumbers, TensorSpec, graph_specs
from runtime.bundle.memory_reads import (
    GRAPH,
    PROPERTY,
    MemoryReadNames,
    read_specs,
    reads_from_json,
)
from runtime.files.strict_json import Fault

if TYPE_CHECKING:
    import onnx

BITS = "uint16"  # dtype of tensors that hold bfloat16 numbers, which numpy does not know
CODES = {FLOAT: ELEMENTS[FLOAT], "int64": 7, BITS: ELEMENTS["bfloat16"]}  # TensorProto.DataType


@dataclass(frozen=True, slots=True)
class Segment:
    """A graph between reads.

    Attributes:
        name: unique within the bundle.
        data: ONNX in fp32, attention as in bundles.
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
        reads: of queries and keys by the names under which segments give them.
    """

    segments: tuple[Segment, ...]
    reads: tuple[MemoryReadNames, ...]


def cut_graph(data: bytes, model: ModelNumbers, is_rounded: bool = True) -> CutGraph:
    """Cut memory attention at every read.

    Args:
        data: the bundle's graph in fp32.
        model: its numbers.
        is_rounded: segments give queries and keys as bfloat16 numbers; False leaves them float32.

    Raises BackendUnavailable without onnx, BundleError for a graph that does not say where it reads memory, or says
    what cannot be.
    """
    with rewriting(GRAPH):
        return _Cutting(data, model, BITS if is_rounded else FLOAT).result()


class _Cutting:
    """One graph while it is cut.

    Read i takes the query that segment i gives, and a key that segment 0 gives; segment i + 1 goes on from its result
    and its residual.
    """

    def __init__(self, data: bytes, model: ModelNumbers, dtype: str) -> None:
        self._source, self._facts, self._nodes = read_graph(data)
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._model, self._contract = model, graph_specs(model)[GRAPH]
        self._reads = _declared(self._source)
        roles = read_specs(model)
        self._specs: dict[str, TensorSpec] = {**self._contract.inputs, **self._contract.outputs}
        self._sources: dict[
            str, str
        ] = {}  # queries and keys by the names under which they are given
        for read in self._reads:
            self._check(read, roles)
            self._specs |= {read.residual: roles["residual"], read.result: roles["result"]}
            for name, spec in ((read.query, roles["query"]), (read.key, roles["key"])):
                self._sources[_as_read(name)] = name
                self._specs[_as_read(name)] = replace(spec, dtype=dtype)

    def result(self) -> CutGraph:
        """Make the segments, and the reads between them."""
        segments = [self._segment(i) for i in range(len(self._reads) + 1)]
        reads = (replace(x, query=_as_read(x.query), key=_as_read(x.key)) for x in self._reads)
        return CutGraph(tuple(segments), tuple(reads))

    def _check(self, read: MemoryReadNames, roles: Mapping[str, TensorSpec]) -> None:
        """Raise UnsupportedGraph unless a read's tensors are there and are what they are said to be."""
        for role, name in asdict(read).items():
            if name not in self._makers and name not in self._contract.inputs:
                raise UnsupportedGraph(
                    f"{name}, the {role} of a read of memory, is none of its tensors"
                )
            spec, wanted = self._facts.spec(name), roles[role]
            # What follows attention has lengths that onnx does not know; the kernel gives results those wanted.
            fits = _may_be if role == "result" else TensorSpec.fits
            if not fits(wanted, spec):
                raise UnsupportedGraph(
                    f"{name}, the {role} of a read of memory, is {spec}; wanted {wanted}"
                )
        self._check_attention(read)

    def _check_attention(self, read: MemoryReadNames) -> None:
        """Raise UnsupportedGraph unless a read's result is attention over its query and key as the kernel has it."""
        needed = self._needed([read.result], {*self._contract.inputs, read.query, read.key})
        attentions = [attention_of(node, self._facts) for node in needed if is_attention(node)]
        pairs = [(attention.query, attention.key) for attention in attentions]
        if pairs != [(read.query, read.key)]:
            raise UnsupportedGraph(
                f"{read.result} is read by attention of {pairs}, wanted {read.query} and {read.key} alone"
            )
        (attention,), scale = attentions, self._model.d_model**-0.5
        if attention.num_heads != 1 or not math.isclose(attention.scale, scale, rel_tol=1e-6):
            raise UnsupportedGraph(
                f"{read.result} is read with {attention.num_heads} heads and scale {attention.scale:g}; "
                f"wanted one head and {scale:g}"
            )

    def _needed(self, wanted: Iterable[str], available: Iterable[str]) -> list[onnx.NodeProto]:
        """Nodes, in order, that make some tensors of others that are given and of constants."""
        visited, outputs = set(available), set[str]()
        todo = [name for name in wanted if name not in visited]
        while todo:
            name = todo.pop()
            if name in visited or name not in self._makers:
                continue
            visited.add(name)
            outputs.update(self._makers[name].output)
            todo.extend(self._makers[name].input)
        return [node for node in self._nodes if outputs & set(node.output)]

    def _segment(self, number: int) -> Segment:
        outputs = self._outputs(number)
        before = self._reads[number - 1 : number]  # none before the first segment
        handed = (name for read in before for name in (read.residual, read.result))
        available = dict.fromkeys([*self._contract.inputs, *handed])
        nodes = self._needed((self._sources.get(name, name) for name in outputs), available)
        computed = {name for node in nodes for name in node.output}
        if again := sorted(computed & {read.result for read in self._reads}):
            raise UnsupportedGraph(
                f"what follows read {number} of memory needs another read's {', '.join(again)}"
            )
        nodes += [self._giving(name) for name in outputs if name in self._sources]
        used = {name for node in nodes for name in node.input}
        inputs = {tensor: self._specs[tensor] for tensor in available if tensor in used}
        specs = {tensor: self._specs[tensor] for tensor in outputs}
        name = f"{GRAPH}.{number}"
        return Segment(name, self._onnx(nodes, inputs, specs, name), inputs, specs)

    def _outputs(self, number: int) -> list[str]:
        """Names of what a segment gives."""
        if number == len(self._reads):
            return list(self._contract.outputs)
        read = self._reads[number]
        keys = [read.key for read in self._reads] if number == 0 else []
        residual = [] if read.residual in self._contract.inputs else [read.residual]
        return list(dict.fromkeys([*map(_as_read, [read.query, *keys]), *residual]))

    def _giving(self, name: str) -> onnx.NodeProto:
        from onnx import helper

        code = CODES[self._specs[name].dtype]
        return helper.make_node("Cast", [self._sources[name]], [name], name, to=code)

    def _onnx(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        name: str,
    ) -> bytes:
        from onnx import helper, numpy_helper

        graph_inputs, graph_outputs = (
            [
                helper.make_tensor_value_info(tensor, CODES[spec.dtype], spec.shape)
                for tensor, spec in specs.items()
            ]
            for specs in (inputs, outputs)
        )
        values = self._facts.constants
        names = dict.fromkeys(name for node in nodes for name in node.input if name in values)
        constants = [numpy_helper.from_array(values[name], name) for name in names]
        graph = helper.make_graph(nodes, name, graph_inputs, graph_outputs, constants)
        source = self._source
        model = helper.make_model(
            graph, opset_imports=source.opset_import, ir_version=source.ir_version
        )
        return bytes(model.SerializeToString())


def _declared(source: onnx.ModelProto) -> tuple[MemoryReadNames, ...]:
    """Reads of memory as the metadata has them. Raises UnsupportedGraph."""
    texts = [entry.value for entry in source.metadata_props if entry.key == PROPERTY]
    if len(texts) != 1:
        raise UnsupportedGraph(
            f"its metadata has {PROPERTY} {len(texts)} times, wanted once; export it again"
        )
    try:
        return reads_from_json(texts[0])
    except Fault as fault:
        raise UnsupportedGraph(f"{PROPERTY} in its metadata: {fault}; export it again") from fault


def _may_be(wanted: TensorSpec, spec: TensorSpec) -> bool:
    """Whether what is known of a tensor does not contradict what is wanted."""
    return len(spec.shape) == len(wanted.shape) and all(
        side in ("?", other) for side, other in zip(spec.shape, wanted.shape, strict=True)
    )


def _as_read(name: str) -> str:
    """What a query or key is called where the kernel reads it."""
    return f"{name}.read"
