"""A CUDA device made of host memory: the same kernels, compiled for the host, on streams as lazy as a GPU's may be.

Nothing that is enqueued happens before somebody waits for it, and then only what that one waits for. Whatever the code
under test forgets to order therefore shows: a buffer read too early holds garbage, one freed too early is missed.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from kernels.cuda_graph import nothing_collected
from kernels.device_array import DeviceArray
from kernels.dlpack import CPU
from kernels.kernel import Kernel
from tests.kernels import on_host

ALIGNMENT = 256  # of whatever is allocated
GARBAGE = 0xA5  # as int64 an index far outside of everything
Work = Callable[[], object]


class HostEvent:
    """A place in a stream's queue."""

    def __init__(self, stream: HostStream) -> None:
        self.stream, self.position = stream, stream.num_enqueued

    def sync(self) -> None:
        self.stream.device.check_wait()
        self.stream.run_until(self.position)


class HostStream:
    """A queue that is worked off when somebody waits."""

    def __init__(self, device: HostDevice, priority: int | None = None) -> None:
        self.device, self.priority = device, priority
        self.handle = next(device.serial)
        self.queue: list[Work] = []
        self.num_done = 0

    @property
    def num_enqueued(self) -> int:
        return self.num_done + len(self.queue)

    def enqueue(self, work: Work) -> None:
        if self.device.capturing is not None and gc.isenabled():
            gc.collect()  # which might happen at any time
        if self.device.capturing is not None and self.device.capturing[0] is self:
            self.device.capturing[1].append(work)
        else:
            self.queue.append(work)

    def run_until(self, position: int) -> None:
        while self.num_done < position:
            work = self.queue.pop(0)
            self.num_done += 1
            work()

    def record(self, event: object = None, options: object = None) -> HostEvent:
        self.device.check_thread()
        return HostEvent(self)

    def wait(self, event_or_stream: HostEvent | HostStream) -> None:
        is_event = isinstance(event_or_stream, HostEvent)
        event = event_or_stream if is_event else event_or_stream.record()
        self.enqueue(lambda: event.stream.run_until(event.position))

    def sync(self) -> None:
        self.device.check_wait()
        self.run_until(self.num_enqueued)


class Mark:
    """The moment at which a stream has come to a place in its queue."""

    def __init__(self, stream: HostStream) -> None:
        self.time_s = 0.0
        stream.enqueue(self._pass)
        self.event = stream.record()

    def _pass(self) -> None:
        self.time_s = time.perf_counter()


class HostGraph:
    """Captured work."""

    def __init__(self, device: HostDevice, work: list[Work]) -> None:
        self.device, self.work, self.num_nodes = device, work, len(work)

    def launch(self, *, stream: HostStream) -> None:
        self.device.launches += 1
        for each in self.work:
            stream.enqueue(each)


class Owner:
    """Keeps an allocation for as long as it is there itself."""


