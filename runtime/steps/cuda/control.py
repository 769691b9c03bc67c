"""A step's numbers on the device: one block of memory for each shape of step, filled by one copy."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from kernels.device_array import DeviceArray
from runtime.memory.batch import Batch

ALIGNMENT = 256  # bytes; what TensorRT asks of every input


class ControlBlock:
    """Room for batches of one shape, at a fixed address.

    Args:
        device: where.
        batch: of that shape.
        stream: on which batches are sent.
    """

    def __init__(self, device: Any, batch: Batch, stream: Any) -> None:
        self._device = device
        self._parts: dict[str, tuple[int, Any]] = {}
        size = 0
        for part in fields(Batch):
            array = getattr(batch, part.name)
            self._parts[part.name] = (size, array)
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        self._staging = device.pinned((size,), "uint8")
        self._block = device.empty((size,), "uint8", stream=stream)
        self._sent: Any = None
        self.batch = Batch(**{name: self._view(name) for name in self._parts})
        """The batch on the device: the same tensors whatever was sent."""

    def send(self, batch: Batch, *, stream: Any) -> None:
        """Enqueue a batch's way to the device; waits until the one before has left."""
        if self._sent is not None:
            self._sent.sync()
        for name, (start, like) in self._parts.items():
            array = np.ascontiguousarray(getattr(batch, name))
            assert array.shape == like.shape and array.dtype == like.dtype
            self._staging[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._device.copy(self._staging, self._block, stream=stream)
        self._sent = stream.record()

    def _view(self, name: str) -> Any:
        start, like = self._parts[name]
        block = self._block
        return DeviceArray(
            block.address + start, like.shape, like.dtype, block, device=block.device
        )
