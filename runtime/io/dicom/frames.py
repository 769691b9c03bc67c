"""Where the frames of an image lie, and how each is rescaled.

PS3.3 C.7.6.16 (functional groups), C.8.4 (nuclear medicine).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import SeriesError
from runtime.io.dicom.elements import items, numbers, refusing, shown, text
from runtime.io.dicom.header import (
    DETECTORS,
    FRAME_GROUPS,
    IMAGE_TYPE,
    INTERCEPT,
    ORIENTATION,
    PIXEL_SPACING,
    POSITION,
    SHARED_GROUPS,
    SLICE_SPACING,
    SLICE_VECTOR,
    SLOPE,
    THICKNESS,
    Header,
)
from runtime.io.volumes.stack import ImagePlane

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Functional groups, by what is looked for in them.
_GROUP_OF = {
    POSITION: 0x00209113,
    ORIENTATION: 0x00209116,
    PIXEL_SPACING: 0x00289110,
    THICKNESS: 0x00289110,
    SLOPE: 0x00289145,
    INTERCEPT: 0x00289145,
}
_COUNTS = {POSITION: 3, ORIENTATION: 6, PIXEL_SPACING: 2, THICKNESS: 1, SLOPE: 1, INTERCEPT: 1}
_WORDS = {POSITION: "position", ORIENTATION: "orientation", PIXEL_SPACING: "pixel spacing"}
# Sequences within the groups of a frame, more than any writer writes.
_ITEMS_PER_FRAME = 100
_NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames in stored order.

    Attributes:
        planes: where each lies.
        spacing_yx_mm: of their pixels.
        thickness_mm: of a slice; None where it is not said.
    """

    planes: tuple[ImagePlane, ...]
    spacing_yx_mm: tuple[float, float]
    thickness_mm: float | None


def read_frames(header: Header, count: int, may_share_place: bool = False) -> Frames:
    """The geometry of an image of `count` frames.

    Each value is looked for in the frame's own functional groups, then in the shared ones, and, of a single frame or
    for what all frames share, in the data set itself. Frames may share a place if that is allowed, as segments of a
    slice do. Raises SeriesError where a value is missing or several spacings are given.
    """
    with refusing(SeriesError, f"{header.path}: its header cannot be followed"):
        groups = _Groups(header, count)
        planes = _nuclear_planes(header, count) or _planes(header, groups, count, may_share_place)
        spacings = {groups.value(PIXEL_SPACING, frame) for frame in range(count)}
        thickness = {groups.value(THICKNESS, frame) for frame in range(count)}
    if len(spacings) > 1:
        raise SeriesError(
            f"{header.path}: its frames have more than one pixel spacing; wanted the same"
        )
    (spacing_mm,), thickness_mm = spacings, min(thickness)
    if len(spacing_mm) != 2:
        raise _unplaced(header, PIXEL_SPACING, spacing_mm)
    return Frames(
        tuple(planes), (spacing_mm[0], spacing_mm[1]), thickness_mm[0] if thickness_mm else None
    )


def read_rescaling(header: Header, count: int) -> list[tuple[float, float] | None]:
    """Slope and intercept of each frame, None where there are none. Raises SeriesError for a slope of 0."""
    with refusing(SeriesError, f"{header.path}: its header cannot be followed"):
        groups = _Groups(header, count)
        values = [
            (groups.value(SLOPE, frame), groups.value(INTERCEPT, frame)) for frame in range(count)
        ]
    pairs: list[tuple[float, float] | None] = []
    for slope, intercept in values:
        if len(slope) != len(intercept):
            raise SeriesError(
                f"{header.path} has {'an intercept without a slope' if intercept else 'a slope without an intercept'} "
                f"({shown(SLOPE)}, {shown(INTERCEPT)}); wanted both or neither; it is damaged"
            )
        pairs.append((slope[0], intercept[0]) if slope else None)
        if slope and slope[0] == 0:
            raise SeriesError(
                f"{header.path} has a rescale slope of 0, which leaves nothing of its pixels"
            )
    return pairs