class HostDevice:
    """What `kernels.device.Device` is, on host memory.

    Attributes:
        total_bytes: of memory; an allocation beyond it fails.
        allocations: how many there have been.
        captures, launches: of graphs.
    """

    name = "a host that plays a device"
    architecture = "00"

    def __init__(self, total_bytes: int = 1 << 30) -> None:
        self.total_bytes = total_bytes
        self.allocations = self.captures = self.launches = self.kernels = 0
        self.serial = count(16)  # those below mean default streams
        self.capturing: tuple[HostStream, list[Work]] | None = None
        self._thread = threading.local()
        self.disturbed = 0
        self.use()
        self.pinned_memory: list[weakref.ref[np.ndarray]] = []
        self._streams: dict[int, HostStream] = {}
        self._live: dict[int, np.ndarray] = {}

    @property
    def memory_bytes(self) -> tuple[int, int]:
        return self.total_bytes - sum(a.nbytes for a in self._live.values()), self.total_bytes

    def use(self) -> None:
        self._thread.has_context = True

    def check_thread(self) -> None:
        assert getattr(self._thread, "has_context", False), "this thread has no context"

    def check_wait(self) -> None:
        self.check_thread()
        self.disturbed += self.capturing is not None
        assert self.capturing is None, "waiting while a graph is captured"

    def stream(self, priority: int | None = None) -> HostStream:
        self.use()
        made = HostStream(self, priority)
        self._streams[made.handle] = made
        return made

    def external_stream(self, handle: int) -> HostStream:
        return self._streams[handle]

    def empty(self, shape: tuple[int, ...], dtype: str, *, stream: HostStream) -> DeviceArray:
        self.use()
        assert self.capturing is None, "allocating while a graph is captured"
        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        if size > self.memory_bytes[0]:
            raise MemoryError(f"{size} bytes on {self.name}")
        raw = np.full(size + ALIGNMENT, GARBAGE, np.uint8)
        memory = raw[-raw.ctypes.data % ALIGNMENT :][:size]
        self._live[memory.ctypes.data] = memory
        self.allocations += 1
        owner = Owner()
        weakref.finalize(owner, self._free, memory.ctypes.data, stream)
        return DeviceArray(memory.ctypes.data, shape, dtype, owner, device=(CPU, 0))

    def _free(self, address: int, stream: HostStream) -> None:
        """Memory is freed in the order of the stream that it was allocated on."""
        self.disturbed += self.capturing is not None
        stream.queue.append(lambda: self._live.pop(address))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        self.use()
        assert self.capturing is None, "allocating while a graph is captured"
        made = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, GARBAGE, np.uint8)
        self.pinned_memory.append(weakref.ref(made))
        return made.view(dtype).reshape(shape)

    def copy(self, source: Any, target: Any, *, stream: HostStream) -> None:
        self.use()
        assert source.nbytes == target.nbytes, f"{source.nbytes} bytes to {target.nbytes}"
        if isinstance(source, np.ndarray) and self._pinned_of(source) is None:
            assert self.capturing is None, "copying from pageable memory while a graph is captured"
            source = source.copy()
        read, write = self._reader(source), self._reader(target)

        def work() -> None:
            write()[...] = read()

        stream.enqueue(work)

    def mark(self, *, stream: HostStream) -> Mark:
        return Mark(stream)

    def elapsed_ms(self, start: Mark, stop: Mark) -> float:
        stop.event.sync()
        return 1e3 * (stop.time_s - start.time_s)

    def upload(self, array: np.ndarray, *, stream: HostStream) -> DeviceArray:
        made = self.empty(array.shape, array.dtype.name, stream=stream)
        self.copy(np.ascontiguousarray(array), made, stream=stream)
        stream.sync()
        return made

    def download(self, array: DeviceArray, *, stream: HostStream) -> np.ndarray:
        out = np.empty(array.shape, array.dtype)
        self.copy(array, out, stream=stream)
        stream.sync()
        return out

    def capture(self, enqueue: Callable[[], object], *, stream: HostStream) -> HostGraph:
        self.use()
        self.captures += 1
        self.capturing, self.disturbed = (stream, []), 0
        try:
            with nothing_collected():  # as on a real device
                enqueue()
            assert not self.disturbed, "memory is freed, or waited for, while a graph is captured"
            return HostGraph(self, self.capturing[1])
        finally:
            self.capturing = None

    def enqueue(
        self,
        kernel: Kernel,
        buffers: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        numbers: Mapping[str, Any],
        *,
        stream: HostStream,
    ) -> None:
        self.use()
        made = kernel.outputs(shapes, numbers)
        launches = kernel.plan({**shapes, **{n: s for n, (s, _) in made.items()}}, numbers)
        tables = kernel.tables(shapes, numbers)
        views = {name: self._reader(buffer) for name, buffer in buffers.items()}

        def work() -> None:
            self.kernels += len(launches)
            on_host.run(kernel.path, launches, {**tables, **{n: v() for n, v in views.items()}})

        stream.enqueue(work)

    def view(self, array: DeviceArray) -> np.ndarray:
        """A tensor's memory as numpy sees it, if it has not been freed."""
        owner = next(
            (
                memory
                for start, memory in self._live.items()
                if start <= array.address
                and array.address + array.nbytes <= start + max(memory.nbytes, 1)
            ),
            None,
        )
        assert owner is not None or array.nbytes == 0, "memory that has been freed is used"
        if owner is None:
            return np.empty(array.shape, array.dtype)
        start = array.address - owner.ctypes.data
        flat = owner[start : start + array.nbytes]
        return flat.view(array.dtype).reshape(array.shape)

    def _reader(self, array: Any) -> Callable[[], np.ndarray]:
        """Looks at the memory when the work is done, and does not keep it alive, as a GPU would not."""
        if (memory := self._pinned_of(array)) is not None:
            return _pinned_reader(memory, array)
        if isinstance(array, np.ndarray):
            flat = array.reshape(-1).view(np.uint8)
            assert np.shares_memory(flat, array) or array.nbytes == 0
            return lambda: flat
        loose = DeviceArray(array.address, (array.nbytes,), "uint8", None)
        shaped = DeviceArray(array.address, array.shape, array.dtype, None)
        del array

        def read() -> np.ndarray:
            self.view(loose)
            return self.view(shaped).reshape(-1).view(np.uint8)

        return read

    def _pinned_of(self, array: Any) -> np.ndarray | None:
        if not isinstance(array, np.ndarray):
            return None
        live = [memory for each in self.pinned_memory if (memory := each()) is not None]
        self.pinned_memory = [weakref.ref(memory) for memory in live]
        return next((memory for memory in live if np.shares_memory(memory, array)), None)


def _pinned_reader(memory: np.ndarray, array: np.ndarray) -> Callable[[], np.ndarray]:
    start, size = array.ctypes.data - memory.ctypes.data, array.nbytes
    held = weakref.ref(memory)

    def read() -> np.ndarray:
        found = held()
        assert found is not None, "pinned memory that has been freed is used"
        return found[start : start + size]

    return read
