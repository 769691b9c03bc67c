"""Memory that tensors between graphs lie in, and the operations on them that are not a graph's.

This one is the host's own; `runtime.devices.cuda.memory` is a CUDA device's. Everything above works with either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.bfloat16 import round_to_bfloat16
from kernels.device_array import Buffer, is_device_array
from kernels.slot_similarity import slot_similarity
from runtime.errors import InputError


class DeviceMemory(Protocol):
    """Tensors in some device's memory: allocated, copied, gathered, stored and compared there."""

    spare_share: float
    """How much larger than asked for slots grow, where a new address costs something."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Allocate an uninitialised tensor. Raises MemoryError."""

    def slots(self, shape: tuple[int, ...], name: str) -> Buffer:
        """Allocate an uninitialised float32 tensor that is kept for a whole volume. Raises MemoryError."""

    def put(self, array: Buffer) -> Buffer:
        """Make a tensor here with an array's contents; one that is here already is passed through."""

    def take(self, pixels: Any, is_kept: bool = False) -> Any:
        """Take a caller's slices, wherever they are, in a form that can be encoded here without a copy.

        `is_kept`: the caller may write something else there afterwards. Raises InputError for what cannot be read here.
        """

    def get(self, tensor: Buffer) -> NDArray[Any]:
        """Read a tensor's contents on the host, once everything enqueued before is done."""

    def not_finite(self, tensors: Mapping[str, Buffer]) -> str | None:
        """Name a tensor that holds NaN or infinity; None if none does, or where only a wait could tell."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy between tensors here of one shape and type."""

    def gather(self, values: Buffer, index: Buffer) -> Buffer:
        """Gather `values` (slots, ...) at `index` (b,) or (b, k)."""

    def store(self, values: Buffer, index: Buffer, rows: Buffer, is_rounded: bool) -> None:
        """Write `rows` (b, ...) to `values` (slots, ...) at `index` (b,), perhaps rounded to bfloat16."""

    def similarity(self, values: Buffer, slots: list[int], probe: Buffer) -> NDArray[np.float32]:
        """Compute cosines of a probe with some of `values` (slots, ...), on the host."""


def on_host(pixels: Any, is_kept: bool = False) -> NDArray[Any]:
    """What numpy makes an array of: its own, lists, tensors and images of other libraries on the host.

    `is_kept` copies it: the caller may write something else there afterwards. Raises InputError for anything else.
    """
    if np.ma.is_masked(pixels):  # whose mask numpy drops without a word
        raise InputError(
            "found pixels that are masked; wanted all: fill them, such as pixels.filled(0)"
        )
    try:
        return np.array(pixels) if is_kept else np.asarray(pixels)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(pixels).__name__
        raise InputError(f"a {kind} is no array: {error}; wanted a numpy array") from error


class HostMemory:
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
        return on_host(pixels, is_kept)

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
        gathered: Buffer = values[index]
        return gathered

    def store(self, values: Buffer, index: Buffer, rows: Buffer, is_rounded: bool) -> None:
        for slot, row in zip(index, rows, strict=True):
            if is_rounded:
                round_to_bfloat16(np.asarray(row, np.float32), values[slot])
            else:
                values[slot] = row.reshape(values.shape[1:])

    def similarity(self, values: Buffer, slots: list[int], probe: Buffer) -> NDArray[np.float32]:
        return slot_similarity(values, slots, probe)


HOST_MEMORY = HostMemory()
