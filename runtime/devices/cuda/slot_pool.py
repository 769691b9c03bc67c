"""Slots that one volume leaves behind for the next: at the same addresses, so that captured steps serve again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

from kernels.device_array import DeviceArray

FLOAT_BYTES = 4


class SlotLease:
    """Keeps a block out of the pool for as long as anybody has a view of it."""


class SlotPool:
    """Blocks of device memory by name and size. What nobody holds waits for the next one to ask.

    Args:
        device: where.
        synchronize: waits for everything enqueued, on whatever stream.
    """

    def __init__(self, device: Any, synchronize: Callable[[], object]) -> None:
        self._device, self._synchronize = device, synchronize
        self._free: dict[tuple[str, int], list[DeviceArray]] = {}

    def slots(self, shape: tuple[int, ...], name: str, *, stream: Any) -> DeviceArray:
        """Take a float32 tensor, from a waiting block of its size if there is one. Raises MemoryError."""
        key = name, FLOAT_BYTES * math.prod(shape)
        waiting = self._free.setdefault(key, [])
        block: DeviceArray = (
            waiting.pop()
            if waiting
            else self.allocate(lambda: self._device.empty((key[1],), "uint8", stream=stream))
        )
        lease = SlotLease()
        weakref.finalize(lease, waiting.append, block)
        return DeviceArray(block.address, shape, "float32", lease, device=block.device)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of blocks that nobody holds."""
        return sum(size * len(blocks) for (_, size), blocks in self._free.items())

    def allocate(self, make: Callable[[], DeviceArray]) -> DeviceArray:
        """Give what `make` allocates; waiting blocks are freed where there is no room otherwise."""
        try:
            return make()
        except MemoryError:
            if not self.waiting_bytes:
                raise
        self._synchronize()  # a block is freed on one stream, and may still be written to on another
        for blocks in self._free.values():
            blocks.clear()
        self._synchronize()
        return make()
