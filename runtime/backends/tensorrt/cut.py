"""Memory attention on a CUDA device as segments on TensorRT, with our own kernel where memory is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kernels.kernel import Kernel
from kernels.memory_read import KERNEL as READ
from kernels.pack_values import KERNEL as PACK
from runtime.backends.lowering.cut_graph import CutGraph
from runtime.bundle.contract import ModelNumbers, graph_specs
from runtime.bundle.memory_reads import GRAPH, PACKED, MemoryReadNames
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.engine import Engine

Tensors = Mapping[str, Any]
TensorShapes = Mapping[str, tuple[tuple[int, ...], str]]


class ProfiledEngine(Engine, Protocol):
    """An engine made for some shapes."""

    def profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Number of the profile that takes these shapes. Raises InputError if none does."""


@dataclass(frozen=True, slots=True)
class Between:
    """Tensors between inputs and outputs, for one set of shapes.

    Attributes:
        handed: what segments and reads hand on, by its name in the graph.
        packed: values and weights, as `pack_values` names them.
        scratch: the reading kernel's own, the same for all reads.
    """

    handed: Tensors
    packed: Tensors
    scratch: Tensors


class CutEngine:
    """Engines of the segments of a cut graph. Each set of shapes on each stream has tensors of its own between them.

    They are allocated in the first run and stay, so that a CUDA graph captured later holds their addresses.

    Args:
        cut: the graph.
        engines: of its segments, in order.
        memory: the device's.
        model: numbers of the model.
    """

    def __init__(
        self,
        cut: CutGraph,
        engines: Sequence[ProfiledEngine],
        memory: CudaMemory,
        model: ModelNumbers,
    ) -> None:
        self._cut, self._engines, self._memory, self._model = cut, engines, memory, model
        self._spec = graph_specs(model)[GRAPH]
        self._between: dict[tuple[Any, ...], Between] = {}

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Enqueue on the current stream. Raises InputError for shapes it was not made for."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        key = shapes, int(self._memory.current.handle)
        if key not in self._between:
            self._engines[0].profile_of(dict(shapes))
            self._between[key] = self._new_between(inputs)
        between = self._between[key]
        packed = {**between.packed, **{name: inputs[name] for name in PACKED}}
        self._enqueue(PACK, packed, PACKED)
        tensors = {**between.handed, **inputs, **outputs}
        for i, segment in enumerate(self._cut.segments):
            segment_inputs, segment_outputs = (
                {name: tensors[name] for name in names}
                for names in (segment.inputs, segment.outputs)
            )
            self._engines[i].run(segment_inputs, segment_outputs)
            if i < len(self._cut.reads):
                self._read(self._cut.reads[i], between)

    def _read(self, names: MemoryReadNames, between: Between) -> None:
        query, key, out = (between.handed[x] for x in (names.query, names.key, names.result))
        own = {"query": query, "key": key, "out": out}
        tensors = {**own, **between.packed, **between.scratch}
        self._enqueue(READ, tensors, ("query", "key", "value", "weight"))

    def _enqueue(self, kernel: Kernel, tensors: Tensors, inputs: Sequence[str]) -> None:
        shapes = {name: tuple(tensors[name].shape) for name in inputs}
        self._memory.run(kernel, tensors, shapes, {})

    def _new_between(self, inputs: Tensors) -> Between:
        model, spec = self._model, self._spec
        axes = spec.check_inputs(GRAPH, dict(inputs))
        axes["N"] = model.num_keys(axes["k"], axes["p"])
        handed = {
            name: (tensor.bind(axes), tensor.dtype)
            for segment in self._cut.segments
            for name, tensor in {**segment.inputs, **segment.outputs}.items()
            if name not in spec.inputs and name not in spec.outputs
        }
        packed = PACK.outputs({name: tuple(inputs[name].shape) for name in PACKED}, {})
        first = self._cut.reads[0]
        read = READ.outputs({"query": handed[first.query][0], "key": handed[first.key][0]}, {})
        scratch = {name: spec for name, spec in read.items() if name != "out"}
        return Between(*(self._allocated(specs) for specs in (handed, packed, scratch)))

    def _allocated(self, specs: TensorShapes) -> Tensors:
        return {name: self._memory.allocate(*spec) for name, spec in specs.items()}
