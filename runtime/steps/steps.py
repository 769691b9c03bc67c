"""How a step is carried out: what it is padded to, how its numbers travel, whether it is replayed, how results return.

This is the host's way; `runtime.steps.cuda.steps` is a CUDA device's. Nothing above knows which it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from kernels.device_array import Buffer
from runtime.bundle.tensors import Decoded, Fetched, LowResMask
from runtime.memory.batch import Batch
from runtime.memory.records import MemoryRead
from runtime.steps.features import Cache, Encoder, FeatureCache, ReadSlice


class Steps(Protocol):
    """Steps over tensors that lie in some device's memory."""

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        """Memories and pointers that a step is padded to at the least."""

    def send(self, batch: Batch) -> Batch:
        """Bring a step's numbers, made on the host, to the device."""

    def replayed(
        self, batch: Batch, held: Sequence[Buffer], compute: Callable[[], Decoded]
    ) -> Decoded:
        """Give what `compute` gives, which depends on nothing but a batch that was sent and the tensors `held`."""

    def unreplayed(self) -> Steps:
        """The same steps, but computed one graph after another, so that they can be watched."""

    def fetch(self, decoded: Decoded) -> list[Fetched]:
        """Fetch a decoded batch row by row: scalars at once, logits when they are asked for."""

    def features(
        self, model: Encoder, read_slice: ReadSlice, max_bytes: int | None = None
    ) -> Cache:
        """Make a cache of encodings."""

    def timed(self, run: Callable[[], object]) -> float:
        """Milliseconds that something takes on the device, start to end; waits for it."""

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""


class HostSteps:
    """Steps on the host: everything is done when a call returns."""

    def lengths(self, reads: Sequence[MemoryRead]) -> tuple[int, int]:
        return 0, 0

    def send(self, batch: Batch) -> Batch:
        return batch

    def replayed(
        self, batch: Batch, held: Sequence[Buffer], compute: Callable[[], Decoded]
    ) -> Decoded:
        return compute()

    def unreplayed(self) -> Steps:
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
        """Do nothing: there is nothing to wait for."""


HOST_STEPS = HostSteps()
