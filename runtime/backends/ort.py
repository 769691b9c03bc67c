"""ONNX Runtime on the CPU, in fp32, with the graphs of a bundle that are there in eight bits, or in bf16 on Arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
import onnxruntime

from kernels.device_array import Buffer
from runtime.backends.read_blocks import queries_apart, read_apart
from runtime.backends.refusals import (
    check_graph,
    graphs_faults,
    read_split_graph,
    read_whole_graph,
    refusal,
)
from runtime.backends.row_threads import RowByRow, RowThreads
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GraphSpec, TensorSpec
from runtime.bundle.memory_reads import GRAPH as READS_MEMORY
from runtime.devices.machine import (
    instruction_sets,
    machine_name,
    physical_cores,
    second_level_cache_bytes,
)
from runtime.devices.memory import HOST_MEMORY, DeviceMemory
from runtime.errors import BackendUnavailable, Closed
from runtime.process.counted import counted
from runtime.steps.steps import HOST_STEPS, Steps

PROVIDER = "CPUExecutionProvider"
WARNINGS_AND_WORSE, FATAL = 2, 4
ONNX_RUNTIME_VERSION = f"ONNX Runtime {onnxruntime.__version__}"
# Arm's products of matrices in bfloat16, of operands that are rounded from fp32. There is no such thing for x86.
BF16 = "mlas.enable_gemm_fastmath_arm64_bfloat16"
BF16_INSTRUCTIONS = {"NEON", "BF16"}
BF16_GRAPHS = ("image_encoder", "memory_attention")  # what decides about masks stays in fp32
SHRINK = "memory.enable_memory_arena_shrinkage"
DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def spec_of_session(session: Any) -> GraphSpec:
    """The tensors of a session's graph; axes of any length are strings, other types keep ONNX's name."""

    def specs(tensors: Iterable[Any]) -> dict[str, TensorSpec]:
        return {
            tensor.name: TensorSpec(
                tuple(side if isinstance(side, int) else str(side) for side in tensor.shape),
                DTYPES.get(tensor.type, tensor.type),
            )
            for tensor in tensors
        }

    return GraphSpec(specs(session.get_inputs()), specs(session.get_outputs()))


def session_options(threads: int | None, hint: str, is_bf16: bool) -> onnxruntime.SessionOptions:
    """How a graph is opened."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNINGS_AND_WORSE
    # Each graph has threads of its own, which go on spinning after a run and slow down the next graph's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if hint == "throughput":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if is_bf16:
        options.add_session_config_entry(BF16, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


class OrtEngine:
    """One inference session, fed and read through the caller's own buffers.

    Args:
        session: opened.
        bundle, graph: what it runs.
        held: weights that the session refers to and does not own.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        bundle: Bundle,
        graph: str,
        held: Sequence[onnxruntime.OrtValue] = (),
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._bundle, self._graph, self._held = bundle, graph, held

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Raises BundleError or OutOfMemory where ONNX Runtime fails, Closed after `close`."""
        if (session := self._session) is None:
            raise Closed(self._graph)
        binding = session.io_binding()
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            for name, array in held.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(
                    name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
                )
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise refusal(
                self._bundle, ONNX_RUNTIME_VERSION, self._graph, error, "fails to run"
            ) from error

    def trim(self) -> None:
        """Have the session's arena give back whatever no tensor lies in, see `runtime.devices.engine.Trimmed`.

        An arena grows by doubling with the largest run, and pages of it that were once written stay. ONNX Runtime
        shrinks it at the end of a run alone. This one is told to end before its first node: it computes nothing.
        """
        if (session := self._session) is None:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(SHRINK, "cpu:0")
        options.terminate = True
        options.log_severity_level = FATAL
        inputs = {
            name: np.zeros(
                [side if isinstance(side, int) else 1 for side in spec.shape], spec.dtype
            )
            for name, spec in spec_of_session(session).inputs.items()
        }
        with suppress(Exception):  # that it was ended; its class is ONNX Runtime's own
            session.run(None, inputs, options)

    def close(self) -> None:
        """Let the session go, whoever holds this engine."""
        self._session, self._held = None, ()


class OrtBackend:
    """Graphs of one bundle on ONNX Runtime.

    Args:
        bundle: where the graphs come from.
        threads: threads within an operator; None leaves it to ONNX Runtime (one for each core).
        hint: "latency", or "throughput" for threads that do not spin while they wait.
        precision: "int8" takes the bundle's graphs in eight bits where it has them; "bf16" rounds operands of products.

    Raises BackendUnavailable for a bundle without graphs in eight bits, or a processor that does not compute in bf16,
    where they are asked for.
    """

    device_memory: DeviceMemory = HOST_MEMORY
    steps: Steps = HOST_STEPS

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        hint: str = "latency",
        precision: str = "fp32",
    ) -> None:
        if precision == "int8" and not bundle.int8_graphs:
            raise BackendUnavailable(
                f"{bundle.path} has no graphs in int8; make them with medsam2 export --precision int8"
            )
        if precision == "bf16" and not {*instruction_sets()} >= BF16_INSTRUCTIONS:
            raise BackendUnavailable(
                f"{ONNX_RUNTIME_VERSION} does not compute in bf16 on {machine_name()}, only on Arm processors with "
                "BF16; use ort, in fp32"
            )
        self._bundle = bundle
        self._small = bundle.int8_graphs if precision == "int8" else ()
        self._threads, self._hint, self._is_bf16 = threads, hint, precision == "bf16"
        self._engines: WeakSet[OrtEngine] = WeakSet()
        self._is_closed = False
        count = "all threads" if threads is None else counted(threads, "thread")
        reduced = BF16_GRAPHS if precision == "bf16" else self._small
        but = f"; {' and '.join(reduced)} in {precision}" if reduced else ""
        self.description = f"{ONNX_RUNTIME_VERSION}, {PROVIDER}, {count}, fp32{but}"

    def load(self, graph: str) -> RowThreads:
        """Raises BundleError for a graph ONNX Runtime refuses or that is not as agreed, BackendUnavailable without
        its provider, OutOfMemory, Closed.
        """

        def open_whole() -> OrtEngine | RowByRow:
            opened = self._open(graph, self._threads)
            return RowByRow(opened) if graph in self._small else opened

        return RowThreads(
            open_whole,
            partial(self._open, graph, 1),
            self._num_threads,
            self._bundle.size_bytes(graph),
        )

    @property
    def _num_threads(self) -> int:
        """Threads of a run, by default as many as ONNX Runtime makes."""
        return self._threads or physical_cores()

    def _open(self, graph: str, threads: int | None) -> OrtEngine:
        """A graph that runs on so many threads; on one, several runs may be under way."""
        if self._is_closed:
            raise Closed(graph)
        options, held = self._options(graph, threads), []
        if graph in self._bundle.split_graphs and graph not in self._small:
            split = read_split_graph(self._bundle, graph)
            data, weights = split.whole, split.weights
            held = [onnxruntime.OrtValue.ortvalue_from_numpy(x) for x in weights.values()]
            options.add_external_initializers(list(weights), held)
        else:
            data = read_whole_graph(self._bundle, graph, "int8" if graph in self._small else "fp32")
            data = self._evened(data, graph)
        try:
            session = onnxruntime.InferenceSession(
                data, options, providers=[PROVIDER], enable_fallback=False
            )
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise refusal(self._bundle, ONNX_RUNTIME_VERSION, graph, error, "refuses") from error
        if session.get_providers()[0] != PROVIDER:
            raise BackendUnavailable(
                f"asked for {PROVIDER}, ONNX Runtime opened {session.get_providers()}"
            )
        check_graph(self._bundle, graph, spec_of_session(session))
        engine = OrtEngine(session, self._bundle, graph, held)
        self._engines.add(engine)
        return engine

    def _evened(self, data: bytes, graph: str) -> bytes:
        """A graph whose reads of memory keep all threads busy, if it reads any."""
        if graph != READS_MEMORY:
            return data
        model = self._bundle.model
        apart = queries_apart(model, self._num_threads, second_level_cache_bytes())
        if not apart:
            return data
        with graphs_faults(self._bundle, graph):
            return read_apart(data, model.num_tokens, apart)

    def _options(self, graph: str, threads: int | None) -> onnxruntime.SessionOptions:
        is_bf16 = self._is_bf16 and graph in BF16_GRAPHS
        return session_options(threads, self._hint, is_bf16)

    def close(self) -> None:
        """Let every session go, also those whose engines somebody still holds."""
        for engine in list(self._engines):
            engine.close()
        self._is_closed = True
