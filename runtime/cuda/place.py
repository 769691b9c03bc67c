"""Tensors in a CUDA device's memory, and the operations between graphs there (`runtime.place.Place`)."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels.device import Device, NoDevice
from kernels.device_array import DeviceArray, device_array, is_device_array
from kernels.slots import GATHER, SIMILARITY, STORE
from runtime.batch import Batch
from runtime.contract import ModelNumbers
from runtime.cuda.control import ControlBlock
from runtime.cuda.encode import Lane
from runtime.cuda.features import DeviceFeatures
from runtime.cuda.pool import SlotPool
from runtime.cuda.readback import Readback
from runtime.cuda.replay import Replays
from runtime.errors import BackendUnavailable, InputError
from runtime.features import Cache, Encoder, ReadSlice
from runtime.tensors import Decoded, Fetched

if TYPE_CHECKING:
    from runtime.memory.records import MemoryRead

log = logging.getLogger("runtime")
MOST_LANES = 8  # shapes of slices kept ready
MEMORY_STEP = 4  # prompted slices beyond the usual: lengths grow by so many at a time
DEFAULT_STREAMS = (0, 1, 2)  # handles with a meaning: none, the legacy one, the thread's own
STEP_PRIORITY, ENCODE_PRIORITY = -1, 0  # a step is waited for, an encoding seldom


class CudaPlace:
    """A device's memory, with one stream for steps and one for encodings that run ahead of them.

    A step is run as it is the first time its shape comes, captured into a CUDA graph the second time, and launched from
    then on. It reads slots and writes slots that it does not read, so that running it twice does no harm.

    Args:
        device: a `kernels.device.Device`.
        numbers: of the model.
        stream: handle of the caller's own stream for steps, such as pycuda's `stream.handle`; None makes one.
        replays: False runs every step as it is.
    """

    spare_share = 1.0

    def __init__(
        self, device: Any, numbers: ModelNumbers, stream: int | None = None, replays: bool = True
    ) -> None:
        if stream in DEFAULT_STREAMS:
            raise InputError(
                f"found stream {stream}, a default one, on which no step can be captured; wanted one that was made"
            )
        self.device, self.numbers = device, numbers
        self.step_stream = (
            device.stream(STEP_PRIORITY) if stream is None else device.foreign_stream(stream)
        )
        self.encode_stream = device.stream(ENCODE_PRIORITY)
        self._now = [self.step_stream]
        self.pads = True  # steps to a full memory; else each length is a shape, with its graph
        self.step_marks: list[tuple[Any, Any]] | None = None  # a list gets steps' starts and ends
        self._is_replayed, self._replays = replays, Replays(device)
        self._blocks: dict[tuple[int, ...], ControlBlock] = {}
        self._readback = Readback(device)
        self._pool = SlotPool(device, self.synchronize)
        self._lanes: OrderedDict[tuple[int, ...], Lane] = OrderedDict()

    @property
    def current(self) -> Any:
        """The stream on which whatever is asked for is enqueued; known to the thread that asks."""
        self.device.use()
        return self._now[-1]

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Enqueue on another stream meanwhile, after all that is enqueued on the current one by now."""
        stream.wait(self.current.record())
        self._now.append(stream)
        try:
            yield
        finally:
            self._now.pop()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        def make() -> Any:
            return self.allocate(shape, dtype)

        return tape.empty(shape, dtype, make) if (tape := self._replays.tape) else make()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A tensor that no pass is asked for again. Slots that wait for another volume make room for it."""
        stream = self.current
        return self._pool.made(lambda: self.device.empty(shape, dtype, stream=stream))

    @property
    def free_bytes(self) -> int:
        """Of the device, with the slots that wait for another volume."""
        return int(self.device.memory_bytes[0]) + self._pool.waiting_bytes

    def slots(self, shape: tuple[int, ...], name: str) -> Any:
        return self._pool.slots(shape, name, stream=self.current)

    def lane(self, shape: tuple[int, ...]) -> Lane:
        """Buffers to encode a batch of slices of one shape in."""
        if shape not in self._lanes:
            self._lanes[shape] = Lane(self, shape)
            while len(self._lanes) > MOST_LANES:
                self.synchronize()
                self._lanes.popitem(last=False)
        self._lanes.move_to_end(shape)
        return self._lanes[shape]

    def put(self, array: Any) -> Any:
        if isinstance(array, DeviceArray):
            return array
        array = np.ascontiguousarray(array)

        def make() -> Any:
            made = self.allocate(array.shape, array.dtype.name)
            self.device.copy(array, made, stream=self.current)
            return made

        return tape.constant(array, make) if (tape := self._replays.tape) else make()

    def take(self, pixels: Any, is_kept: bool = False) -> Any:
        if not is_device_array(pixels):
            return pixels.copy() if is_kept else pixels
        self.device.use()
        try:
            taken = device_array(pixels, int(self.step_stream.handle))
        except (TypeError, ValueError, BufferError) as error:
            raise InputError(f"an array on the device cannot be read: {error}") from error
        if taken.stream is not None:  # its owner has only enqueued what is to be there
            self.step_stream.wait(self.device.foreign_stream(taken.stream))
        if not is_kept:
            return taken
        kept = self.allocate(taken.shape, taken.dtype.name)
        self.copy(taken, kept)
        self.current.sync()  # its owner, whose stream may be another one, writes there as soon as this returns
        return kept

    def get(self, tensor: Any) -> NDArray[Any]:
        if isinstance(tensor, np.ndarray):
            return tensor
        found: NDArray[Any] = self.device.download(tensor, stream=self.current)
        return found

    def not_finite(self, tensors: Any) -> None:
        """Nothing is known yet; what is fetched is looked at then."""

    def copy(self, source: Any, target: Any) -> None:
        self.device.copy(source, target, stream=self.current)

    def gather(self, values: Any, index: Any) -> Any:
        index = self.put(index)
        shapes = {"values": values.shape, "index": index.shape}
        made = self.empty((*index.shape, *values.shape[1:]), "float32")
        self.run(GATHER, {"values": values, "index": index, "gathered": made}, shapes, {})
        return made

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

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        """A full memory from the first step on, so that nearly all steps have one shape; weights mask the rest."""
        if not self.pads:
            return 0, 0
        most = max(len(read.slots) for read in reads), max(len(read.ptr_slots) for read in reads)
        usual = self.numbers.num_maskmem, self.numbers.max_obj_ptrs
        over = (max(0, -(-(n - u) // MEMORY_STEP)) for n, u in zip(most, usual, strict=True))
        k, p = (u + MEMORY_STEP * steps for u, steps in zip(usual, over, strict=True))
        return k, p

    def send(self, batch: Batch) -> Batch:
        if batch.shape not in self._blocks:
            self._blocks[batch.shape] = ControlBlock(self.device, batch, self.current)
        block = self._blocks[batch.shape]
        block.send(batch, stream=self.current)
        return block.batch

    def replayed(
        self, batch: Batch, held: Sequence[Any], compute: Callable[[], Decoded]
    ) -> Decoded:
        if self.step_marks is None:
            return self._step(batch, held, compute)
        start = self.device.mark(stream=self.current)
        decoded = self._step(batch, held, compute)
        self.step_marks.append((start, self.device.mark(stream=self.current)))
        return decoded

    def _step(self, batch: Batch, held: Sequence[Any], compute: Callable[[], Decoded]) -> Decoded:
        if not self._is_replayed:
            return compute()
        key = (batch.shape, *(tensor.address for tensor in held))
        return self._replays.run(
            key, lambda: self._with_scalars_read(compute()), stream=self.current
        )

    @property
    def launches_per_step(self) -> int | None:
        """Kernels and copies in the graph launched last; None before there is one."""
        return self._replays.num_nodes

    def stop_replays(self, reason: str) -> None:
        """Run every step as it is from now on, and say why."""
        if self._is_replayed:
            log.warning("steps are not replayed as CUDA graphs, and slower for it: %s", reason)
        self._is_replayed = False
        self._replays.steps.clear()

    def unreplayed(self) -> CudaPlace:
        watched = copy.copy(self)
        watched._is_replayed = False
        return watched

    def fetch(self, decoded: Decoded) -> list[Fetched]:
        if not isinstance(decoded.ious, np.ndarray):
            decoded = self._with_scalars_read(decoded)
        arrived = self.current.record()
        masks = self._readback.masks(decoded.low_res_masks, stream=self.current)
        arrived.sync()
        return [
            Fetched(
                mask,
                float(decoded.ious[i]),
                float(decoded.object_score_logits[i]),
                decoded.obj_ptr[i].copy(),
            )
            for i, mask in enumerate(masks)
        ]

    def features(
        self, model: Encoder, read_slice: ReadSlice, max_bytes: int | None = None
    ) -> Cache:
        return DeviceFeatures(self, model, read_slice, max_bytes)

    def timed(self, run: Callable[[], object]) -> float:
        start = self.device.mark(stream=self.current)
        run()
        return float(self.device.elapsed_ms(start, self.device.mark(stream=self.current)))

    def synchronize(self) -> None:
        self.device.use()
        self.step_stream.sync()
        self.encode_stream.sync()

    def _with_scalars_read(self, decoded: Decoded) -> Decoded:
        """With a copy of scalars and pointers to pinned memory enqueued."""
        read = []
        for tensor in (decoded.ious, decoded.object_score_logits, decoded.obj_ptr):
            pinned = self._pinned(tensor.shape)
            self.device.copy(tensor, pinned, stream=self.current)
            read.append(pinned)
        return Decoded(decoded.low_res_masks, *read)

    def _pinned(self, shape: tuple[int, ...]) -> NDArray[Any]:
        def make() -> NDArray[Any]:
            made: NDArray[Any] = self.device.pinned(shape, "float32")
            return made

        if (tape := self._replays.tape) is None:
            return make()
        found: NDArray[Any] = tape.empty(shape, "pinned", make)
        return found

    def run(self, kernel: Any, buffers: Any, shapes: Any, numbers: Any) -> None:
        """Enqueue one of our kernels; arguments as `kernels.device.Device.enqueue`."""
        self.device.enqueue(kernel, buffers, shapes, numbers, stream=self.current)


def open_place(numbers: ModelNumbers, stream: int | None = None, replays: bool = True) -> CudaPlace:
    """The first CUDA device as a place. Raises BackendUnavailable with what is missing."""
    try:
        return CudaPlace(Device(), numbers, stream, replays)
    except NoDevice as error:
        raise BackendUnavailable(f"no CUDA device can be used: {error}") from error
