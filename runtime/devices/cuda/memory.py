"""Tensors in a CUDA device's memory, and the operations on them there (`runtime.devices.memory.DeviceMemory`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.device import Device, NoDevice
from kernels.device_array import DeviceArray, device_array, is_device_array
from kernels.slots import GATHER, SIMILARITY, STORE
from runtime.devices.cuda.recorder import BufferRecorder
from runtime.devices.cuda.slot_pool import SlotPool
from runtime.devices.cuda.streams import Streams
from runtime.devices.memory import on_host
from runtime.errors import BackendUnavailable, InputError


class CudaMemory:
    """A device's memory. Work on it is enqueued on the current stream of `streams`.

    Args:
        device: a `kernels.device.Device`.
        stream: as `Streams` takes it.

    Attributes:
        recorder: while it is set, buffers and constants come from it, so that a second pass finds those of the first.
    """

    spare_share = 1.0

    def __init__(self, device: Any, stream: int | None = None) -> None:
        self.device, self.streams = device, Streams(device, stream)
        self.recorder: BufferRecorder | None = None
        self._pool = SlotPool(device, self.streams.synchronize)

    @property
    def current(self) -> Any:
        """The stream on which whatever is asked for is enqueued."""
        return self.streams.current

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        def make() -> Any:
            return self.allocate(shape, dtype)

        return self.recorder.empty(shape, dtype, make) if self.recorder else make()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Allocate a tensor that no pass is asked for again. Slots that wait for another volume make room for it."""
        stream = self.current
        return self._pool.allocate(lambda: self.device.empty(shape, dtype, stream=stream))

    def pinned(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Allocate float32 memory of the host that the device copies to; recorded as buffers are."""

        def make() -> NDArray[Any]:
            block: NDArray[Any] = self.device.pinned(shape, "float32")
            return block

        if self.recorder is None:
            return make()
        array: NDArray[Any] = self.recorder.empty(shape, "pinned", make)
        return array

    @property
    def free_bytes(self) -> int:
        """Free bytes of the device, with the slots that wait for another volume."""
        return int(self.device.memory_bytes[0]) + self._pool.waiting_bytes

    def slots(self, shape: tuple[int, ...], name: str) -> Any:
        return self._pool.slots(shape, name, stream=self.current)

    def put(self, array: Any) -> Any:
        if isinstance(array, DeviceArray):
            return array
        array = np.ascontiguousarray(array)

        def make() -> Any:
            tensor = self.allocate(array.shape, array.dtype.name)
            self.device.copy(array, tensor, stream=self.current)
            return tensor

        return self.recorder.constant(array, make) if self.recorder else make()

    def take(self, pixels: Any, is_kept: bool = False) -> Any:
        if not is_device_array(pixels):
            return on_host(pixels, is_kept)
        self.device.use()
        step = self.streams.step
        try:
            taken = device_array(pixels, int(step.handle))
        except (TypeError, ValueError, BufferError) as error:
            raise InputError(f"an array on the device cannot be read: {error}") from error
        if taken.stream is not None:  # its owner has only enqueued what is to be there
            step.wait(self.device.external_stream(taken.stream))
        if not is_kept:
            return taken
        copied = self.allocate(taken.shape, taken.dtype.name)
        self.copy(taken, copied)
        self.current.sync()  # its owner, whose stream may be another one, writes there as soon as this returns
        return copied

    def get(self, tensor: Any) -> NDArray[Any]:
        if isinstance(tensor, np.ndarray):
            return tensor
        array: NDArray[Any] = self.device.download(tensor, stream=self.current)
        return array

    def not_finite(self, tensors: Any) -> None:
        """None: only a wait could tell, and what is fetched is looked at then."""

    def copy(self, source: Any, target: Any) -> None:
        self.device.copy(source, target, stream=self.current)

    def gather(self, values: Any, index: Any) -> Any:
        index = self.put(index)
        shapes = {"values": values.shape, "index": index.shape}
        gathered = self.empty((*index.shape, *values.shape[1:]), "float32")
        self.run(GATHER, {"values": values, "index": index, "gathered": gathered}, shapes, {})
        return gathered

    def store(self, values: Any, index: Any, rows: Any, is_rounded: bool) -> None:
        index, rows = self.put(index), self.put(rows)
        shapes = {"memories": rows.shape, "index": index.shape, "before": values.shape}
        buffers = {"memories": rows, "index": index, "values": values}
        self.run(STORE, buffers, shapes, {"is_rounded": is_rounded})

    def similarity(self, values: Any, slots: list[int], probe: Any) -> NDArray[np.float32]:
        buffers = {
            "values": values,
            "index": self.put(np.array(slots, np.int64)),
            "probe": self.put(probe).reshape((-1,)),
            "cosines": self.empty((len(slots),), "float32"),
        }
        shapes = {name: buffers[name].shape for name in ("values", "index", "probe")}
        self.run(SIMILARITY, buffers, shapes, {})
        return self.get(buffers["cosines"])

    def recorded(self, recorder: BufferRecorder, compute: Callable[[], Any]) -> Any:
        """Compute with every buffer taken from a recorder."""
        self.recorder = recorder
        try:
            return compute()
        finally:
            self.recorder = None

    def run(self, kernel: Any, buffers: Any, shapes: Any, numbers: Any) -> None:
        """Enqueue one of our kernels; arguments as `kernels.device.Device.enqueue`."""
        self.device.enqueue(kernel, buffers, shapes, numbers, stream=self.current)


def open_memory(stream: int | None = None) -> CudaMemory:
    """Open the first CUDA device's memory. Raises BackendUnavailable with what is missing."""
    try:
        return CudaMemory(Device(), stream)
    except NoDevice as error:
        raise BackendUnavailable(f"no CUDA device can be used: {error}") from error
