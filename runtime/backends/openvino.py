"""OpenVINO on the CPU, in fp32 or in what half precision the processor has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import openvino as ov
from openvino.frontend.onnx import ConversionExtension

from kernels.device_array import Buffer
from runtime.backends.openvino_attention import attention, source_digest
from runtime.backends.ort import OrtBackend
from runtime.backends.refusals import check_graph, read_split_graph, read_whole_graph, refusal
from runtime.backends.row_threads import RowThreads
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GraphSpec, TensorSpec
from runtime.bundle.split_graph import SplitGraph
from runtime.devices.engine import Engine
from runtime.devices.machine import instruction_sets, machine_name, physical_cores
from runtime.devices.memory import HOST_MEMORY, DeviceMemory
from runtime.errors import BackendUnavailable, Closed
from runtime.files.cache import cache_folder, read_cached, write_cached
from runtime.process.counted import counted
from runtime.process.shortage import is_out_of_memory
from runtime.steps.steps import HOST_STEPS, Steps

DEVICE = "CPU"
OPENVINO_VERSION = f"OpenVINO {ov.__version__.partition('-')[0]}"
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Small graphs that ONNX Runtime runs faster, also than OpenVINO's bf16 (benchmarks/notes.md). What the decoder finds
# decides what is kept, what is absent and which candidate is taken, so that it stays in fp32 in any case.
ORT_GRAPHS = ("mask_decoder", "memory_encoder")

T = TypeVar("T")

_processes: list[int] = []
"""The process that first opened OpenVINO here; a child that was forked from it finds its parent's."""


def check_process() -> None:
    """Raise BackendUnavailable in a process that was forked after OpenVINO had been opened.

    Threads of its pool are not there in a child, which waits for them for ever when it compiles a graph.
    """
    if not _processes:
        _processes.append(os.getpid())
    if _processes[0] != os.getpid():
        raise BackendUnavailable(
            f"process {os.getpid()} was forked from {_processes[0]}, which had opened OpenVINO, and OpenVINO hangs in "
            'such a process; start processes by multiprocessing\'s "spawn", open models in them alone, or take the '
            "back end ort"
        )


def in_a_thread_of_its_own(do: Callable[[], T]) -> T:
    """What `do` gives or raises, run by a thread that ends with it.

    OpenVINO's CPU plugin is made when a core is first asked about the processor. It replaces the signal stack
    (`sigaltstack`) of the thread it is made in, and when it goes it unmaps its stack and puts back what it had found,
    if its own is still the one in use there. Of two that go in the order in which they came, the second puts back the
    first one's stack, which is unmapped by then, and the next signal with a handler kills the process. A signal stack
    belongs to a thread and ends with it: a plugin that is made in a thread which has ended never touches another one's,
    wherever and whenever it goes.
    """
    with ThreadPoolExecutor(1, "openvino") as pool:
        return pool.submit(do).result()


def cache_name(graph: bytes, options: Mapping[str, Any]) -> str:
    """What a graph is known by that was compiled by this OpenVINO, for this kind of processor, with these options."""
    where = machine_name(), instruction_sets()
    about = ov.__version__, source_digest(), where, sorted(options.items())
    return hashlib.sha256(repr(about).encode() + graph).hexdigest()[:32]


def spec_of_model(compiled: Any) -> GraphSpec:
    """The tensors of a compiled model; axes of any length are strings."""

    def specs(ports: Iterable[Any]) -> dict[str, TensorSpec]:
        return {
            port.any_name: TensorSpec(
                tuple("?" if side.is_dynamic else side.get_length() for side in port.partial_shape),
                port.element_type.to_dtype().name,
            )
            for port in ports
        }

    return GraphSpec(specs(compiled.inputs), specs(compiled.outputs))


class OpenVinoEngine:
    """One compiled graph, fed and read through the caller's own buffers.

    Args:
        compiled: it.
        bundle, graph: what it runs.
        num_runs: how many may be under way at a time; others wait.
    """

    def __init__(self, compiled: Any, bundle: Bundle, graph: str, num_runs: int = 1) -> None:
        self._compiled: Any = compiled
        self._bundle, self._graph = bundle, graph
        self._requests: list[Any] | None = [
            compiled.create_infer_request() for _ in range(num_runs)
        ]
        # A request has one set of tensors, whoever asks; `with` on a lock alone survives an interrupt at any moment.
        self._locks = [Lock() for _ in range(num_runs)]
        self._runs = count()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Raises BundleError or OutOfMemory where OpenVINO fails, Closed after `close`."""
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        place = next(self._runs) % len(self._locks)
        with self._locks[place]:
            if (requests := self._requests) is None:
                raise Closed(self._graph)
            request = requests[place]
            try:
                for name, array in {**held, **outputs}.items():
                    request.set_tensor(name, ov.Tensor(array, shared_memory=True))
                request.infer()
            except RuntimeError as error:
                raise refusal(
                    self._bundle, OPENVINO_VERSION, self._graph, error, "fails to run"
                ) from error

    def trim(self) -> None:
        """Give back tensors between operators, which stay as large as the largest run's otherwise."""
        self._trim_behind(self._locks)

    def _trim_behind(self, locks: list[Lock]) -> None:
        if locks:
            with locks[0]:
                self._trim_behind(locks[1:])
        elif self._compiled is not None:
            self._compiled.release_memory()

    def close(self) -> None:
        """Let the compiled graph go, whoever holds this engine."""
        self._compiled = self._requests = None


