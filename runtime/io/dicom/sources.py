"""The images that a volume was read from, as objects made of it refer to them."""

from __future__ import annotations

import os
import re
import warnings
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import InputError, SeriesError
from runtime.io.dicom.elements import refusing, shown, text
from runtime.io.dicom.header import (
    COLUMNS,
    FRAME_OF_REFERENCE,
    FRAMES,
    ORIENTATION,
    PIXEL_SPACING,
    POSITION,
    ROWS,
    SERIES,
    SOP_CLASS,
    read_header,
)
from runtime.io.volumes.volume import Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SOP_INSTANCE, _STUDY = 0x00080018, 0x0020000D
# Without these nothing can refer to an image, or say where it lies.
_IDENTITY = {
    SOP_CLASS: "SOP Class UID",
    _SOP_INSTANCE: "SOP Instance UID",
    _STUDY: "Study Instance UID",
    SERIES: "Series Instance UID",
    FRAME_OF_REFERENCE: "Frame of Reference UID",
}
_ALIKE = (_STUDY, SERIES, FRAME_OF_REFERENCE)
_OF_EVERY_SLICE = (
    *_IDENTITY,
    *(POSITION, ORIENTATION, PIXEL_SPACING, ROWS, COLUMNS, FRAMES),
)
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9; zeros in front, which it forbids, are seen
_FRAME_GROUPS = "PerFrameFunctionalGroupsSequence"
_OR_ELSE = "write the mask as .nii.gz, .nrrd or .mha"
# Elements that must be there and may be empty (type 2) of a patient and a study, PS3.3 C.7.1.1 and C.7.2.1.
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
# Of those, what some leave in no form of DICOM's, such as the birth date 00000000 of who was made anonymous.
_DATES = ("PatientBirthDate", "StudyDate", "StudyTime")


@dataclass(frozen=True, slots=True)
class Sources:
    """Images that a segmentation of a volume is of.

    Attributes:
        datasets: headers: one for each slice along z, or one whose frames they are. The first has all its elements,
            but for these:
        dates: of patient and study, as they are in the file, right or wrong.
        references: SOP instance UID and frame number of each slice along z.
        positions_mm: of each slice, LPS (x, y, z).
        stored: for each frame, in the order of `datasets` or of the frames in their file, its slice.
        num_bytes: that the headers have in their files.
    """

    datasets: tuple[Dataset, ...]
    dates: Dataset
    references: tuple[tuple[str, int], ...]
    positions_mm: tuple[tuple[float, ...], ...]
    stored: tuple[int, ...]
    num_bytes: int


def check_spares_images(path: Path, volume: Volume) -> None:
    """Raise InputError where a file would replace one of the images that `volume` was read from."""
    if os.path.realpath(path) in {os.path.realpath(frame.path) for frame in volume.frames}:
        raise InputError(f"{path} is one of the images themselves; name another file for the mask")


def read_sources(volume: Volume) -> Sources:
    """The headers of the images that `volume` was read from.

    Raises InputError for a volume that came from elsewhere or is not whole any more, SeriesError for images that cannot
    be referred to, or that are others than were read.
    """
    if not volume.frames:
        raise InputError(
            f"{volume.source} is not DICOM, and a DICOM segmentation refers to the images it was made of; read the "
            f"DICOM series itself, or {_OR_ELSE}"
        )
    if len(volume.frames) != volume.shape[0]:
        raise InputError(
            f"found {volume.shape[0]} slices of {len(volume.frames)} frames of {volume.source}; wanted the volume as "
            "it was read, so that each slice has its source"
        )
    paths = list(dict.fromkeys(frame.path for frame in volume.frames))
    headers, num_bytes = [], 0
    for index, path in enumerate(paths):
        header = read_header(path, None if index == 0 else _OF_EVERY_SLICE)
        if header is None:
            raise SeriesError(f"{path} holds no image any more; it was changed since it was read")
        headers.append(header.dataset)
        num_bytes += header.pixel_at
    _check_identity(dict(zip(paths, headers, strict=True)))
    source = f"{volume.source}: its headers cannot be followed"
    with warnings.catch_warnings(action="ignore"), refusing(SeriesError, source):
        return _sources(volume, headers, num_bytes)


