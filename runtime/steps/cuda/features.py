"""Encodings of a whole volume on the device: batches made ahead of need, in fixed slots, with a budget and a spill."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.contract import feature_bytes, graph_specs
from runtime.bundle.tensors import Features
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.machine import memory_bytes
from runtime.errors import OutOfMemory
from runtime.steps.cuda.encode import EncodeBuffers
from runtime.steps.features import MEMORY_SHARE, Encoder, ReadSlice

log = logging.getLogger("runtime")
BATCH_SIZES = (1, 2, 4, 8)  # slices encoded at a time
AHEAD = 16  # slices encoded before they are needed
FEWEST_SLOTS = 32  # a step's slices, and the batches under way
SLOT_STEP = 64  # volumes of nearly one depth take each other's slots over
DEVICE_SHARE = 0.5  # of the device's free memory

Pinned = dict[str, NDArray[Any]]
"""An encoding in pinned host memory, written and read on the stream of encodings alone, and so in their order."""


class DeviceFeatures:
    """Encodings of slices on the device, by slice number (`runtime.steps.features.Cache`).

    Slots fill up to half of the device's free memory. What was not used for longest then moves to pinned host memory,
    and comes back by a copy, until that is full too; beyond that it is encoded again.

    Args:
        memory: the device's.
        buffers: that slices are encoded in.
        model: does the encoding.
        read_slice: number to uint8 pixels (y, x) or (y, x, 3), on the host or in CUDA memory.
        max_bytes: of encodings to hold on the device and the host together; None is half of the device's free memory
            and a third of the host's.
    """

    def __init__(
        self,
        memory: CudaMemory,
        buffers: EncodeBuffers,
        model: Encoder,
        read_slice: ReadSlice,
        max_bytes: int | None = None,
    ) -> None:
        self._memory, self._streams, self._buffers = memory, memory.streams, buffers
        self._model, self._read_slice = model, read_slice
        one = feature_bytes(model.numbers)
        on_device = memory.free_bytes * DEVICE_SHARE
        on_host = memory_bytes() * MEMORY_SHARE
        if max_bytes is not None:
            on_device, on_host = (
                min(on_device, max_bytes),
                min(on_host, max(0.0, max_bytes - on_device)),
            )
        self._most_slots = max(int(on_device // one), FEWEST_SLOTS)
        self._most_spilled = int(on_host // one)
        self._slots: dict[str, Any] = {}
        self._free: list[int] = []
        self._where: OrderedDict[int, int] = OrderedDict()
        self._ready: dict[int, Any] = {}
        self._spilled: OrderedDict[int, Pinned] = OrderedDict()
        self._spare: list[Pinned] = []
        self._order: list[int] = []
        self._has_said = False
        # What was encoded ahead and is not wanted any more still writes to slots; they are freed on the step's stream.
        drain = weakref.finalize(self, memory.streams.drain)
        drain.atexit = False

    def __len__(self) -> int:
        return len(self._where) + len(self._spilled)

    def __contains__(self, index: int) -> bool:
        return index in self._where or index in self._spilled

    @property
    def tensors(self) -> list[Any]:
        """The slots, which stay where they are until more are needed."""
        return list(self._slots.values())

    def __getitem__(self, index: int) -> Features:
        self._bring([index])
        slot = self._where[index]
        return Features({name: values[slot : slot + 1] for name, values in self._slots.items()})

    def expect(self, order: Sequence[int]) -> None:
        """Make room for all of these, as far as the budget goes, and encode in this order ahead of need."""
        self._order = list(order)
        held = {*self._order, *self._where}
        whole = -(-(len(held) + FEWEST_SLOTS) // SLOT_STEP) * SLOT_STEP
        self._grow(min(whole, self._most_slots))

    def locate(self, indices: Sequence[int]) -> list[int]:
        """Slots of these slices; what is enqueued afterwards finds them there."""
        wanted = list(dict.fromkeys(indices))
        self._bring(wanted)
        self._look_ahead(wanted)
        return [self._where[index] for index in indices]

    def gather(self, places: Any) -> Features:
        """Encodings in some slots, as one batch."""
        return Features(
            {name: self._memory.gather(values, places) for name, values in self._slots.items()}
        )

    def clear(self) -> None:
        """Forget all; slots and buffers are kept."""
        self._free += self._where.values()
        self._where.clear()
        self._ready.clear()
        self._spare += self._spilled.values()
        self._spilled.clear()
        self._order = []

    def __del__(self) -> None:
        if self._spilled or self._spare:
            self._streams.synchronize()  # pinned memory must outlive the copies to and from it

    def _bring(self, wanted: Sequence[int]) -> None:
        """Have these slices in slots, in the order of what is enqueued afterwards."""
        self._make([index for index in wanted if index not in self._where], wanted)
        for index in wanted:
            self._where.move_to_end(index)
            if index in self._ready:
                self._memory.current.wait(self._ready.pop(index))

    def _look_ahead(self, needed: Sequence[int]) -> None:
        """Enqueue encodings of the next slices, in whole batches, but for the last of all."""
        met = [i for i, index in enumerate(self._order) if index in needed]
        self._order = self._order[met[-1] + 1 if met else 0 :]
        coming = self._order[:AHEAD]
        missing = [index for index in coming if index not in self._where]
        is_end = len(self._order) <= AHEAD
        if missing and (is_end or len(missing) >= BATCH_SIZES[-1]):
            keep = [*needed, *coming]
            self._make(missing[: BATCH_SIZES[-1]], keep)

    def _make(self, missing: Sequence[int], keep: Sequence[int]) -> None:
        """Bring slices to slots, from the host or by encoding them, without giving up those to be kept."""
        for index in [index for index in missing if index in self._spilled]:
            self._restore(index, keep)
        to_encode = [index for index in missing if index not in self._where]
        for start in range(0, len(to_encode), BATCH_SIZES[-1]):
            batch = to_encode[start : start + BATCH_SIZES[-1]]
            pixels = [self._read_slice(index) for index in batch]
            for shape in dict.fromkeys(image.shape for image in pixels):
                alike = [i for i, image in enumerate(pixels) if image.shape == shape]
                self._encode([batch[i] for i in alike], [pixels[i] for i in alike], keep)

    def _encode(self, indices: Sequence[int], pixels: Sequence[Any], keep: Sequence[int]) -> None:
        """Enqueue the encoding of slices of one shape on the stream for that."""
        memory = self._memory
        size = next(size for size in BATCH_SIZES if size >= len(indices))
        engine, buffers = (
            self._model.engine("image_encoder"),
            self._buffers.of((size, *pixels[0].shape)),
        )
        slots: list[int] = []
        try:
            slots.extend(self._take(keep) for _ in indices)
            with self._streams.on(self._streams.encode):
                encoded = buffers.encode([*pixels, *[pixels[-1]] * (size - len(pixels))], engine)
                index = memory.put(np.array(slots, np.int64))
                for name, values in self._slots.items():
                    memory.store(values, index, encoded[name][: len(slots)], False)
                ready = memory.current.record()
        except BaseException:
            self._free += slots
            raise
        for slice_index, slot in zip(indices, slots, strict=True):
            self._where[slice_index], self._ready[slice_index] = slot, ready

    def _take(self, keep: Sequence[int]) -> int:
        """A free slot, or one more; the one unused for longest is given up where there are no more."""
        if not self._free:
            self._grow(min(max(BATCH_SIZES[-1], 2 * self._num_slots), self._most_slots))
        if not self._free:
            given_up = next(index for index in self._where if index not in keep)
            self._spill(given_up)
        return self._free.pop()

    def _spill(self, index: int) -> None:
        slot = self._where.pop(index)
        self._ready.pop(index, None)
        self._free.append(slot)
        self._say_full()
        if self._most_spilled == 0:
            return
        pinned = self._pinned()
        with self._streams.on(self._streams.encode):  # on which this slot is written to next
            for name, array in pinned.items():
                self._memory.copy(self._slots[name][slot], array)
        self._spilled[index] = pinned

    def _pinned(self) -> Pinned:
        """Pinned memory for one encoding: that of the oldest spilled one where no more is allowed."""
        if len(self._spilled) >= self._most_spilled:
            return self._spilled.popitem(last=False)[1]
        if self._spare:
            return self._spare.pop()
        return {
            name: self._memory.device.pinned(values.shape[1:], "float32")
            for name, values in self._slots.items()
        }

    def _restore(self, index: int, keep: Sequence[int]) -> None:
        pinned = self._spilled.pop(index)
        slot = self._take(keep)
        with self._streams.on(self._streams.encode):
            for name, array in pinned.items():
                self._memory.copy(array, self._slots[name][slot])
            self._where[index], self._ready[index] = slot, self._memory.current.record()
        self._spare.append(pinned)

    def _grow(self, count: int) -> None:
        """Have at least so many slots; what they hold stays."""
        before = self._num_slots
        if count <= before:
            return
        memory, outputs = self._memory, graph_specs(self._model.numbers)["image_encoder"].outputs
        self._streams.synchronize()
        try:
            grown = {
                name: memory.slots((count, *spec.bind({"n": 1})[1:]), name)
                for name, spec in outputs.items()
            }
        except MemoryError as error:
            raise OutOfMemory(
                f"{count} encoded slices do not fit on {memory.device.name}: {error}; allow fewer with --max-memory"
            ) from error
        for name, values in self._slots.items():
            memory.copy(values, grown[name][:before])
        self._streams.synchronize()
        self._slots = grown
        self._free += range(before, count)

    @property
    def _num_slots(self) -> int:
        return len(self._slots["vision_features"]) if self._slots else 0

    def _say_full(self) -> None:
        if not self._has_said:
            where = "move to the host" if self._most_spilled else "are encoded again when needed"
            log.warning(
                "%d encoded slices fill the memory allowed on %s; others %s (--max-memory allows more)",
                self._most_slots,
                self._memory.device.name,
                where,
            )
        self._has_said = True
