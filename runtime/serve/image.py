"""The image of a session: its pixels as the network is given them, and who segments objects in it, plane by plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.io.volumes.volume import Volume
from runtime.io.window import apply_window
from runtime.model import Model
from runtime.predictors import VolumePredictor
from runtime.predictors.chosen import AUTO, zoom_factor
from runtime.predictors.volume_plan import slices_ahead
from runtime.prompts.prompts import Mask, Prompt, shown
from runtime.serve.planes import Position, in_plane, plane_shape, planes_of
from runtime.serve.worker import Steps, Urgency
from runtime.steps.encodings import Encodings, EncodingView

AHEAD_IF_ZOOMED = 1
"""Slices encoded ahead where the network is shown crops. They lie about objects that nobody has pointed at yet, whole
slices only serve the first points of one, and who prompts would wait for the slice that is being encoded."""

MAX_PADDED = 1 << 26
"""Pixels of a padded plane, as many as a picture may have."""

V = TypeVar("V", bound=np.generic)


class SessionImage:
    """A volume in eight bits, one copy of it, and its encodings.

    Args:
        volume: as `taken` gives it; its array is not kept.
        model: segments.
        encodings: of its, that all images share.
        window: how intensities become eight bits, a name of `runtime.io.window`.
        is_zoomed: objects are seen with the zoom that the bundle has chosen, if it has; of those to come.

    Raises InputError for a window that does not fit.
    """

    def __init__(
        self,
        volume: Volume,
        model: Model,
        encodings: Encodings,
        window: str,
        is_zoomed: bool,
    ) -> None:
        pixels, _ = apply_window(volume, window)
        is_same = np.may_share_memory(pixels, volume.array)
        self.pixels = pixels.copy() if is_same else pixels
        self.spacing_mm = volume.spacing_mm
        self._model, self.encodings = model, encodings
        self.is_zoomed = is_zoomed
        self._view: EncodingView | None = None
        encodings.join(self)
        self.encoded = 0
        """Slices across the usual axis that are encoded ahead of need."""

    @property
    def to_encode(self) -> int:
        """How many slices across the usual axis are to be encoded ahead of need."""
        has_zoom = zoom_factor(self._model, AUTO if self.is_zoomed else None) is not None
        slices = self.shape[self.default_axis]
        return min(AHEAD_IF_ZOOMED if has_zoom else slices, slices, self.encodings.share)

    @property
    def shape(self) -> Position:
        """In voxels, along the axes 0, 1 and 2."""
        depth, height, width = self.pixels.shape
        return depth, height, width

    @property
    def default_axis(self) -> int:
        """Across which planes lie where a prompt does not say: the first, or that of an image of one slice."""
        return self.shape.index(1) if 1 in self.shape else 0

    def predictor(self, axis: int) -> VolumePredictor:
        """A predictor for the planes across an axis, without objects; its slices are padded planes."""
        predictor = VolumePredictor(
            self._model, encodings=self.encodings, zoom=AUTO if self.is_zoomed else None
        )
        spacing_mm = in_plane(self.spacing_mm, axis)[1:]
        shape = self.shape[axis], *self.padded_shape(axis)
        predictor.set_slices(lambda index: self.read(axis, index), shape, spacing_mm)
        return predictor

    def padded_shape(self, axis: int) -> tuple[int, int]:
        """(y, x) of the planes across an axis as the network is shown them.

        Across the usual axis that is all of a slice, stretched to the network's square as in SAM 2. Planes across the
        others may be far longer than they are wide, and their voxels too: they are padded to be square in mm, so that
        shapes are true, but for those of an odd spacing, which would be larger than any memory.
        """
        y, x = plane_shape(self.shape, axis)
        if axis == self.default_axis:
            return y, x
        _, y_mm, x_mm = in_plane(self.spacing_mm, axis)
        side_mm = max(y * y_mm, x * x_mm)
        sides = max(y, side_mm / y_mm), max(x, side_mm / x_mm)
        if sides[0] * sides[1] > MAX_PADDED:
            return y, x
        return round(sides[0]), round(sides[1])

    def read(self, axis: int, index: int) -> NDArray[np.uint8]:
        """A plane, padded with zeros at its end."""
        plane: NDArray[np.uint8] = planes_of(self.pixels, axis)[index]
        return _padded(plane, self.padded_shape(axis))

    def padded(self, prompts: Iterable[Prompt], axis: int) -> list[Prompt]:
        """Prompts of planes across an axis as they are on padded planes."""
        shape = self.padded_shape(axis)
        return [
            replace(p, mask=_padded(p.mask, shape)) if isinstance(p, Mask) else p for p in prompts
        ]

    def encode_ahead(self) -> Steps:
        """Encode slices across the usual axis, outwards from the middle, as many as this image may hold.

        The first one has loaded the encoder; the other graphs are loaded after it, so that no prompt waits for them.
        """
        axis = self.default_axis
        self._view = view = self.encodings.features(lambda index: self.read(axis, index))
        self.encoded, graphs = 0, iter(self._model.numbers.graphs)
        for index in slices_ahead(None, self.shape[axis]):
            if self.encoded >= self.to_encode:
                break
            view[index]
            self.encoded += 1
            yield Urgency.AHEAD
            for graph in graphs:
                self._model.engine(graph)
                yield Urgency.AHEAD

    def close(self) -> None:
        """Let others have the room; encodings stay for as long as nobody else needs it."""
        if self._view is not None:
            self._view.clear()
            # It reads from here: in a circle the pixels would wait for the collector, which counts no bytes.
            self._view = None
        self.encodings.leave(self)


def _padded(plane: NDArray[V], shape: tuple[int, int]) -> NDArray[V]:
    if plane.shape == shape:
        return plane
    padded = np.zeros(shape, plane.dtype)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    return padded


def taken(array: object, properties: Mapping[str, Any] | None) -> Volume:
    """An image as viewers send it; nothing is copied.

    Args:
        array: (1, z, y, x) or (z, y, x), of bools, or of integers or floats of at most 64 bits.
        properties: `spacing` (k, j, i) in mm, `modality` as DICOM's word; others are ignored.

    Raises VolumeError for anything else.
    """
    if not isinstance(array, np.ndarray):
        raise VolumeError(f"found an image that is {shown(array)}; wanted a numpy array")
    if array.ndim == 4 and array.shape[0] != 1:
        raise VolumeError(
            f"found an image of shape {array.shape}, {array.shape[0]} channels; wanted one: (1, z, y, x). "
            "Send one channel, or a colour image as grey"
        )
    voxels = array[0] if array.ndim == 4 else array
    if voxels.ndim != 3:
        raise VolumeError(
            f"found an image of shape {array.shape}; wanted (1, z, y, x) or (z, y, x); a picture is (1, 1, y, x)"
        )
    if voxels.dtype.kind not in "buif" or voxels.dtype.itemsize > 8:
        raise VolumeError(
            f"found an image of {array.dtype}; wanted bools, or integers or floats of at most 64 bits"
        )
    entries = {} if properties is None else properties
    if not isinstance(entries, Mapping):
        raise VolumeError(f"found the image's properties {shown(entries)}; wanted a dict")
    modality = entries.get("modality")
    if modality is not None and not isinstance(modality, str):
        raise VolumeError(f"found the modality {shown(modality)}; wanted DICOM's word, such as CT")
    spacing = entries.get("spacing")
    return Volume(
        voxels.view(np.uint8) if voxels.dtype == np.bool_ else voxels,
        (1.0, 1.0, 1.0) if spacing is None else _three(spacing),
        modality=modality,
        source="image",
    )


def _three(spacing: Any) -> tuple[float, float, float]:
    try:
        k, j, i = (float(value) for value in spacing)
    except (TypeError, ValueError, OverflowError) as error:
        raise VolumeError(
            f"found the spacing {shown(spacing)}; wanted three numbers (k, j, i) in mm"
        ) from error
    return k, j, i
