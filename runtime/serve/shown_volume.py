"""What the page shows of a volume: its voxels as NIfTI, and in which window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, SeriesError
from runtime.io.dicom.sources import Sources, read_sources
from runtime.io.volumes.mask_formats import nifti_header, planes
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window, extremes
from runtime.process.packages import how_to_install

# Browsers' viewers take these as they are; what they do not take loses nothing that a screen shows as float32.
_SHOWN_AS = {"int8": "int16", "uint8": "uint8", "int16": "int16", "uint16": "uint16"}
_HEADER_GROWTH = 8  # of a header's elements, as objects, over what they are in its file
NOT_DICOM = "DICOM-SEG refers to the DICOM images it was made of, and this file is none."


@dataclass(frozen=True, slots=True)
class ShownVolume:
    """A volume, and what has been worked out about it once.

    Attributes:
        volume: as it was read.
        name: for the user.
        id: of its voxels and its grid, 16 hexadecimal digits.
        window_kind, window: in which the network sees it, and the page shows it at first.
        range: lowest and highest value.
        sources: the headers of the DICOM images it was read from, or why no DICOM segmentation can be written of it.
    """

    volume: Volume
    name: str
    id: str
    window_kind: str
    window: tuple[float, float]
    range: tuple[float, float]
    sources: Sources | str

    @property
    def sources_bytes(self) -> int:
        """About how much memory the headers take."""
        return 0 if isinstance(self.sources, str) else _HEADER_GROWTH * self.sources.num_bytes

    @classmethod
    def of(cls, volume: Volume, name: str) -> ShownVolume:
        """Look at a volume, and at the files it was read from while they are there.

        Raises InputError for a name or window that does not fit.
        """
        _, used = apply_window(volume, "auto")
        low, high = extremes(volume.array, np.isfinite)
        lower = low if used.lower is None else float(used.lower)
        upper = high if used.upper is None else float(used.upper)
        if used.kind == "none":
            lower, upper = 0.0, 255.0
        window, range_ = (lower, upper), (low, high)
        return cls(volume, name, _digest(volume), used.kind, window, range_, _sources(volume))

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
            "no_segmentation": self.sources if isinstance(self.sources, str) else None,
        }

    def nifti(self) -> tuple[int, Iterator[bytes]]:
        """The number of bytes and the bytes of an uncompressed NIfTI file, in pieces."""
        array = self.volume.array
        dtype = np.dtype(_SHOWN_AS.get(array.dtype.name, "float32"))
        header = nifti_header(self.volume, dtype)
        size = len(header) + array.size * dtype.itemsize
        return size, chain([header], planes(self._numbers(), dtype))

    def _numbers(self) -> Iterator[NDArray[Any]]:
        """Slices; NaN counts as the lowest value, here as in the window, and what float32 has not as its last one."""
        ends = np.finfo(np.float32)
        lowest = max(self.range[0], float(ends.min))
        for plane in self.volume.array:
            if plane.dtype.kind != "f":
                yield plane
                continue
            seen = np.clip(np.nan_to_num(plane, nan=lowest), ends.min, ends.max)
            yield seen.astype(np.float32, copy=False)


def _sources(volume: Volume) -> Sources | str:
    """What a segmentation would refer to, or why there cannot be one, in words without a folder of this machine."""
    if not volume.frames:
        return NOT_DICOM
    if find_spec("highdicom") is None:
        return f"DICOM-SEG needs highdicom on the server: {how_to_install('highdicom')}"
    try:
        return read_sources(volume)
    except (InputError, SeriesError, OSError) as error:
        reason = f"DICOM-SEG is not possible: {error}"
    for folder in {frame.path.parent for frame in volume.frames}:
        reason = reason.replace(f"{folder}/", "").replace(str(folder), "the series")
    return reason


def _digest(volume: Volume) -> str:
    digest = blake2b(digest_size=8)
    grid = volume.shape, volume.spacing_mm, volume.origin_mm, volume.direction, volume.array.dtype
    digest.update(repr(grid).encode())
    for plane in volume.array:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()
