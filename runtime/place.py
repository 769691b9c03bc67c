"""Where the tensors between graphs live and what is done to them there; this one is the host's own memory.

`runtime.cuda.place` is the other one. Everything above works with either and never asks which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import round_to_bfloat16
from kernels.slot_similarity import slot_similarity
from runtime.backends.base import Buffer
from runtime.batch import Batch
from runtime.features import Cache, Encoder, FeatureCache, ReadSlice
from runtime.tensors import Decoded, Fetched, LowResMask

if TYPE_CHECKING:
    from runtime.memory.records import MemoryRead


class Place(Protocol):
    """Memory, and the few operations that are not a graph's."""

    spare_share: float
    """How much larger than asked for slots grow, where a new address costs something."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """An uninitialised tensor here. Raises MemoryError."""

    def put(self, array: Buffer) -> Buffer:
        """A tensor here with an array's contents; one that is here already is passed through."""

    def get(self, tensor: Buffer) -> NDArray[Any]:
        """A tensor's contents on the host, once everything enqueued before is done."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy between tensors here of one shape and type."""

    def gather(self, values: Buffer, index: Buffer) -> Buffer:
        """`values` (slots, ...) at `index` (b,) or (b, k)."""

    def store(self, values: Buffer, index: Buffer, rows: Buffer, is_rounded: bool) -> None:
        """Write `rows` (b, ...) to `values` (slots, ...) at `index` (b,), perhaps rounded to bfloat16."""

    def similarity(self, values: Buffer, slots: list[int], probe: Buffer) -> NDArray[np.float32]:
        """Cosines of a probe with some of `values` (slots, ...), on the host."""

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        """Memories and pointers a step is padded to at the least."""

    def send(self, batch: Batch) -> Batch:
        """A step's numbers, made on the host, here."""

    def replayed(
        self, batch: Batch, held: Sequence[Buffer], compute: Callable[[], Decoded]
    ) -> Decoded:
        """What `compute` gives, which depends on nothing but a batch that was sent and the tensors `held`."""

    def unreplayed(self) -> Place:
        """This place, but with everything computed step by step, so that it can be watched."""

    def fetch(self, decoded: Decoded) -> list[Fetched]:
        """A decoded batch row by row: scalars at once, logits when they are asked for."""

    def features(
        self, model: Encoder, read_slice: ReadSlice, max_bytes: int | None = None
    ) -> Cache:
        """A cache of encodings here."""

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""


class HostPlace:
    """Numpy arrays; everything is done when a call returns."""

    spare_share = 0.0

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return np.empty(shape, dtype)

    def put(self, array: Buffer) -> Buffer:
        return np.asarray(array)

    def get(self, tensor: Buffer) -> NDArray[Any]:
        return np.asarray(tensor)

    def copy(self, source: Buffer, target: Buffer) -> None:
        target[...] = source

    def gather(self, values: Buffer, index: Buffer) -> Buffer:
        found: Buffer = values[index]
        return found

    def store(self, values: Buffer, index: Buffer, rows: Buffer, is_rounded: bool) -> None:
        for slot, row in zip(index, rows, strict=True):
            if is_rounded:
                round_to_bfloat16(np.asarray(row, np.float32), values[slot])
            else:
                values[slot] = row.reshape(values.shape[1:])

    def similarity(self, values: Buffer, slots: list[int], probe: Buffer) -> NDArray[np.float32]:
        return slot_similarity(values, slots, probe)

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        return 0, 0

    def send(self, batch: Batch) -> Batch:
        return batch

    def replayed(
        self, batch: Batch, held: Sequence[Buffer], compute: Callable[[], Decoded]
    ) -> Decoded:
        return compute()

    def unreplayed(self) -> Place:
        return self

    def fetch(self, decoded: Decoded) -> list[Fetched]:
        logits = decoded.low_res_masks[:, 0]
        return [
            Fetched(
                LowResMask(partial(np.asarray, logits[i])),
                float(decoded.ious[i]),
                float(decoded.object_score_logits[i]),
                decoded.obj_ptr[i],
            )
            for i in range(len(logits))
        ]

    def features(
        self, model: Encoder, read_slice: ReadSlice, max_bytes: int | None = None
    ) -> Cache:
        return FeatureCache(model, read_slice, max_bytes)

    def synchronize(self) -> None:
        """Nothing to wait for."""


HOST = HostPlace()