def _sources(volume: Volume, headers: list[Dataset], num_bytes: int) -> Sources:
    from pydicom.dataset import Dataset

    first = headers[0]
    for keyword in _MAY_BE_EMPTY:
        if keyword not in first:
            setattr(first, keyword, "")
    dates = Dataset()
    for keyword in _DATES:
        dates.add(copy(first[keyword]))
        setattr(first, keyword, "")
    numbers = [frame.number for frame in volume.frames]
    if len(headers) == len(numbers) and _FRAME_GROUPS not in first:
        _agree(volume, headers)
        places, uids = headers, [text(header, _SOP_INSTANCE) for header in headers]
        stored = list(range(len(headers)))
    else:
        _share(volume, headers)
        groups = first[_FRAME_GROUPS].value
        places = [groups[number - 1].PlanePositionSequence[0] for number in numbers]
        uids = [text(first, _SOP_INSTANCE)] * len(numbers)
        stored = np.argsort(numbers).tolist()
    positions_mm = [tuple(map(float, place.ImagePositionPatient)) for place in places]
    _check_places(volume, positions_mm)
    references = zip(uids, numbers, strict=True)
    return Sources(
        *(tuple(headers), dates, tuple(references), tuple(positions_mm), tuple(stored), num_bytes)
    )


def _agree(volume: Volume, headers: list[Dataset]) -> None:
    """Let slices whose orientations differ in the last decimals have one, and the spacing that was measured."""
    first = headers[0]
    _measure(first, volume)
    for header in headers:
        header.ImageOrientationPatient = first.ImageOrientationPatient


def _share(volume: Volume, headers: list[Dataset]) -> None:
    """Let all frames share what they have alike, where a writer has said it of each."""
    dataset = headers[0]
    if len(headers) > 1:
        raise SeriesError(
            f"{volume.source} is {len(headers)} enhanced objects, and a segmentation refers to the frames of one; "
            f"wanted one file with all frames; {_OR_ELSE}"
        )
    if not (dataset.get("SharedFunctionalGroupsSequence") and dataset.get(_FRAME_GROUPS)):
        raise SeriesError(
            f"{volume.source} has several frames and no functional groups (5200|9229, 5200|9230); wanted an enhanced "
            f"object, or one file a slice; {_OR_ELSE}"
        )
    shared, own = dataset.SharedFunctionalGroupsSequence[0], dataset.get(_FRAME_GROUPS)[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword in own:
            setattr(shared, keyword, own[keyword].value)
    _measure(shared.PixelMeasuresSequence[0], volume)


def _measure(dataset: Dataset, volume: Volume) -> None:
    """Set how far apart slices are, and how thick, where nobody says it: readers want both."""
    spacing = f"{volume.spacing_mm[0]:.10g}"  # a Decimal String has 16 letters
    dataset.SpacingBetweenSlices = spacing
    dataset.SliceThickness = dataset.get("SliceThickness") or spacing


def _check_identity(headers: dict[Path, Dataset]) -> None:
    """Raise SeriesError unless each file says which image it is, and all are of one series."""
    first = next(iter(headers.values()))
    for path, header in headers.items():
        for tag, name in _IDENTITY.items():
            if not _UID.fullmatch(uid := text(header, tag)):
                raise SeriesError(
                    f"{path} has {f'{uid[:64]!r} as' if uid else 'no'} {name} ({shown(tag)}), so that no "
                    f"segmentation can refer to it; export the series again, or {_OR_ELSE}"
                )
            if tag in _ALIKE and text(header, tag) != text(first, tag):
                raise SeriesError(
                    f"{path} has another {name} ({shown(tag)}) than the first slice; wanted one; {_OR_ELSE}"
                )
    if len({text(header, _SOP_INSTANCE) for header in headers.values()}) < len(headers):
        raise SeriesError(
            f"{path.parent}: slices share a SOP Instance UID ({shown(_SOP_INSTANCE)}), so that nobody can tell which "
            f"is meant; export the series again, or {_OR_ELSE}"
        )


def _check_places(volume: Volume, positions: list[tuple[float, ...]]) -> None:
    """Raise SeriesError unless slices lie, in this order, where the volume has them."""
    places_mm = np.array(positions, np.float64)
    normal = np.reshape(volume.direction, (3, 3))[:, 2]
    last_mm = (volume.affine @ (0, 0, len(positions) - 1, 1))[:3]
    ends_mm = np.abs(places_mm[[0, -1]] - np.array((volume.origin_mm, last_mm))).max()
    if not ((np.diff(places_mm @ normal) > 0).all() and ends_mm < volume.spacing_mm[0] / 2):
        raise SeriesError(
            f"{volume.source} does not lie where its volume does; wanted the grid and the files as they were read"
        )
