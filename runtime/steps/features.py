"""Each slice is encoded once, whatever the number of objects, directions or prompts."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from kernels.image_profiles import IMAGE_PROFILES
from kernels.preprocess import preprocess
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD, ModelNumbers, feature_bytes
from runtime.bundle.tensors import Features
from runtime.devices.engine import Engine
from runtime.devices.machine import memory_bytes
from runtime.devices.memory import DeviceMemory
from runtime.errors import InputError, NotFinite, OutOfMemory

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

    @property
    def slices_at_once(self) -> int:
        """How many slices had better be encoded at once."""

    def encode(self, image: Buffer) -> Features:
        """Encode normalised slices (n, 3, S, S)."""

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
        self._expected: dict[int, int] = {}
        self._has_said = False

    def __getitem__(self, index: int) -> Features:
        """Features of one slice. Raises OutOfMemory if not even one fits."""
        if index not in self._features:
            self._keep(index, self._encode(index))
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
        """Say which slices will be asked for, and in which order, so that several can be encoded at once."""
        self._expected = {index: place for place, index in enumerate(dict.fromkeys(order))}

    def locate(self, indices: Sequence[int]) -> list[int]:
        """Slices are known by their own numbers; several that are wanted, or are next, are encoded at once.

        Where that does not fit into memory, or a slice that is only next cannot be read, each waits for its turn.
        """
        if wanted := [index for index in dict.fromkeys(indices) if index not in self]:
            at_once = self._model.slices_at_once
            most = len(indices) + at_once - 1
            if at_once > 1 and most * feature_bytes(self._model.numbers) <= self._max_bytes:
                for index in set(indices) & self._features.keys():
                    self._features.move_to_end(index)
                for start in range(0, len(wanted), at_once):
                    self._encode_together(wanted[start : start + at_once], at_once)
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
        self._expected = {}

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

    def _keep(self, index: int, features: Features) -> None:
        """Hold one slice's encoding, and no more of the others than there is room for."""
        self._features[index] = features
        size_bytes = features.size_bytes
        while len(self._features) > 1 and len(self._features) * size_bytes > self._max_bytes:
            self._features.popitem(last=False)
            self._say_full(size_bytes)

    def _encode_together(self, wanted: Sequence[int], at_once: int) -> None:
        """Encode these slices, and as many of those expected after them as make up a batch."""
        images = {index: self._image(index) for index in wanted}
        last = max(self._expected.get(index, len(self._expected)) for index in wanted)
        ahead = islice(self._expected, last + 1, None)  # not before: those have had their turn
        new = (index for index in ahead if index not in self._features and index not in images)
        for index in islice(new, at_once - len(wanted)):
            try:
                images[index] = self._image(index)
            except Exception:  # it is said when that slice's turn has come
                break
        try:
            features = self._model.encode(np.concatenate([*images.values()]))
        except (MemoryError, OutOfMemory, NotFinite):  # perhaps of one of them alone, at its turn
            return
        for row, index in enumerate(images):
            tensors = {name: x[row : row + 1].copy() for name, x in features.tensors.items()}
            self._keep(index, Features(tensors))

    def _image(self, index: int) -> NDArray[np.float32]:
        return prepared(self._model.numbers, self._read_slice(index))

    def _encode(self, index: int) -> Features:
        size = self._model.numbers.image_size
        try:
            return self._model.encode(self._image(index))
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
