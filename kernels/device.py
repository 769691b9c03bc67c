"""A CUDA device through cuda-core: sources compiled once, plans enqueued on a stream that is always named.

The only file of this floor that imports a CUDA binding, and only when a device is opened. Whether there is one is asked
of the driver first, because bindings answer that question by crashing in more ways than one.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cuda_graph import CudaGraph, captured
from kernels.device_array import DeviceArray
from kernels.kernel import FOLDER, Kernel, KernelCase, Launch, Numbers, Shapes

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class NoDevice(RuntimeError):
    """There is no CUDA device that can be used, and why."""


def why_not() -> str | None:
    """Why there is no usable CUDA device here, or None if there is one."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"no NVIDIA driver: {DRIVER} cannot be loaded"
    if status := driver.cuInit(0):
        return f"the NVIDIA driver does not start (cuInit gives {status})"
    count = ctypes.c_int()
    if status := driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver does not count its devices ({status})"
    return None if count.value else "the NVIDIA driver sees no device"


def device_name() -> str | None:
    """Name of the first device, asked of the driver alone; None where there is none."""
    if why_not() is not None:
        return None
    driver, device, name = ctypes.CDLL(DRIVER), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 256, device):
        return None
    return name.value.decode(errors="replace")


class Device:
    """One device, its primary context current: shared with whatever else uses it in this process.

    Args:
        ordinal: which.

    Raises NoDevice without a driver, a device, or cuda-core.
    """

    def __init__(self, ordinal: int = 0) -> None:
        if reason := why_not():
            raise NoDevice(reason)
        try:
            self._core = import_module("cuda.core")
        except ImportError as error:
            raise NoDevice(f"cuda-core is missing ({error}); pip install cuda-core") from error
        self._device = self._core.Device(ordinal)
        self._bindings: Any = import_module("cuda.bindings.driver")
        self._device.set_current()
        self._context = self._current_context()
        self._entries: dict[tuple[str, str], Any] = {}
        self._tables: dict[Any, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """Name of the device, as its driver gives it."""
        return str(self._device.name)

    @property
    def architecture(self) -> str:
        """Compute capability without its dot, such as "90"."""
        return str(self._device.arch)

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Free bytes and all there are; what the pool keeps for later is free."""
        free, total = self.driver("cuMemGetInfo")
        pool = getattr(self._device.memory_resource, "attributes", None)
        unused = 0 if pool is None else pool.reserved_mem_current - pool.used_mem_current
        return int(free) + int(unused), int(total)

    def use(self) -> None:
        """Make the device's primary context this thread's; done by whatever allocates, copies or launches.

        It is asked for each time: whoever else is in this thread may push, pop and switch contexts in between.
        """
        if self._current_context() != self._context:
            self._device.set_current()

    def stream(self, priority: int | None = None) -> Any:
        """A stream of this device; lower numbers go first."""
        self.use()
        return self._device.create_stream(options=self._core.StreamOptions(priority=priority))

    def external_stream(self, handle: int) -> Any:
        """Somebody else's stream, such as pycuda's `stream.handle` or torch's `cuda_stream`."""
        return self._core.Stream.from_handle(handle)

    def empty(self, shape: tuple[int, ...], dtype: str, *, stream: Any) -> DeviceArray:
        """A tensor, uninitialised, allocated in the stream's order. Raises MemoryError."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.use()
        with self._memory_errors(size):
            buffer = self._device.memory_resource.allocate(max(size, 1), stream=stream)
        return DeviceArray(int(buffer.handle), shape, dtype, buffer)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """A numpy array that the device copies to and from without waiting. Raises MemoryError."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.use()
        with self._memory_errors(size):
            buffer = self._core.LegacyPinnedMemoryResource().allocate(max(size, 1))
        memory: Any = (ctypes.c_char * max(size, 1)).from_address(int(buffer.handle))
        memory.owner = buffer  # numpy keeps the one, which keeps the other
        array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        return array

    def copy(
        self, source: DeviceArray | NDArray[Any], target: DeviceArray | NDArray[Any], *, stream: Any
    ) -> None:
        """Enqueue a copy between tensors of one size, on the device or in host memory.

        Pinned host memory is read and written when the stream comes to it; any other is read before this returns.
        """
        if source.nbytes != target.nbytes:
            raise ValueError(f"a copy of {source.nbytes} bytes to {target.nbytes}")
        addresses = _address(target), _address(source)
        self.driver("cuMemcpyAsync", *addresses, source.nbytes, int(stream.handle))

    def upload(self, array: NDArray[Any], *, stream: Any) -> DeviceArray:
        """A tensor with an array's contents; waits, so that the array may change afterwards."""
        contiguous = np.ascontiguousarray(array)
        tensor = self.empty(array.shape, contiguous.dtype.name, stream=stream)
        self.copy(contiguous, tensor, stream=stream)
        stream.sync()
        return tensor

    def download(self, array: DeviceArray, *, stream: Any) -> NDArray[Any]:
        """A tensor's contents, once everything enqueued before is done."""
        out: NDArray[Any] = np.empty(array.shape, array.dtype)
        self.copy(array, out, stream=stream)
        stream.sync()
        return out

    def capture(self, enqueue: Callable[[], object], *, stream: Any) -> CudaGraph:
        """What `enqueue` puts on a stream as a graph (`kernels.cuda_graph.captured`); nothing of it is done yet."""
        return captured(self, enqueue, stream)

    def enqueue(
        self,
        kernel: Kernel,
        buffers: Mapping[str, Any],
        shapes: Shapes,
        numbers: Numbers,
        *,
        stream: Any,
    ) -> None:
        """Enqueue a kernel's launches; nothing is allocated once its tables are on the device.

        Args:
            kernel: which.
            buffers: every tensor that it reads or writes but its tables.
            shapes: of its inputs.
            numbers: of the case.
            stream: where.
        """
        self.use()
        written = {name: shape for name, (shape, _) in kernel.outputs(shapes, numbers).items()}
        held = {**self._tables_of(kernel, shapes, numbers, stream), **buffers}
        for launch in kernel.plan({**shapes, **written}, numbers):
            self._launch(kernel, launch, held, stream)

    def run(self, kernel: Kernel, case: KernelCase, *, stream: Any) -> dict[str, NDArray[Any]]:
        """What a kernel's launches write for a case: uploaded, computed and downloaded."""
        buffers = self.buffers(kernel, case, stream=stream)
        self.enqueue(kernel, buffers, case.shapes, case.numbers, stream=stream)
        outputs = kernel.outputs(case.shapes, case.numbers)
        return {name: self.download(buffers[name], stream=stream) for name in outputs}

    def buffers(self, kernel: Kernel, case: KernelCase, *, stream: Any) -> dict[str, Any]:
        """A case's inputs, uploaded, and room for its outputs."""
        tensors = {name: self.upload(array, stream=stream) for name, array in case.arrays.items()}
        for name, (shape, dtype) in kernel.outputs(case.shapes, case.numbers).items():
            before = kernel.starts_from.get(name)
            tensors[name] = (
                self.empty(shape, dtype, stream=stream)
                if before is None
                else self.upload(case.arrays[before], stream=stream)
            )
        return tensors

    def time_ms(self, enqueue: Callable[[], object], repeat: int, *, stream: Any) -> float:
        """Device time of one of `repeat` calls in a row, between two events; one call before them warms up."""
        enqueue()
        start = self.mark(stream=stream)
        for _ in range(repeat):
            enqueue()
        return self.elapsed_ms(start, self.mark(stream=stream)) / repeat

    def mark(self, *, stream: Any) -> Any:
        """A moment in a stream's order, for `elapsed_ms`."""
        return stream.record(options=self._core.EventOptions(timing_enabled=True))

    def elapsed_ms(self, start: Any, stop: Any) -> float:
        """Device time between two moments; waits for the second."""
        stop.sync()
        return float(stop - start)

    def _launch(
        self, kernel: Kernel, launch: Launch, buffers: Mapping[str, Any], stream: Any
    ) -> None:
        config = self._core.LaunchConfig(grid=launch.grid, block=launch.block)
        arguments = [
            _address(buffers[argument]) if isinstance(argument, str) else argument
            for argument in launch.arguments
        ]
        self._core.launch(stream, config, self._entry(kernel, launch.entry), *arguments)

    def _entry(self, kernel: Kernel, name: str) -> Any:
        """A function of the kernel's source, compiled for this device when first asked for."""
        key = (kernel.source, name)
        if key not in self._entries:
            options = self._core.ProgramOptions(
                arch=f"sm_{self.architecture}", include_path=str(FOLDER)
            )
            program = self._core.Program(kernel.path.read_text(), "c++", options)
            self._entries[key] = program.compile("cubin").get_kernel(name)
        return self._entries[key]

    def _tables_of(
        self, kernel: Kernel, shapes: Shapes, numbers: Numbers, stream: Any
    ) -> dict[str, Any]:
        key = (kernel.name, *sorted(shapes.items()), *sorted(numbers.items()))
        if key not in self._tables:
            tables = kernel.tables(shapes, numbers).items()
            self._tables[key] = {name: self.upload(array, stream=stream) for name, array in tables}
        return self._tables[key]

    def driver(self, call: str, *arguments: Any) -> Any:
        """A driver call's results. Raises RuntimeError with its status."""
        self.use()
        status, *results = getattr(self._bindings, call)(*arguments)
        if status != self._bindings.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{call} fails on {self.name}: {status}")
        return results[0] if len(results) == 1 else results

    def enumeration(self, kind: str, member: str) -> Any:
        """A member of one of the driver's enumerations."""
        return getattr(getattr(self._bindings, kind), member)

    def _current_context(self) -> int:
        """Handle of this thread's context; 0 without one."""
        _, handle = self._bindings.cuCtxGetCurrent()
        return int(handle)

    @contextmanager
    def _memory_errors(self, size: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # cuda-core's own class, which it does not name
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise MemoryError(f"{size} bytes on {self.name}") from error


def _address(array: Any) -> int:
    """Address of a tensor on the device or on the host."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.address)
