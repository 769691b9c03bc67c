"""What stored values stand for: Modality LUT and rescaling (PS3.3 C.11.1), exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError
from runtime.io.dicom.elements import items, refusing
from runtime.io.dicom.format import PixelFormat
from runtime.io.dicom.frames import read_rescaling
from runtime.io.dicom.header import LUT_DATA, LUT_DESCRIPTOR, MODALITY_LUT, Header

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Integers up to here are exact as float64.
_EXACT = 1 << 53
_INTEGERS = [np.dtype(f"{kind}{size}") for size in (1, 2, 4, 8) for kind in "ui"]


@dataclass(frozen=True, slots=True)
class ModalityTransform:
    """What stored values of a frame stand for: a table, or slope and intercept (PS3.3 C.11.1).

    Attributes:
        bounds: the least and the greatest value that can come out.
        is_said: whether the header says it; otherwise values stand for themselves.
    """

    slope: float
    intercept: float
    bounds: tuple[float, float]
    first: int = 0
    table: NDArray[Any] | None = None
    is_said: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether values stand for themselves."""
        return self.table is None and (self.slope, self.intercept) == (1, 0)

    @property
    def is_whole(self) -> bool:
        """Whether only integers come out, and float64 holds them exactly."""
        return (
            self.slope.is_integer()
            and self.intercept.is_integer()
            and max(map(abs, self.bounds)) < _EXACT
        )

    def apply(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Values in `dtype`, exactly, if that is what `common_type` says of this transform."""
        if self.table is not None:
            places = np.clip(stored.astype(np.int64) - self.first, 0, len(self.table) - 1)
            return self.table[places].astype(dtype, copy=False)
        if self.is_plain:
            return stored.astype(dtype, copy=False)
        if dtype.kind == "f":
            return stored.astype(np.float64) * self.slope + self.intercept
        return (stored.astype(np.int64) * int(self.slope) + int(self.intercept)).astype(dtype)


def read_modality_transforms(header: Header, layout: PixelFormat) -> list[ModalityTransform]:
    """What the values of each frame mean. Raises SeriesError for a table or numbers that make no sense."""
    with refusing(SeriesError, f"{header.path}: its table of values is damaged"):
        tables = items(header.dataset, MODALITY_LUT)
        if tables:
            return [
                read_table(tables[0], (LUT_DESCRIPTOR, LUT_DATA), header, layout.is_signed)
            ] * layout.frames
    transforms = []
    for said in read_rescaling(header, layout.frames):
        slope, intercept = said or (1.0, 0.0)
        ends = sorted(slope * bound + intercept for bound in layout.bounds)
        if not np.isfinite(ends).all():
            raise SeriesError(
                f"{header.path}: found a rescale slope of {slope}, which is beyond all numbers"
            )
        transforms.append(
            ModalityTransform(slope, intercept, (ends[0], ends[1]), is_said=said is not None)
        )
    return transforms


def read_table(
    dataset: Dataset, tags: tuple[int, int], header: Header, is_signed: bool
) -> ModalityTransform:
    """A table of values: a descriptor (length, first value, bits) and its data, by their tags (PS3.3 C.11.1.1).

    Raises SeriesError where those two do not agree; whatever comes of an element that is none, passes.
    """
    order = "<" if header.syntax.is_little else ">"
    descriptor, element = (dataset.get_item(tag) for tag in tags)
    length, first, bits = (int(value) for value in np.frombuffer(descriptor.value, f"{order}u2"))
    data: bytes = element.value
    length = length or 1 << 16
    signed_first = first - (1 << 16) if first >= 1 << 15 and is_signed else first
    size = 1 if len(data) == length + length % 2 and bits <= 8 else 2
    if not 0 < bits <= 16 or not 0 <= len(data) - length * size < 2:
        raise SeriesError(
            f"{header.path}: its table of values has not the {length} entries it says"
        )
    if size == 1 and order == ">" and getattr(element, "VR", "") == "OW":
        # Bytes are swapped in pairs: words of big endian (PS3.5 section 7.3).
        data = np.frombuffer(data, np.uint16).byteswap().tobytes()
    table = np.frombuffer(data[: length * size], f"{order}u{size}").astype(f"u{size}")
    return ModalityTransform(1.0, 0.0, (0.0, float((1 << 8 * size) - 1)), signed_first, table)


def common_type(parts: Sequence[tuple[PixelFormat, ModalityTransform]]) -> np.dtype[Any]:
    """The one type that holds all values exactly: their own, the smallest integer, or float64."""
    types = {layout.dtype for layout, _ in parts}
    if all(transform.is_plain for _, transform in parts) and len(types) == 1:
        return types.pop()
    if not all(transform.is_whole for _, transform in parts):
        return np.dtype(np.float64)
    low = min(transform.bounds[0] for _, transform in parts)
    high = max(transform.bounds[1] for _, transform in parts)
    return next(t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
