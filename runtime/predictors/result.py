"""What predictors hand out: masks of single slices while they come, and a whole run's masks at its end.

Masks are kept at the network's own low resolution; they are brought to the slices' size when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from kernels.smooth import smooth
from runtime.bundle.defaults import MAX_SMOOTH
from runtime.errors import InputError
from runtime.prompts.prompts import is_whole, shown
from runtime.track import Segmented

if TYPE_CHECKING:
    from runtime.predictors.framing import Framing
    from runtime.predictors.region import Region

Labels = NDArray[np.uint8 | np.uint16]


def check_smooth(sigma: object) -> float:
    """A sigma as a number; None is 0, which smooths nothing. Raises InputError for any other than 0 to 8."""
    if sigma is None:
        return 0.0
    is_number = isinstance(sigma, int | float | np.number) and not isinstance(sigma, bool)
    if not (is_number and 0 <= sigma <= MAX_SMOOTH):  # type: ignore[operator]
        raise InputError(
            f"smooth is {shown(sigma)}; wanted a number from 0 to {MAX_SMOOTH:g}, the sigma of a Gaussian in pixels "
            "of the network's answer, or None"
        )
    return float(sigma)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class SliceMask:
    """One object on one slice.

    Attributes:
        slice: index along z.
        object_id: which object.
        segmented: the network's answer at low resolution, with scores and the slices that were in memory.
        shape: (y, x) of the slice in pixels.
        crop: the part of the slice that the network was shown and its answer is of; None is all of it.
        framing: how the slice lay in the network's square, where the network sees single images.
        smooth: sigma of the Gaussian that makes its contours even, in pixels of the network's answer; 0 is none.
    """

    slice: int
    object_id: int
    segmented: Segmented
    shape: tuple[int, int]
    crop: Region | None = None
    framing: Framing | None = None
    smooth: float = 0.0

    @property
    def confidence(self) -> float:
        """The network's estimate of this mask's overlap with the truth, 0 where the object is absent."""
        return self.segmented.confidence

    @property
    def memory_frames(self) -> tuple[int, ...]:
        """The slices that were in memory when this one was segmented; empty where it was prompted."""
        return self.segmented.memory_frames

    @property
    def memory_weights(self) -> tuple[float, ...]:
        """How much each of `memory_frames` weighed; 1 is SAM 2's equal merge."""
        return self.segmented.memory_weights

    @property
    def low_res(self) -> NDArray[np.float32]:
        """Logits at the network's resolution, smoothed; to be read only, since predictors go on with them."""
        logits = smooth(self.segmented.logits, self.smooth).view()
        logits.flags.writeable = False
        return logits

    def logits(self) -> NDArray[np.float32]:
        """Logits (y, x) at the slice's size, the caller's own; above zero is inside, what was not shown is outside."""
        low_res = self.low_res
        if self.framing is not None:
            logits = self.framing.logits(low_res)
        elif self.crop is None:
            logits = resize(low_res, self.shape)
        else:
            logits = self.crop.put_back(low_res, self.shape)
        return logits if logits.flags.writeable else logits.copy()

    def with_logits(self, logits: NDArray[np.float32]) -> SliceMask:
        """The same with other logits (y, x), of the slice's size."""
        segmented = replace(self.segmented, low_res=logits)
        return replace(self, segmented=segmented, crop=None, framing=None, smooth=0.0)

    def mask(self) -> NDArray[np.bool_]:
        """Mask (y, x) at the slice's size."""
        return self.logits() > 0