class OpenVinoBackend:
    """Graphs of one bundle on OpenVINO, but for `ORT_GRAPHS`, which stay on ONNX Runtime in fp32.

    Compiled models are kept in this user's cache (`runtime.files.cache`).

    Args:
        bundle: where the graphs come from.
        threads: threads within an operator; None leaves it to OpenVINO (one for each core).
        hint: "latency" or "throughput".
        precision: a key of `CAPABILITIES`.

    Raises BackendUnavailable if the processor does not compute in that precision, and as `check_process` does.
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
        check_process()
        self._bundle, self._threads, self._precision = bundle, threads, precision
        self._core: Any = in_a_thread_of_its_own(lambda: _core_for(precision))
        self._core.add_extension(
            ConversionExtension("MultiHeadAttention", "com.microsoft", attention)
        )
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
            "PERFORMANCE_HINT": hint.upper(),
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._cache = cache_folder("openvino")
        self._ort = OrtBackend(bundle, threads, hint)
        self._engines: WeakSet[OpenVinoEngine] = WeakSet()
        count = "all threads" if threads is None else counted(threads, "thread")
        self.description = (
            f"{OPENVINO_VERSION}, {DEVICE}, {count}, {precision}; "
            f"{' and '.join(ORT_GRAPHS)} on ONNX Runtime"
        )

    def load(self, graph: str) -> Engine:
        """Raises BundleError for a graph that OpenVINO refuses or that is not as agreed, OutOfMemory, Closed, and
        BackendUnavailable if it has no kernel of a reduced precision for it here, or as `check_process` does.
        """
        if graph in ORT_GRAPHS:
            return self._ort.load(graph)
        threads = self._threads or physical_cores()
        return RowThreads(
            partial(self._open, graph, 1),
            partial(self._open, graph, threads),
            threads,
            self._bundle.size_bytes(graph),
        )

    def _open(self, graph: str, num_runs: int) -> OpenVinoEngine:
        """A graph of which several runs may be under way, each on its part of the threads."""
        if self._core is None:
            raise Closed(graph)
        check_process()
        options = {**self._options, **({"NUM_STREAMS": num_runs} if num_runs > 1 else {})}
        is_split = graph in self._bundle.split_graphs
        data = b"" if is_split else read_whole_graph(self._bundle, graph)
        try:
            if is_split:  # too large to keep compiled
                joined = self._joined(read_split_graph(self._bundle, graph))
                compiled = self._compile(graph, joined, options)
            else:
                compiled = self._compiled(graph, data, options)
        except RuntimeError as error:
            raise refusal(self._bundle, OPENVINO_VERSION, graph, error, "refuses") from error
        check_graph(self._bundle, graph, spec_of_model(compiled))
        engine = OpenVinoEngine(compiled, self._bundle, graph, num_runs)
        self._engines.add(engine)
        return engine

    def _compiled(self, graph: str, data: bytes, options: Mapping[str, Any]) -> Any:
        """A graph compiled before, or now; OpenVINO's own cache would run what has been damaged there."""
        path = None
        if self._cache is not None:
            path = self._cache / f"{graph}-{cache_name(data, options)}.blob"
            if (blob := read_cached(path)) is not None:
                with suppress(RuntimeError):  # not of this OpenVINO after all
                    return self._core.import_model(blob, DEVICE, options)
        compiled = self._compile(graph, self._core.read_model(data), options)
        if path is not None:
            with suppress(
                RuntimeError, ValueError, MemoryError
            ):  # no room: it is not kept, and runs
                write_cached(path, compiled.export_model().getvalue())
        return compiled

    def _joined(self, split: SplitGraph) -> Any:
        """A model with the weights that lie beside its graph as constants, which OpenVINO reads from paths alone."""
        model = self._core.read_model(split.with_inputs())
        for parameter in list(model.get_parameters()):
            if (weight := split.weights.get(parameter.get_friendly_name())) is not None:
                constant = ov.op.Constant(weight)
                for user in parameter.output(0).get_target_inputs():
                    user.replace_source_output(constant.output(0))
                model.remove_parameter(parameter)
        return model

    def _compile(self, graph: str, model: Any, options: Mapping[str, Any]) -> Any:
        """A graph that OpenVINO could read; it may promise a precision and lack its kernels (`ONEDNN_MAX_CPU_ISA`)."""
        try:
            return self._core.compile_model(model, DEVICE, options)
        except RuntimeError as error:
            if self._precision == "fp32" or is_out_of_memory(error):
                raise
            raise BackendUnavailable(
                f"{OPENVINO_VERSION} does not compute {graph} in {self._precision} here; use openvino, in fp32 "
                f"({error})"
            ) from error

    def close(self) -> None:
        """Let every compiled graph and OpenVINO itself go, also those whose engines somebody still holds."""
        for engine in list(self._engines):
            engine.close()
        self._core = None
        self._ort.close()


def _core_for(precision: str) -> Any:
    """OpenVINO with the plugin of the processor made. Raises BackendUnavailable if that lacks a precision."""
    core = ov.Core()
    able = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[precision] not in able:
        name = core.get_property(DEVICE, "FULL_DEVICE_NAME")
        raise BackendUnavailable(
            f"{name} does not compute in {precision}, only in {', '.join(able)}; use openvino, in fp32"
        )
    return core
