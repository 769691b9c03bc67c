"""Where the tensors between graphs live and what is done to them there; this one is the host's own memory.

`runtime.cuda.place` is the other one. Everything above works with either and never asks which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import round_to_bfloat16
from kernels.device_array import is_device_array
from kernels.slot_similarity import slot_similarity
from runtime.backends.base import Buffer
from runtime.batch import Batch
from runtime.errors import InputError
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

    def slots(self, shape: tuple[int, ...], name: str) -> Buffer:
        """An uninitialised float32 tensor that is kept for a whole volume. Raises MemoryError."""

    def put(self, array: Buffer) -> Buffer:
        """A tensor here with an array's contents; one that is here already is passed through."""

    def take(self, pixels: Any, is_kept: bool = False) -> Any:
        """A caller's slices, wherever they are, as they can be encoded here without a copy.

        `is_kept`: the caller may write something else there afterwards. Raises InputError for what cannot be read here.
        """

    def get(self, tensor: Buffer) -> NDArray[Any]:
        """A tensor's contents on the host, once everything enqueued before is done."""

    def not_finite(self, tensors: Mapping[str, Buffer]) -> str | None:
        """Name of a tensor that holds NaN or infinity, or None, also where only a wait could tell."""

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

    def timed(self, run: Callable[[], object]) -> float:
        """Milliseconds that something takes here, start to end; waits for it."""

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""


class HostPlace:
    """Numpy arrays; everything is done when a call returns."""

    spare_share = 0.0

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        return np.empty(shape, dtype)

    def slots(self, shape: tuple[int, ...], name: str) -> Buffer:
        return np.empty(shape, np.float32)

    def put(self, array: Buffer) -> Buffer:
        return np.asarray(array)

    def take(self, pixels: Any, is_kept: bool = False) -> Any:
        if is_device_array(pixels):
            raise InputError(
                "found an array in CUDA memory, and a back end that computes on the host; choose one on the device, "
                "such as trt-bf16 or ort-cuda, or copy the array to the host"
            )
        return pixels.copy() if is_kept else pixels

    def get(self, tensor: Buffer) -> NDArray[Any]:
        return np.asarray(tensor)

    def not_finite(self, tensors: Mapping[str, Buffer]) -> str | None:
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                return name
        return None

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

    def timed(self, run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - started)

    def synchronize(self) -> None:
        """Nothing to wait for."""


HOST = HostPlace()
