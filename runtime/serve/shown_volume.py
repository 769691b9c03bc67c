"""What the page shows of a volume: its voxels as NIfTI, and in which window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.mask_formats import nifti_header, planes
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window, extremes

# Browsers' viewers take these as they are; what they do not take loses nothing that a screen shows as float32.
_SHOWN_AS = {"int8": "int16", "uint8": "uint8", "int16": "int16", "uint16": "uint16"}


@dataclass(frozen=True, slots=True)
class ShownVolume:
    """A volume, and what has been worked out about it once.

    Attributes:
        volume: as it was read.
        name: for the user.
        id: of its voxels and its grid, 16 hexadecimal digits.
        window_kind, window: in which the network sees it, and the page shows it at first.
        range: lowest and highest value.
    """

    volume: Volume
    name: str
    id: str
    window_kind: str
    window: tuple[float, float]
    range: tuple[float, float]

    @classmethod
    def of(cls, volume: Volume, name: str) -> ShownVolume:
        """Look at a volume. Raises InputError for a name or window that does not fit."""
        _, used = apply_window(volume, "auto")
        low, high = extremes(volume.array, np.isfinite)
        lower = low if used.lower is None else float(used.lower)
        upper = high if used.upper is None else float(used.upper)
        if used.kind == "none":
            lower, upper = 0.0, 255.0
        return cls(volume, name, _digest(volume), used.kind, (lower, upper), (low, high))

    def describe(self) -> dict[str, Any]:
        """What the page is told."""
        volume = self.volume
        return {
            "id": self.id,
            "name": self.name,
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "modality": volume.modality,
            "window": list(self.window),
            "window_kind": self.window_kind,
            "lowest": self.range[0],
            "highest": self.range[1],
        }

    def nifti(self) -> tuple[int, Iterator[bytes]]:
        """The number of bytes and the bytes of an uncompressed NIfTI file, in pieces."""
        array = self.volume.array
        dtype = np.dtype(_SHOWN_AS.get(array.dtype.name, "float32"))
        header = nifti_header(self.volume, dtype)
        size = len(header) + array.size * dtype.itemsize
        return size, chain([header], planes(self._numbers(), dtype))

    def _numbers(self) -> Iterator[NDArray[Any]]:
        """Slices; NaN counts as the lowest value, here as in the window."""
        for plane in self.volume.array:
            is_float = plane.dtype.kind == "f"
            yield np.nan_to_num(plane.astype(np.float32), nan=self.range[0]) if is_float else plane


def _digest(volume: Volume) -> str:
    digest = blake2b(digest_size=8)
    grid = volume.shape, volume.spacing_mm, volume.origin_mm, volume.direction, volume.array.dtype
    digest.update(repr(grid).encode())
    for plane in volume.array:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()
