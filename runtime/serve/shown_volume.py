"""What the page shows of a volume: its voxels as NIfTI, and in which window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.mask_formats import nifti_forms
from runtime.io.volumes.nifti import DTYPES, FIRST_OFFSET, HEADER_BYTES, MAGIC, layout
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window

# Browsers' viewers take these as they are; what they do not take loses nothing that a screen shows as float32.
_SHOWN_AS = {"int8": "int16", "uint8": "uint8", "int16": "int16", "uint16": "uint16"}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_NIFTI1_LONGEST = 32767


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
        low, high = _extremes(volume.array)
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
        version = nifti_forms(self.volume).version if max(array.shape) <= _NIFTI1_LONGEST else 2
        header = _header(self.volume, dtype, version)
        size = FIRST_OFFSET[version - 1] + array.size * dtype.itemsize
        return size, _pieces(header, array, dtype, self.range[0])


def _header(volume: Volume, dtype: np.dtype[Any], version: int) -> bytes:
    forms = nifti_forms(volume)
    header = np.zeros((), layout(version))
    header["sizeof_hdr"], header["magic"] = HEADER_BYTES[version - 1], MAGIC[version - 1]
    header["dim"] = [3, *volume.shape[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = _CODES[dtype.str[1:]], 8 * dtype.itemsize
    header["vox_offset"], header["scl_slope"] = FIRST_OFFSET[version - 1], 1
    header["xyzt_units"] = forms.unit
    header["qform_code"], header["sform_code"] = forms.qform_code, forms.sform_code
    header["pixdim"] = [*forms.pixdim, 1, 1, 1, 1]
    header["quatern"], header["qoffset"] = forms.quatern, forms.qoffset
    header["srow"] = forms.srow
    return header.tobytes() + bytes(FIRST_OFFSET[version - 1] - HEADER_BYTES[version - 1])


def _pieces(
    header: bytes, array: NDArray[Any], dtype: np.dtype[Any], lowest: float
) -> Iterator[bytes]:
    yield header
    for plane in array:
        if array.dtype.kind == "f":  # NaN counts as the lowest value, here as in the window
            plane = np.nan_to_num(plane.astype(np.float32), nan=lowest)
        yield plane.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _extremes(array: NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest finite value; (0, 0) where there is none."""
    lows, highs = [], []
    for plane in array:
        numbers = plane[np.isfinite(plane)] if array.dtype.kind == "f" else plane
        if numbers.size:
            lows.append(float(numbers.min()))
            highs.append(float(numbers.max()))
    return min(lows, default=0.0), max(highs, default=0.0)


def _digest(volume: Volume) -> str:
    digest = blake2b(digest_size=8)
    grid = volume.shape, volume.spacing_mm, volume.origin_mm, volume.direction, volume.array.dtype
    digest.update(repr(grid).encode())
    for plane in volume.array:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()
