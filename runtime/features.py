"""Each slice is encoded once, whatever the number of objects, directions or prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kernels.preprocess import preprocess
from runtime.contract import PIXEL_MEAN, PIXEL_STD
from runtime.errors import OutOfMemory
from runtime.model import Features, Model

Slices = Callable[[int], NDArray[np.uint8]]


class FeatureCache:
    """Encodings of slices, made when first asked for and kept.

    Args:
        model: does the encoding.
        read_slice: number to uint8 pixels (y, x) or (y, x, 3).
    """

    def __init__(self, model: Model, read_slice: Slices) -> None:
        self._model = model
        self._read_slice = read_slice
        self._features: dict[int, Features] = {}

    def __getitem__(self, index: int) -> Features:
        """Features of one slice. Raises OutOfMemory if no more fit."""
        if index not in self._features:
            size = self._model.numbers.image_size
            try:
                image = preprocess(self._read_slice(index)[None], size, PIXEL_MEAN, PIXEL_STD)
                self._features[index] = self._model.encode(image)
            except MemoryError as error:
                held = sum(f.size_bytes for f in self._features.values()) / 2**20
                raise OutOfMemory(
                    f"features of {len(self._features)} slices fill {held:.0f} MiB and the next does not fit; "
                    "limit the z-range or use a bundle of a smaller image size"
                ) from error
        return self._features[index]

    def __len__(self) -> int:
        return len(self._features)
