"""Masks of several objects as numbered segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, SeriesError
from runtime.io.volumes.volume import Volume

MOST_SEGMENTS = 65535  # a segment's number is an unsigned short
_LEAST_PIXELS = 8


@runtime_checkable
class HasMasks(Protocol):
    """A result that knows its objects."""

    @property
    def object_ids(self) -> Sequence[int]:
        """The objects, lowest first."""
        ...

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one object."""
        ...

    def labels(self) -> NDArray[Any]:
        """Object ids (z, y, x), uint8 or uint16, 0 outside."""
        ...


@dataclass(frozen=True, slots=True)
class Segments:
    """Objects, numbered from 1 by increasing id.

    Attributes:
        object_ids: of segments 1, 2, 3...
        array: numbers (z, y, x), 0 outside, or masks (z, y, x, segment) where objects may overlap and do.
    """

    object_ids: tuple[int, ...]
    array: NDArray[Any]

    @property
    def numbers(self) -> range:
        """Of the segments."""
        return range(1, len(self.object_ids) + 1)

    def plane(self, number: int, index: int) -> NDArray[np.bool_]:
        """Mask (y, x) of one segment on one slice."""
        if self.array.ndim == 4:
            mask: NDArray[np.bool_] = self.array[index, ..., number - 1]
            return mask
        same: NDArray[np.bool_] = self.array[index] == number
        return same


def as_segments(
    masks: HasMasks | NDArray[Any],
    overlaps: bool,
    shape: tuple[int, int, int] | None = None,
    source: str = "the volume",
) -> Segments:
    """Number the objects of a result, or of labels (z, y, x).

    Args:
        masks: a result or labels.
        overlaps: whether objects of a result may overlap; otherwise it says itself whose each voxel is.
        shape: (z, y, x) that is wanted; None takes any.
        source: whose shape it is, for messages.

    Raises InputError for labels of another shape or dtype, without an object, or with too many.
    """
    if isinstance(masks, np.ndarray):
        check_labels(masks, shape, source)
        return _of_labels(masks, [*map(int, np.unique(masks[masks > 0]))])
    object_ids = tuple(masks.object_ids)
    if not overlaps:
        labels = masks.labels()
        check_labels(labels, shape, source)
        return _of_labels(labels, object_ids)
    return _of_masks(masks, object_ids, shape, source)


def _of_labels(labels: NDArray[Any], object_ids: Sequence[int]) -> Segments:
    dtype = _number_type(object_ids)
    number_of = np.zeros(1 + max(int(labels.max()), *object_ids), dtype)
    number_of[list(object_ids)] = range(1, len(object_ids) + 1)
    return Segments(tuple(object_ids), number_of[labels])


def _of_masks(
    masks: HasMasks,
    object_ids: tuple[int, ...],
    shape: tuple[int, int, int] | None,
    source: str,
) -> Segments:
    dtype = _number_type(object_ids)
    array: NDArray[Any] = np.zeros(0, dtype)
    is_overlapping = False
    for number, object_id in enumerate(object_ids, 1):
        mask = masks.mask(object_id)
        if number == 1:
            _check_shape(mask, shape, source)
            array = np.zeros(mask.shape, dtype)
        is_overlapping = is_overlapping or bool(array[mask].any())
        array[mask] = number
    if is_overlapping:
        stack = np.empty((len(object_ids), *array.shape), bool)
        for index, object_id in enumerate(object_ids):
            stack[index] = masks.mask(object_id)
        array = np.moveaxis(stack, 0, -1)  # a view, of which each mask is in one piece
    return Segments(object_ids, array)


def _number_type(object_ids: Sequence[int]) -> np.dtype[Any]:
    if not 0 < len(object_ids) <= MOST_SEGMENTS:
        raise InputError(
            f"found {len(object_ids)} objects; wanted 1 to {MOST_SEGMENTS}, each a segment of its own"
        )
    return np.min_scalar_type(len(object_ids))


def check_labels(labels: NDArray[Any], shape: tuple[int, int, int] | None, source: str) -> None:
    """Raise InputError unless labels are uint8 or uint16 and of a shape (z, y, x), that of `source`."""
    if labels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"found labels of dtype {labels.dtype}; wanted uint8 or uint16; convert them with "
            "labels.astype(np.uint8), or np.uint16 where any is above 255"
        )
    _check_shape(labels, shape, source)


def _check_shape(array: NDArray[Any], shape: tuple[int, int, int] | None, source: str) -> None:
    if shape is not None and array.shape != shape:
        raise InputError(
            f"found labels of shape {array.shape}; wanted {shape} (z, y, x), the shape of {source}"
        )


def check_frames(like: Volume, is_binary: bool) -> None:
    """Raise SeriesError where frames of a bit a pixel would be less than a byte, of which highdicom 0.28 loses some."""
    _, rows, columns = like.shape
    if is_binary and rows * columns < _LEAST_PIXELS:
        raise SeriesError(
            f"{like.source}: found images of {rows} x {columns} pixels; wanted at least {_LEAST_PIXELS} pixels in a "
            "binary segmentation; write a labelmap (--seg-type labelmap), or the mask as .nii.gz, .nrrd or .mha"
        )
