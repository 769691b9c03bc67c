"""Each slice is encoded once, whatever the number of objects, directions or prompts."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from kernels.image_profiles import IMAGE_PROFILES
from kernels.preprocess import preprocess
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD, ModelNumbers
from runtime.bundle.tensors import Features
from runtime.devices.engine import Engine
from runtime.devices.memory import DeviceMemory
from runtime.errors import InputError, OutOfMemory

log = logging.getLogger("runtime")
ReadSlice = Callable[[int], NDArray[np.uint8]]
MEMORY_SHARE = 1 / 3  # of the machine's memory


class Encoder(Protocol):
    """What encodes: a `Model`."""

    numbers: ModelNumbers

    @property
    def device_memory(self) -> DeviceMemory:
        """Where tensors between graphs live."""

    def features(self, read_slice: ReadSlice, max_bytes: int | None = None) -> Cache:
        """Make a cache of encodings of numbered slices."""

    def encode(self, image: Buffer) -> Features:
        """Encode one normalised slice (1, 3, S, S)."""

    def engine(self, graph: str) -> Engine:
        """One graph, ready to run into given buffers."""


class Cache(Protocol):
    """Encodings by slice number, wherever they are kept."""

    @property
    def tensors(self) -> list[Buffer]:
        """What a step reads from, if that stays where it is."""

    def __getitem__(self, index: int) -> Features:
        """Features of one slice, to be used before another is asked for."""

    def __contains__(self, index: int) -> bool:
        """Whether a slice's encoding is there already."""

    def expect(self, order: Sequence[int]) -> None:
        """Say which slices will be asked for, and in which order, so that they can be encoded ahead."""

    def locate(self, indices: Sequence[int]) -> list[int]:
        """Where the encodings of these slices lie, all at once; they are made first."""

    def gather(self, places: Buffer) -> Features:
        """Encodings that were located, as one batch."""

    def clear(self) -> None:
        """Forget all."""


class FeatureCache:
    """Encodings of slices, made when first asked for and kept.

    A volume whose encodings would fill memory keeps the latest ones used and encodes the others again, and says so.

    Args:
        model: does the encoding.
        read_slice: number to uint8 pixels (y, x) or (y, x, 3).
        max_bytes: what may be held; None is a third of the machine's memory.
    """

    def __init__(self, model: Encoder, read_slice: ReadSlice, max_bytes: int | None = None) -> None:
        self._model = model
        self._read_slice = read_slice
        self._max_bytes = memory_bytes() * MEMORY_SHARE if max_bytes is None else max_bytes
        self._features: OrderedDict[int, Features] = OrderedDict()
        self._has_said = False

    def __getitem__(self, index: int) -> Features:
        """Features of one slice. Raises OutOfMemory if not even one fits."""
        if index not in self._features:
            self._features[index] = self._encode(index)
            size_bytes = self._features[index].size_bytes
            while len(self._features) > 1 and len(self._features) * size_bytes > self._max_bytes:
                self._features.popitem(last=False)
                self._say_full(size_bytes)
        self._features.move_to_end(index)
        return self._features[index]

    def __len__(self) -> int:
        return len(self._features)

    def __contains__(self, index: int) -> bool:
        return index in self._features

    @property
    def tensors(self) -> list[Buffer]:
        """None: encodings lie wherever there was room."""
        return []

    def expect(self, order: Sequence[int]) -> None:
        """Do nothing: encoding ahead gains nothing where the processor has nothing else to do meanwhile."""

    def locate(self, indices: Sequence[int]) -> list[int]:
        """Slices are known by their own numbers."""
        return list(indices)

    def gather(self, places: Buffer) -> Features:
        """Encodings of slices as one batch; a single one is passed through."""
        features = [self[int(index)] for index in places]
        if len(features) == 1:
            return features[0]
        return Features(
            {
                name: np.concatenate([f.tensors[name] for f in features])
                for name in features[0].tensors
            }
        )

    def clear(self) -> None:
        """Forget all."""
        self._features.clear()

    def _say_full(self, size_bytes: int) -> None:
        if not self._has_said:
            log.warning(
                "%d encoded slices of %.1f MiB each fill the memory allowed, %.0f MiB; others are encoded again when "
                "they are needed (--max-memory allows more)",
                len(self._features),
                size_bytes / 2**20,
                self._max_bytes / 2**20,
            )
        self._has_said = True

    def _encode(self, index: int) -> Features:
        size = self._model.numbers.image_size
        try:
            return self._model.encode(prepared(self._model.numbers, self._read_slice(index)))
        except MemoryError as error:
            raise OutOfMemory(
                f"a slice at {size} pixels does not fit into memory beside the {len(self._features)} held; "
                "use a bundle of a smaller image size"
            ) from error


def check_bound(max_bytes: object) -> None:
    """Raise InputError for a bound that is no number of bytes; None is a third of the machine's memory."""
    if max_bytes is None:
        return
    if (
        not isinstance(max_bytes, int | float | np.integer | np.floating)
        or isinstance(max_bytes, bool)
        or not max_bytes >= 0  # NaN is not
    ):
        raise InputError(
            f"found {max_bytes!r} to hold encoded slices in; wanted a number of bytes, such as 4 * 2**30, or None"
        )


def prepared(numbers: ModelNumbers, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A slice, uint8 (y, x) or (y, x, 3), as a model's encoder takes it: (1, 3, S, S)."""
    if profile := IMAGE_PROFILES.get(numbers.profile):
        return profile.image(pixels, numbers.image_size)
    return preprocess(pixels[None], numbers.image_size, PIXEL_MEAN, PIXEL_STD)


def memory_bytes() -> float:
    """Memory of the machine in bytes; infinite where it does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not every system tells
        return float("inf")
