"""Reading a DICOM Segmentation onto the grid of the volume that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, SeriesError
from runtime.io.dicom.elements import items, refusing, text, whole
from runtime.io.dicom.format import PixelFormat, read_format
from runtime.io.dicom.frames import Frames, read_frames
from runtime.io.dicom.header import (
    FRAME_GROUPS,
    FRAME_OF_REFERENCE,
    SHARED_GROUPS,
    WANTED,
    Header,
    read_header,
)
from runtime.io.dicom.pixels import read_stored
from runtime.io.volumes.stack import ORIENTATION_TOLERANCE, ImagePlane
from runtime.io.volumes.volume import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Segmentation Storage and Label Map Segmentation Storage, PS3.4 annex B.5.
_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TYPE, _SEGMENTS, _NUMBER, _LABEL = 0x00620001, 0x00620002, 0x00620004, 0x00620005
_IDENTIFICATION, _REFERENCED_NUMBER = 0x0062000A, 0x0062000B
_BINARY, _LABELMAP = "BINARY", "LABELMAP"
_ALL = 0
_CHARACTERS = 0x00080005
_MOST_ITEMS = 20 * 65535  # of the sequence of segments, nested ones included
_ITEMS_PER_FRAME = 100
# How far a frame may lie from the slice that it is taken for, in voxels, and pixels differ in size.
_OFF_VOXELS, _OFF_SPACING = 0.25, 1e-3


@dataclass(frozen=True, slots=True)
class ReadSegments:
    """The segments of a file; `write_mask` takes them as it takes a result.

    Attributes:
        names: segment number to its label.
        planes: (segment number, slice) to what is not 0 inside, (y, x); the number 0 stands for all segments, and
            values for theirs. What is not there is empty.
        shape: (z, y, x) of the volume that they belong to.
    """

    names: Mapping[int, str]
    planes: Mapping[tuple[int, int], NDArray[Any]]
    shape: tuple[int, int, int]

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The numbers of the segments, lowest first."""
        return tuple(sorted(self.names))

    def mask(self, object_id: int) -> NDArray[np.bool_]:
        """Mask (z, y, x) of one segment. Raises InputError where there is none of that number."""
        if object_id not in self.names:
            raise InputError(f"no segment {object_id}; there are: {list(self.object_ids)}")
        mask = np.zeros(self.shape, bool)
        for (number, index), plane in self.planes.items():
            if number in (object_id, _ALL):
                mask[index] = plane == object_id if number == _ALL else plane
        return mask

    def labels(self) -> NDArray[Any]:
        """Numbers of segments (z, y, x), 0 outside. Raises InputError where segments overlap."""
        labels = np.zeros(self.shape, np.min_scalar_type(max(self.names, default=0)))
        for (number, index), plane in sorted(self.planes.items(), key=lambda item: item[0]):
            if number == _ALL:
                labels[index] = plane
                continue
            if labels[index][plane].any():
                raise InputError(
                    f"segment {number} overlaps another on slice {index}; take masks one by one with mask(number)"
                )
            labels[index][plane] = number
        return labels


def read_segmentation(path: str | PathLike[str], like: Volume) -> ReadSegments:
    """The segments of a DICOM Segmentation, BINARY or LABELMAP, on the slices of `like`.

    Frames are put where they lie in the patient, whatever their order. Raises SeriesError for a file that is no such
    segmentation, is damaged, or does not lie on the grid of `like`; VolumeError for pixels that cannot be decoded;
    OSError where the file cannot be read.
    """
    path = Path(path)
    header = read_header(path, (*WANTED, _CHARACTERS, _TYPE, _SEGMENTS))
    if header is None or header.sop_class not in _CLASSES:
        raise SeriesError(f"{path} is no DICOM Segmentation; wanted one of {like.source}")
    kind = text(header.dataset, _TYPE)
    if kind not in (_BINARY, _LABELMAP):
        raise SeriesError(
            f"{path} is a segmentation of type {kind or 'unknown'}; wanted BINARY or LABELMAP: choose a threshold and "
            "write it as one of these"
        )
    layout = read_format(header)
    _check_grid(header, layout, like)
    frames = read_frames(header, layout.frames, may_share_place=True)
    slices = [_slice_of(plane, frames, path, like) for plane in frames.planes]
    with refusing(SeriesError, f"{path}: its segments cannot be followed"):
        names = _names(header)
        numbers = _numbers(header, layout.frames) if kind == _BINARY else []
    planes: dict[tuple[int, int], NDArray[Any]] = {}
    for frame, stored in enumerate(read_stored(header, layout)):
        key = numbers[frame] if kind == _BINARY else _ALL, slices[frame]
        held = {key[0]} if kind == _BINARY else {*np.unique(stored).tolist()} - {0}
        if unknown := held - names.keys():
            raise SeriesError(
                f"{path} has pixels of segment {min(unknown)} and does not describe it"
            )
        if key in planes:
            raise SeriesError(
                f"{path} has two frames of {f'segment {key[0]} on ' if key[0] else ''}slice {key[1]}; wanted one"
            )
        planes[key] = stored != 0 if kind == _BINARY else stored
    return ReadSegments(names, planes, like.shape)


