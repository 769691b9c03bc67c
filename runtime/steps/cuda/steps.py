"""Steps on a CUDA device (`runtime.steps.steps.Steps`): padded, sent in one copy, replayed, read back late."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.bundle.contract import ModelNumbers
from runtime.bundle.tensors import Decoded, Fetched
from runtime.devices.cuda.memory import CudaMemory
from runtime.memory.batch import Batch
from runtime.memory.records import MemoryRead
from runtime.steps.cuda.control import ControlBlock
from runtime.steps.cuda.encode import EncodeBuffers
from runtime.steps.cuda.features import DeviceFeatures
from runtime.steps.cuda.readback import Readback
from runtime.steps.cuda.replay import Replays
from runtime.steps.features import Cache, Encoder, ReadSlice

log = logging.getLogger("runtime")
MEMORY_STEP = 4  # prompted slices beyond the usual: lengths grow by so many at a time


class CudaSteps:
    """Steps on a device.

    A step is run as it is the first time its shape comes, captured into a CUDA graph the second time, and launched from
    then on. It reads slots and writes slots that it does not read, so that running it twice does no harm.

    Args:
        memory: the device's.
        numbers: of the model.
        replays: False runs every step as it is.

    Attributes:
        pads: whether steps are padded to a full memory; else each length is a shape, with a graph of its own.
        step_marks: a list gets steps' starts and ends; None takes no time.
    """

    def __init__(self, memory: CudaMemory, numbers: ModelNumbers, replays: bool = True) -> None:
        self._memory, self._numbers = memory, numbers
        self.pads = True
        self.step_marks: list[tuple[Any, Any]] | None = None
        self._is_replayed, self._replays = replays, Replays(memory)
        self._blocks: dict[tuple[int, ...], ControlBlock] = {}
        self._readback = Readback(memory.device)
        self._encode_buffers = EncodeBuffers(memory, numbers)

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        """A full memory from the first step on, so that nearly all steps have one shape; weights mask the rest."""
        if not self.pads:
            return 0, 0
        most = max(len(read.slots) for read in reads), max(len(read.ptr_slots) for read in reads)
        usual = self._numbers.num_maskmem, self._numbers.max_obj_ptrs
        over = (max(0, -(-(n - u) // MEMORY_STEP)) for n, u in zip(most, usual, strict=True))
        k, p = (u + MEMORY_STEP * steps for u, steps in zip(usual, over, strict=True))
        return k, p

    def send(self, batch: Batch) -> Batch:
        stream = self._memory.current
        if batch.shape not in self._blocks:
            self._blocks[batch.shape] = ControlBlock(self._memory.device, batch, stream)
        block = self._blocks[batch.shape]
        block.send(batch, stream=stream)
        return block.batch

    def replayed(
        self, batch: Batch, held: Sequence[Any], compute: Callable[[], Decoded]
    ) -> Decoded:
        if self.step_marks is None:
            return self._step(batch, held, compute)
        device, stream = self._memory.device, self._memory.current
        start = device.mark(stream=stream)
        decoded = self._step(batch, held, compute)
        self.step_marks.append((start, device.mark(stream=stream)))
        return decoded

    def _step(self, batch: Batch, held: Sequence[Any], compute: Callable[[], Decoded]) -> Decoded:
        if not self._is_replayed:
            return compute()
        key = (batch.shape, *(tensor.address for tensor in held))
        return self._replays.run(key, lambda: self._with_scalars_read(compute()))

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

    def unreplayed(self) -> CudaSteps:
        watched = copy.copy(self)
        watched._is_replayed = False
        return watched

    def fetch(self, decoded: Decoded) -> list[Fetched]:
        if not isinstance(decoded.ious, np.ndarray):
            decoded = self._with_scalars_read(decoded)
        stream = self._memory.current
        arrived = stream.record()
        masks = self._readback.masks(decoded.low_res_masks, stream=stream)
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
        return DeviceFeatures(self._memory, self._encode_buffers, model, read_slice, max_bytes)

    def timed(self, run: Callable[[], object]) -> float:
        device, stream = self._memory.device, self._memory.current
        start = device.mark(stream=stream)
        run()
        return float(device.elapsed_ms(start, device.mark(stream=stream)))

    def synchronize(self) -> None:
        self._memory.streams.synchronize()

    def _with_scalars_read(self, decoded: Decoded) -> Decoded:
        """Enqueue a copy of scalars and pointers to pinned memory as well."""
        read = []
        for tensor in (decoded.ious, decoded.object_score_logits, decoded.obj_ptr):
            pinned = self._memory.pinned(tensor.shape)
            self._memory.copy(tensor, pinned)
            read.append(pinned)
        return Decoded(decoded.low_res_masks, *read)
