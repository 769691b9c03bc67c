"""Each slice is encoded once, whatever the number of objects, directions or prompts."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.preprocess import preprocess
from runtime.contract import PIXEL_MEAN, PIXEL_STD
from runtime.errors import OutOfMemory
from runtime.model import Features, Model

log = logging.getLogger("runtime")
Slices = Callable[[int], NDArray[np.uint8]]
MEMORY_SHARE = 1 / 3  # of the machine's memory


class FeatureCache:
    """Encodings of slices, made when first asked for and kept.

    A volume whose encodings would fill memory keeps the latest ones used and encodes the others again, and says so.

    Args:
        model: does the encoding.
        read_slice: number to uint8 pixels (y, x) or (y, x, 3).
        max_bytes: what may be held; None is a third of the machine's memory.
    """

    def __init__(self, model: Model, read_slice: Slices, max_bytes: int | None = None) -> None:
        self._model = model
        self._read_slice = read_slice
        self._max_bytes = _memory_bytes() * MEMORY_SHARE if max_bytes is None else max_bytes
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
            pixels = self._read_slice(index)[None]
            return self._model.encode(preprocess(pixels, size, PIXEL_MEAN, PIXEL_STD))
        except MemoryError as error:
            raise OutOfMemory(
                f"a slice at {size} pixels does not fit into memory beside the {len(self._features)} held; "
                "use a bundle of a smaller image size"
            ) from error


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not every system tells
        return float("inf")
