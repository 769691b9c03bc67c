"""Volumes and networks without memory: a box is followed from slice to slice.

As LiteMedSAM's script for volumes does it (bowang-lab/MedSAM, branch LiteMedSAM b0fab47, CVPR24_LiteMedSAM_infer.py):
from a prompted slice outwards, each slice is given the box about the mask of the slice before, a little grown, or the
first box where that mask is empty. Upstream finds that box in the label's number, shrunk as a grey value, so that
objects of higher numbers get larger boxes; here every object is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels.area_resize import area_resize
from runtime.errors import InputError, PromptError
from runtime.io.volumes.volume import Volume
from runtime.io.window import Window
from runtime.model import Model, check_model
from runtime.predictors.chosen import AUTO, Auto
from runtime.predictors.eight_bits import eight_bits
from runtime.predictors.encoded import Encoded
from runtime.predictors.framing import Corners, Framing
from runtime.predictors.prompted import check_prompts
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.single import SinglePrompted, prompt_single, segment_corners
from runtime.predictors.stop import StopRule
from runtime.predictors.volume_plan import check_z_range
from runtime.prompts.prompts import Prompt, check_object_id
from runtime.steps.features import check_bound
from runtime.track import Segmented

TRACKED_SIDE = 256  # of the square in which boxes about masks are found, in pixels
GROWN_BY = 3  # pixels of that square, on each side

ObjectSlices = dict[int, SinglePrompted]


class SlicewisePredictor:
    """Segments objects in a volume with a network of kind `image`, slice by slice.

    Such a network does not tell where an object ends, so that the slices to look at have to be given. What counts as a
    mask's memory is the slice whose mask gave the box.

    Example:
        predictor = SlicewisePredictor(load("litemedsam"))
        predictor.set_volume(read_volume("ct.nii.gz"))
        predictor.add(Box(slice=57, y=(200, 260), x=(180, 250)))
        result = predictor.propagate(z_range=(50, 64))

    Args:
        model: what `load` gives, of kind `image`.
        max_feature_bytes: of encoded slices to hold; None is a third of the machine's memory.

    Raises InputError for a model with memory, which `VolumePredictor` is for.
    """

    def __init__(self, model: Model, max_feature_bytes: int | None = None) -> None:
        check_model(model)
        check_bound(max_feature_bytes)
        if model.numbers.kind != "image":
            raise InputError(f"{model.numbers.name} has a memory; use VolumePredictor")
        self._model, self._max_feature_bytes = model, max_feature_bytes
        self._encoded: Encoded | None = None
        self._objects: dict[int, ObjectSlices] = {}
        self._found: dict[int, dict[int, Segmented]] = {}
        self.pixels: NDArray[np.uint8] = np.zeros((0, 0, 0), np.uint8)
        """The volume after its window, (z, y, x)."""

    def set_volume(
        self, volume: Volume | NDArray[np.generic], window: str | Window = "auto"
    ) -> Window:
        """Take a volume, as `VolumePredictor.set_volume` does; objects of the one before are forgotten."""
        pixels, used = eight_bits(self._model.device_memory, volume, window, is_on_host=True)
        self.pixels, self._objects, self._found = pixels, {}, {}
        self._encoded = Encoded(self._model, lambda index: pixels[index], self._max_feature_bytes)
        return used

    @property
    def num_encodings(self) -> int:
        """How many slices have been encoded since the volume was set."""
        return 0 if self._encoded is None else self._encoded.numbering.num_read

    def add(self, *prompts: Prompt, object_id: int = 1) -> SliceMask:
        """Prompt one object on one slice and see the result at once. Raises PromptError."""
        encoded = self._need_volume()
        check_object_id(object_id)
        check_prompts(prompts, self._shape)
        index = int(prompts[0].slice)
        own = self._objects.get(object_id, {})
        prompted = prompt_single(
            self._model, encoded(index), self._framing, prompts, own.get(index)
        )
        self._objects[object_id] = {**own, index: prompted}
        self._found[object_id] = {i: p.segmented for i, p in self._objects[object_id].items()}
        return self._mask(index, object_id, prompted.segmented)

    def current(self) -> Result:
        """What is known by now: prompted slices, and what runs have found since an object was prompted last."""
        slices = {
            object_id: {i: self._mask(i, object_id, segmented) for i, segmented in found.items()}
            for object_id, found in self._found.items()
        }
        return Result((self._shape[1:],) * self._shape[0], slices, is_complete=False)

    def num_results(self, z_range: tuple[int, int] | None = None) -> int:
        """How many slice masks `stream` will give."""
        return sum(len(self._plan(own, z_range)) for own in self._objects.values())

    def stream(
        self, z_range: tuple[int, int] | None = None, stop: StopRule | Auto | None = AUTO
    ) -> Iterator[SliceMask]:
        """Masks as they are made, object by object, outwards from its prompted slices.

        Args:
            z_range: half-open range of slices that the objects lie in.
            stop: "auto" or None, which are one here: a network that tells no presence has nothing to stop by.

        Raises PromptError without prompts or with one outside `z_range`, InputError without a range.
        """
        if isinstance(stop, StopRule):
            raise InputError(
                f"{self._model.numbers.name} does not tell where an object ends; leave --stop-below out"
            )
        encoded = self._need_volume()
        if not self._objects:
            raise PromptError("no prompt yet; call add first")
        plans = {i: self._plan(own, z_range) for i, own in sorted(self._objects.items())}
        return (mask for i, plan in plans.items() for mask in self._follow(encoded, i, plan))

    def propagate(self, z_range: tuple[int, int] | None = None) -> Result:
        """Follow every object through the range; errors as for `stream`."""
        slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id in self._objects}
        for mask in self.stream(z_range):
            slices[mask.object_id][mask.slice] = mask
        return Result((self._shape[1:],) * self._shape[0], slices)

    def _follow(
        self, encoded: Encoded, object_id: int, plan: Sequence[tuple[int, int | None]]
    ) -> Iterator[SliceMask]:
        framing, own = self._framing, self._objects[object_id]
        found = self._found[object_id] = {}
        first: dict[int, Corners | None] = {}
        encoded.expect([index for index, before in plan if before is not None])
        for index, before in plan:
            if before is None:
                found[index] = own[index].segmented
                box = own[index].box
                first[index] = (
                    self._about(framing, found[index]) if box is None else framing.corners(box)
                )
            else:
                first[index] = first[before]
                corners = self._about(framing, found[before]) or first[before]
                answer = found[before]
                if corners is not None:
                    answer = segment_corners(self._model, encoded.expected(index), framing, corners)
                found[index] = replace(answer, memory_frames=(before,), memory_weights=(1.0,))
            yield self._mask(index, object_id, found[index])

    def _about(self, framing: Framing, segmented: Segmented) -> Corners | None:
        """The box about a mask, grown; None where it is empty."""
        fitted = framing.profile.fitted(framing.shape, TRACKED_SIDE)
        inside = area_resize((framing.logits(segmented.logits) > 0).astype(np.uint8), fitted)
        return grown_box(inside, framing.size / TRACKED_SIDE)

    def _plan(
        self, own: ObjectSlices, z_range: tuple[int, int] | None
    ) -> list[tuple[int, int | None]]:
        """Slices in their order, each with the one whose mask it goes by; None where it is prompted."""
        if z_range is None:
            raise InputError(
                f"{self._model.numbers.name} has no memory and does not tell where an object ends; say between which "
                "slices it lies, such as --z-range 50,64"
            )
        check_z_range(z_range, self._shape[0])
        start, stop = z_range
        prompted = sorted(own)
        for index in prompted:
            if not start <= index < stop:
                raise PromptError(
                    f"slice {index} is prompted and lies outside {start} to {stop - 1}"
                )
        plan: list[tuple[int, int | None]] = [(index, None) for index in prompted]
        for at, index in enumerate(prompted):
            above = prompted[at + 1] if at + 1 < len(prompted) else None
            below = prompted[at - 1] if at else None
            last = stop if above is None else (index + above) // 2 + 1
            lowest = start if below is None else (below + index) // 2 + 1
            plan += [(i, i - 1) for i in range(index + 1, last)]
            plan += [(i, i + 1) for i in range(index - 1, lowest - 1, -1)]
        return plan

    def _mask(self, index: int, object_id: int, segmented: Segmented) -> SliceMask:
        return SliceMask(index, object_id, segmented, self._shape[1:], framing=self._framing)

    @property
    def _shape(self) -> tuple[int, int, int]:
        depth, height, width = self.pixels.shape
        return depth, height, width

    @property
    def _framing(self) -> Framing:
        return Framing.of(self._model.numbers, self._shape[1:])

    def _need_volume(self) -> Encoded:
        if self._encoded is None:
            raise PromptError("no volume yet; call set_volume first")
        return self._encoded


def grown_box(inside: NDArray[np.uint8], scale: float) -> Corners | None:
    """The box about what is set in a map (y, x) of `TRACKED_SIDE`, grown, in a square `scale` times as large."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    x0, y0 = (max(0, int(at[0]) - GROWN_BY) for at in (columns, rows))
    x1, y1 = (min(TRACKED_SIDE, int(at[-1]) + GROWN_BY) for at in (columns, rows))
    return x0 * scale, y0 * scale, x1 * scale, y1 * scale
