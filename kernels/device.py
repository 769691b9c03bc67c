"""A CUDA device through cuda-core: sources compiled once, plans enqueued on a stream that is always named.

The only file of this floor that imports a CUDA binding, and only when a device is opened. Whether there is one is asked
of the driver first, because bindings answer that question by crashing in more ways than one.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.kernel import FOLDER, Case, Kernel, Launch, Numbers, Shapes

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
            self._core: Any = import_module("cuda.core")
        except ImportError as error:
            raise NoDevice(f"cuda-core is missing ({error}); pip install cuda-core") from error
        self._device = self._core.Device(ordinal)
        self._device.set_current()
        self._entries: dict[tuple[str, str], Any] = {}
        self._tables: dict[Any, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        """Of the card."""
        return str(self._device.name)

    def stream(self) -> Any:
        """A stream of this device."""
        return self._device.create_stream()

    def foreign_stream(self, handle: int) -> Any:
        """Somebody else's stream, such as pycuda's `stream.handle` or torch's `cuda_stream`."""
        return self._core.Stream.from_handle(handle)

    def empty(self, shape: tuple[int, ...], dtype: str, *, stream: Any) -> Any:
        """A buffer, uninitialised, allocated in the stream's order."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._device.memory_resource.allocate(max(size, 1), stream=stream)

    def upload(self, array: NDArray[Any], *, stream: Any) -> Any:
        """A buffer with an array's contents; waits, so that the array may change afterwards."""
        held = np.ascontiguousarray(array)
        buffer = self.empty(held.shape, held.dtype.name, stream=stream)
        self._copy(int(buffer.handle), held.ctypes.data, held.nbytes, stream)
        stream.sync()
        return buffer

    def download(
        self, buffer: Any, shape: tuple[int, ...], dtype: str, *, stream: Any
    ) -> NDArray[Any]:
        """A buffer's contents, once everything enqueued before is done."""
        out: NDArray[Any] = np.empty(shape, dtype)
        self._copy(out.ctypes.data, int(buffer.handle), out.nbytes, stream)
        stream.sync()
        return out

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
            buffers: every tensor that it reads or writes but its tables, as cuda-core buffers or device addresses.
            shapes: of its inputs.
            numbers: of the case.
            stream: where.
        """
        written = {name: shape for name, (shape, _) in kernel.outputs(shapes, numbers).items()}
        held = {**self._tables_of(kernel, shapes, numbers, stream), **buffers}
        for launch in kernel.plan({**shapes, **written}, numbers):
            self._launch(kernel, launch, held, stream)

    def run(self, kernel: Kernel, case: Case, *, stream: Any) -> dict[str, NDArray[Any]]:
        """What a kernel's launches write for a case: uploaded, computed and downloaded."""
        buffers = self.buffers(kernel, case, stream=stream)
        self.enqueue(kernel, buffers, case.shapes, case.numbers, stream=stream)
        return {
            name: self.download(buffers[name], shape, dtype, stream=stream)
            for name, (shape, dtype) in kernel.outputs(case.shapes, case.numbers).items()
        }

    def buffers(self, kernel: Kernel, case: Case, *, stream: Any) -> dict[str, Any]:
        """A case's inputs, uploaded, and room for its outputs."""
        made = {name: self.upload(array, stream=stream) for name, array in case.arrays.items()}
        for name, (shape, dtype) in kernel.outputs(case.shapes, case.numbers).items():
            before = kernel.starts_from.get(name)
            made[name] = (
                self.empty(shape, dtype, stream=stream)
                if before is None
                else self.upload(case.arrays[before], stream=stream)
            )
        return made

    def time_ms(self, enqueue: Callable[[], object], repeat: int, *, stream: Any) -> float:
        """Device time of one of `repeat` calls in a row, between two events; one call before them warms up."""
        enqueue()
        options = self._core.EventOptions(timing_enabled=True)
        start = stream.record(options=options)
        for _ in range(repeat):
            enqueue()
        stop = stream.record(options=options)
        stop.sync()
        return float(stop - start) / repeat

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
                arch=f"sm_{self._device.arch}", include_path=str(FOLDER)
            )
            program = self._core.Program(kernel.path.read_text(), "c++", options)
            self._entries[key] = program.compile("cubin").get_kernel(name)
        return self._entries[key]

    def _tables_of(
        self, kernel: Kernel, shapes: Shapes, numbers: Numbers, stream: Any
    ) -> dict[str, Any]:
        key = (kernel.name, *sorted(shapes.items()), *sorted(numbers.items()))
        if key not in self._tables:
            made = kernel.tables(shapes, numbers).items()
            self._tables[key] = {name: self.upload(array, stream=stream) for name, array in made}
        return self._tables[key]

    def _copy(self, target: int, source: int, size: int, stream: Any) -> None:
        driver = import_module("cuda.bindings.driver")
        (status,) = driver.cuMemcpyAsync(target, source, size, int(stream.handle))
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"a copy of {size} bytes fails on {self.name}: {status}")


def _address(buffer: Any) -> int:
    return buffer if isinstance(buffer, int) else int(buffer.handle)