class _Groups:
    """Values of functional groups by frame."""

    def __init__(self, header: Header, count: int) -> None:
        self._header = header
        self._shared = items(header.dataset, SHARED_GROUPS)
        self._frames = items(header.dataset, FRAME_GROUPS, _ITEMS_PER_FRAME * (count + 10))
        if self._frames and len(self._frames) != count:
            raise SeriesError(
                f"{header.path} has {count} frames and functional groups of {len(self._frames)}; it is damaged"
            )

    def value(self, tag: int, frame: int) -> tuple[float, ...]:
        """One, two, three or six numbers, or () where nothing says them."""
        values = self.own(tag, frame)
        for groups in self._shared:
            values = values or self._in(groups, tag)
        return values or self._checked(self._header.dataset, tag)

    def own(self, tag: int, frame: int) -> tuple[float, ...]:
        """What the frame's own groups say."""
        return self._in(self._frames[frame], tag) if self._frames else ()

    def _in(self, groups: Dataset, tag: int) -> tuple[float, ...]:
        group = items(groups, _GROUP_OF[tag])
        return self._checked(group[0], tag) if group else ()

    def _checked(self, dataset: Dataset, tag: int) -> tuple[float, ...]:
        values = numbers(dataset, tag, self._header.path)
        if len(values) not in (0, _COUNTS[tag]):
            raise SeriesError(
                f"{self._header.path}: found {len(values)} numbers in ({shown(tag)}), {values[:8]}; "
                f"wanted {_COUNTS[tag]} numbers"
            )
        return values


def _planes(header: Header, groups: _Groups, count: int, may_share_place: bool) -> list[ImagePlane]:
    own = [groups.own(POSITION, frame) for frame in range(count)]
    is_one_place = may_share_place and not any(own) and bool(groups.value(POSITION, 0))
    if count > 1 and not all(own) and not is_one_place:
        shared = any(groups.value(POSITION, frame) for frame in range(count))
        raise SeriesError(
            f"{header.path}: found {count} frames and {sum(map(bool, own)) or int(shared)} positions (0020|0032); "
            "wanted one per frame; radiographs and films, which have none, are no volume"
        )
    planes = []
    for frame in range(count):
        position_mm = groups.value(POSITION, frame)
        orientation = groups.value(ORIENTATION, frame)
        for tag, values in ((POSITION, position_mm), (ORIENTATION, orientation)):
            if not values:
                raise _unplaced(header, tag, values)
        planes.append(ImagePlane(_name(header, frame, count), position_mm, orientation))
    return planes


def _nuclear_planes(header: Header, count: int) -> list[ImagePlane]:
    """Planes of a reconstructed nuclear medicine object, which gives one position and a signed spacing; else []."""
    kinds = text(header.dataset, IMAGE_TYPE).split("\\")
    if header.sop_class != _NUCLEAR or "RECON TOMO" not in kinds:
        return []
    detectors = items(header.dataset, DETECTORS)
    position_mm, orientation = (
        _detector_value(header, detectors, tag) for tag in (POSITION, ORIENTATION)
    )
    spacing_mm = numbers(header.dataset, SLICE_SPACING, header.path)
    order = _slice_numbers(header, count)
    if len(position_mm) != 3 or len(orientation) != 6 or len(spacing_mm) != 1:
        return []
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        ImagePlane(
            _name(header, frame, count),
            tuple((np.array(position_mm) + (number - 1) * spacing_mm[0] * normal).tolist()),
            orientation,
        )
        for frame, number in enumerate(order)
    ]


def _detector_value(header: Header, detectors: Sequence[Dataset], tag: int) -> tuple[float, ...]:
    own = numbers(detectors[0], tag, header.path) if detectors else ()
    return own or numbers(header.dataset, tag, header.path)


def _slice_numbers(header: Header, count: int) -> list[int]:
    """Which slice each frame is, from 1: the slice vector, or the order in which they are stored."""
    raw = header.dataset.get_item(SLICE_VECTOR) if SLICE_VECTOR in header.dataset else None
    value = getattr(raw, "value", None)
    if not isinstance(value, bytes):
        return list(range(1, count + 1))
    order = "<" if header.syntax.is_little else ">"
    slice_numbers: list[int] = np.frombuffer(value, f"{order}u2").tolist()
    if len(slice_numbers) != count:
        raise SeriesError(
            f"{header.path} has {count} frames and {len(slice_numbers)} slice numbers; it is damaged"
        )
    return slice_numbers


def _name(header: Header, frame: int, count: int) -> str:
    return f"frame {frame} of {header.path.name}" if count > 1 else header.path.name


def _unplaced(header: Header, tag: int, values: tuple[float, ...]) -> SeriesError:
    return SeriesError(
        f"{header.path} has no usable {_WORDS[tag]} ({shown(tag)}): found {values or 'nothing'}, wanted {_COUNTS[tag]} "
        "numbers; without it the slice cannot be placed"
    )
