"""Masks on their way to the host: copied while the device goes on, waited for when somebody looks."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.tensors import LowResMask
from runtime.errors import NotFinite

MOST_PENDING = 64  # masks left in pinned memory; older ones move to the host's ordinary memory


class Readback:
    """Pinned memory that masks arrive in, used again once everybody has taken what was there."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._free: dict[tuple[int, ...], list[NDArray[Any]]] = {}
        self._pending: deque[weakref.ref[LowResMask]] = deque()

    @property
    def num_free(self) -> int:
        """Blocks that wait to be used again."""
        return sum(len(blocks) for blocks in self._free.values())

    def masks(self, logits: Any, *, stream: Any) -> list[LowResMask]:
        """Enqueue the copy of logits (b, 1, s, s); each row's mask waits for it when it is asked for.

        `stream` is always the same: blocks are used again in its order.
        """
        arrival = _Arrival(self, self._block(logits.shape), logits, stream)
        masks = []
        for row in range(len(logits)):
            mask = LowResMask(_Row(arrival, row))
            masks.append(mask)
            self._pending.append(weakref.ref(mask))
        while len(self._pending) > MOST_PENDING:
            if (oldest := self._pending.popleft()()) is not None:
                _ = oldest.unfilled
        return masks

    def _block(self, shape: tuple[int, ...]) -> NDArray[Any]:
        free = self._free.setdefault(shape, [])
        block: NDArray[Any] = free.pop() if free else self._device.pinned(shape, "float32")
        return block

    def give_back(self, block: NDArray[Any]) -> None:
        """Make a block free again."""
        self._free.setdefault(block.shape, []).append(block)


class _Arrival:
    """One copy under way. Its block is free once no row of it is waited for any more."""

    def __init__(self, owner: Readback, block: NDArray[Any], logits: Any, stream: Any) -> None:
        self._owner, self._block = owner, block
        owner._device.copy(logits, block, stream=stream)
        self._event = stream.record()

    def row(self, index: int) -> NDArray[np.float32]:
        self._owner._device.use()  # in whatever thread somebody looks
        self._event.sync()
        logits: NDArray[np.float32] = self._block[index, 0].copy()
        if not np.isfinite(logits).all():
            raise NotFinite("mask_decoder", "low_res_masks")
        return logits

    def __del__(self) -> None:
        # What is still being written there is written before whatever the same stream copies there next.
        self._owner.give_back(self._block)


class _Row:
    """Reads one row, and keeps the arrival until then."""

    def __init__(self, arrival: _Arrival, index: int) -> None:
        self._arrival, self._index = arrival, index

    def __call__(self) -> NDArray[np.float32]:
        return self._arrival.row(self._index)
