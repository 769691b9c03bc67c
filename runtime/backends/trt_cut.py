"""Memory attention on a CUDA device as segments on TensorRT, with our own kernel where memory is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernels.kernel import Kernel
from kernels.memory_read import KERNEL as READ
from kernels.pack_values import KERNEL as PACK
from runtime.backends.cut_graph import CutGraph
from runtime.backends.memory_reads import GRAPH, PACKED
from runtime.backends.memory_reads import Read as ReadNames
from runtime.contract import TensorSpec, graph_specs
from runtime.cuda.place import CudaPlace

if TYPE_CHECKING:
    from runtime.backends.trt import TrtEngine

Tensors = Mapping[str, Any]


class CutEngine:
    """Engines of the segments of a cut graph. Each set of shapes on each stream has tensors of its own between them.

    They are allocated in the first run and stay, so that a CUDA graph captured later holds their addresses.

    Args:
        cut: the graph.
        engines: of its segments, in order.
        place: the device.
    """

    def __init__(self, cut: CutGraph, engines: Sequence[TrtEngine], place: CudaPlace) -> None:
        self._cut, self._engines, self._place = cut, engines, place
        self._spec = graph_specs(place.numbers)[GRAPH]
        self._between: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Enqueue on the place's current stream. Raises InputError for shapes it was not made for."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        key = shapes, int(self._place.current.handle)
        if key not in self._between:
            self._engines[0].profile_of(dict(shapes))
            self._between[key] = self._new_tensors(inputs)
        tensors = {**self._between[key], **inputs, **outputs}
        self._enqueue(PACK, tensors, PACKED)
        for i, segment in enumerate(self._cut.segments):
            given, made = (
                {name: tensors[name] for name in names}
                for names in (segment.inputs, segment.outputs)
            )
            self._engines[i].run(given, made)
            if i < len(self._cut.reads):
                self._read(self._cut.reads[i], tensors)

    def _read(self, read: ReadNames, tensors: Tensors) -> None:
        own = {"query": tensors[read.query], "key": tensors[read.key], "out": tensors[read.result]}
        self._enqueue(READ, {**tensors, **own}, ("query", "key", "value", "weight"))

    def _enqueue(self, kernel: Kernel, tensors: Tensors, inputs: Sequence[str]) -> None:
        shapes = {name: tuple(tensors[name].shape) for name in inputs}
        names = (*inputs, *kernel.outputs(shapes, {}))
        buffers = {name: tensors[name] for name in names}
        device, stream = self._place.device, self._place.current
        device.enqueue(kernel, buffers, shapes, {}, stream=stream)

    def _new_tensors(self, inputs: Tensors) -> dict[str, Any]:
        """Everything between inputs and outputs; the kernel's scratch is the same for all reads."""
        model = self._place.numbers
        axes = self._spec.check_inputs(GRAPH, dict(inputs))
        axes["N"] = model.num_keys(axes["k"], axes["p"])
        specs = {
            name: spec
            for segment in self._cut.segments
            for name, spec in segment.outputs.items()
            if name not in self._spec.outputs
        }
        one_read = TensorSpec(("b", model.num_tokens, model.mem_dim))
        specs |= {read.result: one_read for read in self._cut.reads}
        wanted = {name: (spec.bind(axes), spec.dtype) for name, spec in specs.items()}
        packed = PACK.outputs({name: tuple(inputs[name].shape) for name in PACKED}, {})
        first = self._cut.reads[0]
        shapes = {"query": wanted[first.query][0], "key": wanted[first.key][0]}
        scratch = dict(READ.outputs(shapes, {}))
        del scratch["out"]
        return {
            name: self._place.device.empty(shape, dtype, stream=self._place.current)
            for name, (shape, dtype) in {**wanted, **packed, **scratch}.items()
        }
