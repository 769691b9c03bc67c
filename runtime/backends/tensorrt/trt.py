"""TensorRT on a CUDA device, natively: TensorRT 10 and 11, and TensorRT-RTX, through the names they share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from runtime.backends.lowering.typed_graph import KERNEL, PRECISIONS
from runtime.backends.tensorrt.build import Log, Profile, choose_profile, import_tensorrt
from runtime.backends.tensorrt.cut import CutEngine
from runtime.backends.tensorrt.engines import EngineCache
from runtime.backends.tensorrt.parts import EnginePart, check_kernel_reads, parts
from runtime.bundle.bundle import Bundle
from runtime.devices.cuda.memory import CudaMemory, open_memory
from runtime.devices.engine import Engine
from runtime.errors import BundleError, InputError
from runtime.steps.cuda.steps import CudaSteps

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """An execution context for one set of shapes, the memory it computes in, and what it was made from."""

    context: Any
    scratch: Any
    config: Any


class TrtEngine:
    """One deserialised engine. Each set of shapes on each stream has a context of its own.

    A captured CUDA graph holds its context's addresses; a context that never changes shape keeps them true.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        log: Log,
        profiles: list[Profile],
        memory: CudaMemory,
        graph: str,
        not_capturable: Callable[[str], None],
    ) -> None:
        self._trt, self._engine, self._memory, self._graph = trt, engine, memory, graph
        self._log, self._profiles, self._not_capturable = log, profiles, not_capturable
        self._ready: dict[tuple[Shapes, int], Ready] = {}

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Enqueue on the current stream. Raises InputError for shapes it was not made for."""
        stream = int(self._memory.current.handle)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())
        is_new = (shapes, stream) not in self._ready
        if is_new:
            self._ready[shapes, stream] = self._make_ready(dict(shapes), stream)
        context = self._ready[shapes, stream].context
        for name, tensor in (*inputs.items(), *outputs.items()):
            self._check(context.set_tensor_address(name, tensor.address), f"address of {name}")
        self._check(context.execute_async_v3(stream), f"run with {shapes}")
        if is_new and self._memory.current is self._memory.streams.step:
            self._look_whether_capturable(context, stream)

    def profile_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Number of the profile that takes these shapes. Raises InputError if none does."""
        number = choose_profile(self._profiles, shapes)
        if number is None:
            raise InputError(
                f"TensorRT's {self._graph} was not made for {dict(shapes)}; at most {self._largest()}: prompt fewer "
                "slices of one object, or follow fewer objects at a time"
            )
        return number

    def _make_ready(self, shapes: dict[str, tuple[int, ...]], stream: int) -> Ready:
        number = self.profile_of(shapes)
        context, config = self._new_context()
        self._check(context is not None, "context")
        self._check(context.set_optimization_profile_async(number, stream), f"profile {number}")
        self._memory.current.sync()
        for name, shape in shapes.items():
            self._check(context.set_input_shape(name, shape), f"{name} of {shape}")
        missing = context.infer_shapes()
        self._check(not missing, f"shapes without {missing}")
        size = max(int(context.update_device_memory_size_for_shapes()), 1)
        scratch = self._memory.allocate((size,), "uint8")
        context.set_device_memory(scratch.address, size)
        return Ready(context, scratch, config)

    def _new_context(self) -> tuple[Any, Any]:
        """Make a context with memory of ours; kernels that are specialised at run time are so before they run.

        Whether a context needs what configured it is nowhere said; so both are kept.
        """
        trt, engine = self._trt, self._engine
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return engine.create_execution_context(managed), None
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return engine.create_execution_context(config), config

    def _check(self, is_done: bool, what: str) -> None:
        """Raise RuntimeError with what TensorRT has said last unless it has done something."""
        if not is_done:
            raise RuntimeError(f"TensorRT's {self._graph} refuses {what}: {self._log.last_error}")

    def _look_whether_capturable(self, context: Any, stream: int) -> None:
        """TensorRT-RTX knows of contexts that change their kernels while they run."""
        ask = getattr(context, "is_stream_capturable", None)
        if ask is not None and not ask(stream):
            self._not_capturable(f"TensorRT-RTX cannot capture {self._graph}")

    def _largest(self) -> dict[str, tuple[int, ...]]:
        return {name: shapes[2] for name, shapes in self._profiles[-1].items()}


class TrtBackend:
    """Graphs of one bundle on TensorRT. Engines are built when they are missing, and kept for this user.

    Args:
        bundle: where the graphs come from.
        threads: not used: the host only enqueues.
        hint: not used.
        precision: a key of `PRECISIONS`.
        attention: one of `typed_attention.SPELLINGS`, or "kernel" to read memory with a kernel of ours.
        stream: handle of the caller's own stream; None makes one.

    Raises BackendUnavailable without a device, TensorRT, or the onnx package, and for a model that the kernel asked for
    does not read.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        hint: str = "latency",
        precision: str = "fp32",
        attention: str = "fused",
        stream: int | None = None,
    ) -> None:
        self._precision = replace(PRECISIONS[precision], attention=attention)
        if attention == KERNEL:
            check_kernel_reads(bundle.model)
        # Before anything of TensorRT: without a driver its Runtime is an object around nothing, and crashes.
        self.device_memory = open_memory(stream)
        self.steps = CudaSteps(self.device_memory, bundle.model)
        self._trt = import_tensorrt()
        self._bundle = bundle
        device = self.device_memory.device
        self._engines = EngineCache.of_this_user(device.name, device.architecture)
        self._log = Log(self._trt)
        self._runtime = self._trt.Runtime(self._log.logger)
        form = "" if attention == "fused" else f", attention {attention}"
        self.description = (
            f"{self._trt.__name__} {self._trt.__version__}, {device.name}, {precision}{form}"
        )

    def load(self, graph: str) -> Engine:
        """Raises BundleError for a graph that TensorRT refuses or an engine that does not run here."""
        all_parts, cut = parts(self._bundle, graph, self._precision)
        engines = [self._engine(part) for part in all_parts]
        if cut is None:
            return engines[0]
        return CutEngine(cut, engines, self.device_memory, self._bundle.model)

    def _engine(self, part: EnginePart) -> TrtEngine:
        with BuildBar(part.name) as bar:
            plan = self._engines.engine(part, bar.update)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BundleError(
                f"{self.description}: an engine of {part.name} does not run here: {self._log.last_error}"
            )
        return TrtEngine(
            self._trt,
            engine,
            self._log,
            part.profiles,
            self.device_memory,
            part.name,
            self.steps.stop_replays,
        )

    def close(self) -> None:
        """Wait for what is enqueued; engines go with whoever holds them."""
        self.steps.synchronize()


class BuildBar:
    """A progress bar that appears once there is something to wait for."""

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self._bar: Any = None
        self._phase = ""

    def __enter__(self) -> BuildBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, phase: str, share: float) -> bool:
        """Show how far a phase has come; True goes on."""
        if self._bar is None:
            self._bar = tqdm(
                total=100, desc=f"building {self._graph}", unit="%", file=sys.stderr, leave=False
            )
        if phase != self._phase:
            self._phase, self._bar.n = phase, 0
            self._bar.set_postfix_str(phase[:40])
        self._bar.update(round(100 * share) - self._bar.n)
        return True