@dataclass(frozen=True, slots=True)
class Result:
    """All objects on all slices of a volume, or images of a set, that were segmented.

    It can be copied and pickled, to be handed to another process, and then holds no model and no device.

    Attributes:
        shapes: (y, x) of each slice.
        slices: object id to slice index to mask; slices that were not segmented are missing.
        is_complete: False if the run was cancelled.
        is_ordered: False for images of a set, which have no neighbours.

    Raises InputError for a mask of a slice that is not there.
    """

    shapes: tuple[tuple[int, int], ...]
    slices: Mapping[int, Mapping[int, SliceMask]]
    is_complete: bool = True
    is_ordered: bool = True

    def __post_init__(self) -> None:
        for masks in self.slices.values():
            for index in masks:
                self._check_slice(index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of all. Raises InputError if slices differ in size: ask for one image at a time then."""
        if len(sizes := set(self.shapes)) != 1:
            raise InputError(
                f"images of {len(sizes)} sizes are no volume; ask labels_of(i) for one at a time"
            )
        return len(self.shapes), *self.shapes[0]

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, lowest first."""
        return tuple(sorted(self.slices))

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Confidence of every slice (z,): the lowest among the objects, NaN where nothing was segmented."""
        rows = [self.confidence_of(object_id) for object_id in self.slices]
        return np.fmin.reduce(rows) if rows else np.full(len(self.shapes), np.nan, np.float32)

    def confidence_of(self, object_id: int) -> NDArray[np.float32]:
        """Confidence of one object on every slice (z,), NaN where it was not segmented."""
        values = np.full(len(self.shapes), np.nan, np.float32)
        for index, slice_mask in self._of(object_id).items():
            values[index] = slice_mask.confidence
        return values

    def review(
        self, count: int | None = None, object_id: int | None = None
    ) -> list[tuple[int, int, float]]:
        """(slice, object id, confidence) of the masks most worth a look, the least confident first.

        Prompted slices are left out: somebody has looked at them. In a volume, slices on which the object was not
        found come only next to one on which it was, where its end may be wrong. Where the network's scores are no
        numbers, nobody can tell: those come first. Raises InputError for a `count` below zero or an unknown object.
        """
        if count is not None and not (is_whole(count) and count >= 0):
            raise InputError(f"count is {shown(count)}; wanted a whole number from 0, or None")
        doubtful = []
        for chosen in self.object_ids if object_id is None else (object_id,):
            masks = self._of(chosen)
            for index, slice_mask in masks.items():
                near = [masks.get(i) for i in (index - 1, index + 1)]
                is_end = any(other is not None and other.confidence > 0 for other in near)
                is_finite = slice_mask.segmented.is_finite
                is_found = slice_mask.confidence > 0 or not is_finite
                if slice_mask.memory_frames and (is_found or is_end or not self.is_ordered):
                    doubtful.append((is_finite, slice_mask.confidence, index, chosen))
        return [(index, chosen, worth) for _, worth, index, chosen in sorted(doubtful)[:count]]

    def mask(self, object_id: int | None = None) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one object, or of all together; objects may overlap here."""
        mask = np.zeros(self.shape, bool)
        for chosen in self.object_ids if object_id is None else (object_id,):
            for index, slice_mask in self._of(chosen).items():
                mask[index] |= slice_mask.mask()
        return mask

    def labels(self) -> Labels:
        """Object ids (z, y, x), 0 outside: uint8, or uint16 if an id is above 255.

        Where objects overlap the larger logit wins, and the lower id among equals.
        """
        labels = np.zeros(self.shape, self._label_type)
        for index in range(len(labels)):
            labels[index] = self.labels_of(index)
        return labels

    def labels_of(self, index: int) -> Labels:
        """Object ids (y, x) of one slice or image, as `labels` gives them. Raises InputError where there is none."""
        self._check_slice(index)
        labels = np.zeros(self.shapes[index], self._label_type)
        best = np.zeros(self.shapes[index], np.float32)
        for object_id in self.object_ids:
            if slice_mask := self.slices[object_id].get(index):
                logits = slice_mask.logits()
                wins = logits > best
                labels[wins] = object_id
                best[wins] = logits[wins]
        return labels

    @property
    def _label_type(self) -> np.dtype[np.uint8 | np.uint16]:
        return np.min_scalar_type(max(self.slices, default=0))

    def _check_slice(self, index: int) -> None:
        if not is_whole(index) or not 0 <= index < len(self.shapes):
            raise InputError(
                f"there is no slice {shown(index)}: slices are 0 to {len(self.shapes) - 1}"
            )

    def _of(self, object_id: int) -> Mapping[int, SliceMask]:
        if not is_whole(object_id) or object_id not in self.slices:
            raise InputError(f"no object {shown(object_id)}; there are: {list(self.object_ids)}")
        return self.slices[object_id]
