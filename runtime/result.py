"""What predictors hand out: masks of single slices while they come, and a whole run's masks at its end.

Masks are kept at the network's own low resolution; they are brought to the slices' size when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.errors import InputError
from runtime.track import Segmented

MAX_OBJECT_ID = 65535  # object ids become labels of at most sixteen bits


@dataclass(frozen=True, slots=True)
class SliceMask:
    """One object on one slice.

    Attributes:
        slice: index along z.
        object_id: which object.
        segmented: the network's answer at low resolution, with scores and the slices that were in memory.
        shape: (y, x) of the slice in pixels.
    """

    slice: int
    object_id: int
    segmented: Segmented
    shape: tuple[int, int]

    @property
    def confidence(self) -> float:
        """The network's estimate of this mask's overlap with the truth, 0 where the object is absent."""
        return self.segmented.confidence

    def logits(self) -> NDArray[np.float32]:
        """Logits (y, x) at the slice's size; above zero is inside."""
        return resize(self.segmented.logits, self.shape)

    def mask(self) -> NDArray[np.bool_]:
        """Mask (y, x) at the slice's size."""
        return self.logits() > 0


@dataclass(frozen=True, slots=True)
class Result:
    """All objects on all slices that were segmented.

    Attributes:
        shape: (z, y, x) of the volume.
        slices: object id to slice index to mask; slices that were not segmented are missing.
        is_complete: False if the run was cancelled.
    """

    shape: tuple[int, int, int]
    slices: Mapping[int, Mapping[int, SliceMask]]
    is_complete: bool = True

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, lowest first."""
        return tuple(sorted(self.slices))

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Confidence of every slice (z,): the lowest among the objects, NaN where nothing was segmented."""
        rows = [self.confidence_of(object_id) for object_id in self.slices]
        return np.fmin.reduce(rows) if rows else np.full(self.shape[0], np.nan, np.float32)

    def confidence_of(self, object_id: int) -> NDArray[np.float32]:
        """Confidence of one object on every slice (z,), NaN where it was not segmented."""
        values = np.full(self.shape[0], np.nan, np.float32)
        for index, slice_mask in self._of(object_id).items():
            values[index] = slice_mask.confidence
        return values

    def mask(self, object_id: int | None = None) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one object, or of all together; objects may overlap here."""
        mask = np.zeros(self.shape, bool)
        for chosen in self.object_ids if object_id is None else (object_id,):
            for index, slice_mask in self._of(chosen).items():
                mask[index] |= slice_mask.mask()
        return mask

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Object ids (z, y, x), 0 outside: uint8, or uint16 if an id is above 255.

        Where objects overlap the larger logit wins, and the lower id among equals.
        """
        wide = max(self.slices, default=0) > np.iinfo(np.uint8).max
        labels = np.zeros(self.shape, np.uint16 if wide else np.uint8)
        for index in range(self.shape[0]):
            best = np.zeros(self.shape[1:], np.float32)
            for object_id in self.object_ids:
                if slice_mask := self.slices[object_id].get(index):
                    logits = slice_mask.logits()
                    wins = logits > best
                    labels[index][wins] = object_id
                    best[wins] = logits[wins]
        return labels

    def _of(self, object_id: int) -> Mapping[int, SliceMask]:
        if object_id not in self.slices:
            raise InputError(f"no object {object_id}; there are: {list(self.object_ids)}")
        return self.slices[object_id]