def _check_grid(header: Header, layout: PixelFormat, like: Volume) -> None:
    if (layout.rows, layout.columns) != like.shape[1:]:
        raise SeriesError(
            f"{header.path} has frames of {(layout.rows, layout.columns)} pixels (y, x); wanted {like.shape[1:]}, as "
            f"{like.source} has"
        )
    if like.frames:
        source = read_header(like.frames[0].path, (FRAME_OF_REFERENCE,))
        wanted = text(source.dataset, FRAME_OF_REFERENCE) if source else ""
        frame = text(header.dataset, FRAME_OF_REFERENCE)
        if wanted != frame:
            raise SeriesError(
                f"{header.path} lies in the frame of reference {frame or 'unknown'}; wanted {wanted or 'none'}, that "
                f"of {like.source}"
            )


def _slice_of(plane: ImagePlane, frames: Frames, path: Path, like: Volume) -> int:
    """The slice that a frame lies on. Raises SeriesError where it lies on none, or not as its pixels do."""
    axes = np.reshape(like.direction, (3, 3)).T[:2].ravel()
    is_turned = np.abs(np.subtract(plane.orientation, axes)).max() > ORIENTATION_TOLERANCE
    ratios = np.divide(frames.spacing_yx_mm, like.spacing_mm[1:])
    place = np.linalg.solve(like.affine, (*plane.position_mm, 1.0))[:3]
    index = round(float(place[2])) if np.isfinite(place).all() else -1
    off = np.abs(place - (0, 0, index)).max()
    if is_turned or np.abs(ratios - 1).max() > _OFF_SPACING or not off <= _OFF_VOXELS:
        raise SeriesError(
            f"{path}: {plane.name} lies at {plane.position_mm} mm along {plane.orientation}, on no slice of "
            f"{like.source}; wanted a segmentation on its grid; resample it first"
        )
    if not 0 <= index < like.shape[0]:
        raise SeriesError(
            f"{path}: {plane.name} lies on slice {index} of {like.source}, which has {like.shape[0]}; wanted a "
            "segmentation of this volume"
        )
    return index


def _names(header: Header) -> dict[int, str]:
    """Numbers and labels of the segments but the background, which has the number 0."""
    described = items(header.dataset, _SEGMENTS, _MOST_ITEMS)
    names = {
        whole(item, _NUMBER, header.path): str(item[_LABEL].value or "") if _LABEL in item else ""
        for item in described
    }
    names.pop(0, None)
    return names


def _numbers(header: Header, count: int) -> list[int]:
    """The segment of each frame: what its own functional groups say, or the shared ones."""
    own = items(header.dataset, FRAME_GROUPS, _ITEMS_PER_FRAME * (count + 10))
    shared = items(header.dataset, SHARED_GROUPS)
    groups = [(group, *shared) for group in own] or [(*shared,)] * count
    return [_number(group, header.path) for group in groups]


def _number(groups: Sequence[Dataset], path: Path) -> int:
    for group in groups:
        for item in items(group, _IDENTIFICATION):
            return whole(item, _REFERENCED_NUMBER, path)
    raise SeriesError(f"{path} has a frame that does not say which segment it is of")
