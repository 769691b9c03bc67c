"""Encodings of slices and of crops of them in one cache, which knows numbers and nothing of crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.tensors import Features
from runtime.model import Model
from runtime.predictors.region import Region
from runtime.steps.encodings import Encodings
from runtime.steps.features import Cache, ReadSlice


class Numbering:
    """Numbers by which a cache knows slices and crops of them; a whole slice keeps its own.

    Args:
        read_slice: number of a slice to uint8 pixels (y, x) or (y, x, 3), in numpy wherever there are crops.
    """

    def __init__(self, read_slice: ReadSlice) -> None:
        self._read_slice = read_slice
        self._numbers: dict[tuple[int, Region], int] = {}
        self._crops: list[tuple[int, Region]] = []
        self._read: set[int] = set()
        self._num_before = 0

    def of(self, index: int, crop: Region | None = None) -> int:
        """The number of a crop of a slice; below zero, unless it is the whole slice."""
        if crop is None:
            return index
        if (index, crop) not in self._numbers:
            self._crops.append((index, crop))
            self._numbers[index, crop] = -len(self._crops)
        return self._numbers[index, crop]

    def read(self, number: int) -> NDArray[np.uint8]:
        """The pixels of a number."""
        self._read.add(number)
        if number >= 0:
            return self._read_slice(number)
        index, crop = self._crops[-number - 1]
        return crop.of(self._read_slice(index))

    @property
    def num_read(self) -> int:
        """How many slices and crops somebody wanted to see, each of them counted once."""
        return self._num_before + len(self._read)

    def clear(self) -> None:
        """Forget all, which no cache may know any more."""
        self._num_before += len(self._read)
        self._read.clear()
        self._numbers.clear()
        self._crops.clear()


class Encoded:
    """What a predictor reads encodings from.

    Args:
        source: a model, or the encodings that its predictors share.
        read_slice: as for `Numbering`.
        max_bytes: of encodings to hold; None is a third of the machine's memory.

    Attributes:
        numbering: of slices and crops.
        cache: of their encodings, by number.
    """

    def __init__(
        self, source: Model | Encodings, read_slice: ReadSlice, max_bytes: int | None = None
    ) -> None:
        self.numbering = Numbering(read_slice)
        self.cache: Cache = source.features(self.numbering.read, max_bytes)

    def __call__(self, index: int, crop: Region | None = None) -> Features:
        """Features of a slice, or of a crop of it, to be used before others are asked for."""
        return self.cache[self.numbering.of(index, crop)]

    def expect(self, order: Sequence[int]) -> None:
        """Say which whole slices `expected` will be asked for, and in which order."""
        self.cache.expect([self.numbering.of(index) for index in order])

    def expected(self, index: int) -> Features:
        """Features of a slice, encoded together with those expected next where that is faster."""
        number = self.numbering.of(index)
        self.cache.locate([number])
        return self.cache[number]

    def clear(self) -> None:
        """Forget all."""
        self.cache.clear()
        self.numbering.clear()
