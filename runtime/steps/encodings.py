"""Encodings known by what was encoded, shared by every predictor of one model, and bounded in bytes.

A slice is known by its own pixels, as the network is given them: after its window, in its plane, cut to its crop. So
the same image uploaded twice, another predictor for it, and another object cost nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from threading import RLock
from weakref import WeakKeyDictionary, WeakSet, ref

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from runtime.bundle.contract import feature_bytes
from runtime.bundle.tensors import Features
from runtime.devices.machine import memory_bytes
from runtime.steps.features import (
    MEMORY_SHARE,
    Cache,
    Encoder,
    ReadSlice,
    check_bound,
)


class Encodings:
    """Encodings by content.

    Hand it to predictors of the same model; each one sees only its own slices. Several threads may use it on the host.
    On a CUDA device, as everything there, one thread at a time.

    Args:
        model: does the encoding.
        max_bytes: what may be held in all; None is a third of the machine's memory, on a device what `Model.features`
            takes.

    Raises InputError for a bound that is none.
    """

    def __init__(self, model: Encoder, max_bytes: int | None = None) -> None:
        check_bound(max_bytes)
        self.model = model
        bound = memory_bytes() * MEMORY_SHARE if max_bytes is None else max_bytes
        self.capacity = max(1, int(min(bound // feature_bytes(model.numbers), 2**40)))
        """How many slices may be held at a time."""
        self.lock = RLock()
        self._cache = model.features(self._read, max_bytes)
        self._numbers: dict[bytes, int] = {}
        # Held weakly: whoever drops a view, and the pixels behind it, need not say so.
        self._sources: dict[int, WeakKeyDictionary[EncodingView, int]] = {}
        self._latest = 0
        self._expecting: ref[EncodingView] | None = None
        self._users: WeakSet[object] = WeakSet()

    @property
    def share(self) -> int:
        """How many slices each of those who encode ahead of need may encode, so that none pushes out another's."""
        return max(1, self.capacity // max(1, len(self._users)))

    def join(self, user: object) -> None:
        """Count with somebody who encodes ahead of need, until they `leave` or are gone."""
        with self.lock:
            self._users.add(user)

    def leave(self, user: object) -> None:
        """Count with them no more."""
        with self.lock:
            self._users.discard(user)

    def features(self, read_slice: ReadSlice, max_bytes: int | None = None) -> EncodingView:
        """Encodings of some slices, by the numbers that their owner gives them.

        Args:
            read_slice: number to uint8 pixels (y, x) or (y, x, 3), which stay as they are.
            max_bytes: is not asked: all share one bound.
        """
        with self.lock:
            self._drop_spare()
        return EncodingView(self, read_slice)

    def number(self, view: EncodingView, index: int, pixels: NDArray[np.uint8]) -> int:
        """The number of a slice's pixels here, which are from now on read from this view too."""
        key = content(self.model.device_memory.get(pixels))
        with self.lock:
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = self._latest = self._latest + 1
            self._sources.setdefault(number, WeakKeyDictionary())[view] = index
        return number

    def forget(self, view: EncodingView, numbers: Sequence[int]) -> None:
        """Read nothing from a view any more. Encodings stay, for whoever comes with the same pixels."""
        with self.lock:
            self._cache.expect([])  # they may be this view's
            for number in numbers:
                if number in self._sources:
                    self._sources[number].pop(view, None)
            self._drop_spare()

    def expect(self, view: EncodingView, numbers: Sequence[int]) -> None:
        """Say what a view will ask for; under the lock."""
        self._expecting = ref(view)
        self._cache.expect(numbers)

    def _drop_spare(self) -> None:
        """Forget sources that nobody holds any more, and numbers that have neither these nor an encoding."""
        for number in [number for number, sources in self._sources.items() if not sources]:
            del self._sources[number]
        for key, number in list(self._numbers.items()):
            if number not in self._sources and number not in self._cache:
                del self._numbers[key]

    @property
    def cache(self) -> Cache:
        """Encodings by number; under the lock."""
        if self._expecting is not None and self._expecting() is None:
            self._expecting = None
            self._cache.expect([])  # nobody can read what a view that is gone has announced
        return self._cache

    def _read(self, number: int) -> NDArray[np.uint8]:
        view, index = next(iter(self._sources[number].items()))
        return view.read_slice(index)


class EncodingView:
    """One owner's slices among the encodings of all (`runtime.steps.features.Cache`), by its own numbers."""

    def __init__(self, encodings: Encodings, read_slice: ReadSlice) -> None:
        self._encodings, self.read_slice = encodings, read_slice
        self._numbers: dict[int, int] = {}

    @property
    def tensors(self) -> list[Buffer]:
        """What a step reads from, if that stays where it is."""
        return self._encodings.cache.tensors

    def __getitem__(self, index: int) -> Features:
        with self._encodings.lock:
            return self._encodings.cache[self._number(index)]

    def __contains__(self, index: int) -> bool:
        with self._encodings.lock:
            return self._number(index) in self._encodings.cache

    def expect(self, order: Sequence[int]) -> None:
        """Say which slices will be asked for, in this order."""
        with self._encodings.lock:
            self._encodings.expect(self, [self._number(index) for index in order])

    def locate(self, indices: Sequence[int]) -> list[int]:
        """Where the encodings of these slices lie, all at once; they are made first."""
        with self._encodings.lock:
            return self._encodings.cache.locate([self._number(index) for index in indices])

    def gather(self, places: Buffer) -> Features:
        """Encodings that were located, as one batch."""
        with self._encodings.lock:
            return self._encodings.cache.gather(places)

    def clear(self) -> None:
        """Forget these slices, but not their encodings."""
        self._encodings.forget(self, [*self._numbers.values()])
        self._numbers = {}

    def _number(self, index: int) -> int:
        number = self._numbers.get(index)
        if number is None:
            pixels = self.read_slice(index)
            number = self._numbers[index] = self._encodings.number(self, index, pixels)
        return number


def content(pixels: NDArray[np.uint8]) -> bytes:
    """What some pixels are known by: 32 bytes of their hash, shape and all. Nobody can make two that are alike."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=32)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
