"""One volume out of DICOM: a regular series of slices, or the frames of one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError
from runtime.io.dicom.elements import text
from runtime.io.dicom.folder import says, scan_format, series_headers
from runtime.io.dicom.format import PixelFormat
from runtime.io.dicom.frames import Frames, read_frames
from runtime.io.dicom.header import FRAME_OF_REFERENCE, Header, read_header
from runtime.io.dicom.pixels import read_stored
from runtime.io.dicom.query import Choice
from runtime.io.dicom.values import ModalityTransform, common_type, read_modality_transforms
from runtime.io.size_limit import new_array
from runtime.io.volumes.stack import Stack, stack_planes
from runtime.io.volumes.volume import SourceFrame, Volume

# Pixel spacings are written with few decimals; two that differ by less are the same.
_SPACING_TOLERANCE = 1e-4

Scan = tuple[Header, PixelFormat, Frames]
"""A file and all that is known of it before its pixels are read."""


def read_series(folder: Path, series: Choice | None = None) -> Volume:
    """The one series of slices in `folder` (not below it), or the one with that UID, or whose headers say so.

    Slices are ordered by where they lie, never by name; the third axis points along the slices'
    normal. Raises SeriesError unless they form one evenly spaced grid, and VolumeError for pixels
    that are colour, inverted (MONOCHROME1) or cannot be decoded.
    """
    headers = series_headers(folder, series)
    scans = []
    for header in headers:
        layout = scan_format(header)
        if layout.frames > 1 and len(headers) > 1:
            raise SeriesError(
                f"{header.path} holds {layout.frames} frames beside {len(headers) - 1} other files "
                "of its series; wanted one slice per file, or one file; name that file alone"
            )
        scans.append((header, layout, read_frames(header, layout.frames)))
    source = folder if len(headers) > 1 else headers[0].path
    return _read_volume(scans, str(source))


def read_dicom_file(path: Path, series: Mapping[str, str] | None = None) -> Volume:
    """The volume in one file: the frames of an enhanced or nuclear object, or a single slice (z = 1).

    Raises SeriesError when its frames are no evenly spaced grid, or its header does not say what `series` asks for,
    VolumeError as read_series does.
    """
    header = read_header(path)
    if header is None:
        raise SeriesError(f"{path} is not an image, or not one that can be read: it has no pixels")
    if series and not says(path, series):
        asked = " and ".join(f"{name}={value}" for name, value in series.items())
        raise SeriesError(
            f"{path} is not of a series that is {asked}; leave it out, or ask for less"
        )
    layout = scan_format(header)
    return _read_volume([(header, layout, read_frames(header, layout.frames))], str(path))


def _read_volume(scans: Sequence[Scan], source: str) -> Volume:
    _check_alike(scans)
    stack = stack_planes([plane for *_, frames in scans for plane in frames.planes])
    header, _, frames = scans[0]
    array = _read_array(scans, stack)
    # One slice has no neighbour to measure to: its thickness must do, and 1 mm where it has none.
    z_mm = stack.spacing_mm or frames.thickness_mm or 1.0
    y_mm, x_mm = frames.spacing_yx_mm
    stored = [
        SourceFrame(header.path, number)
        for header, layout, _ in scans
        for number in range(1, layout.frames + 1)
    ]
    return Volume(
        array,
        (z_mm, y_mm, x_mm),
        stack.origin_mm,
        stack.direction,
        header.modality,
        source,
        frames=tuple(stored[index] for index in stack.order),
    )


def _read_array(scans: Sequence[Scan], stack: Stack) -> NDArray[Any]:
    """All frames in the order of the stack, (z, y, x), each rescaled as its own header says."""
    transforms = [read_modality_transforms(header, layout) for header, layout, _ in scans]
    _check_all_rescaled(scans, transforms)
    dtype = common_type(
        [
            (layout, m)
            for (_, layout, _), of_file in zip(scans, transforms, strict=True)
            for m in of_file
        ]
    )
    slots = np.argsort(stack.order)
    _, first, _ = scans[0]
    shape = len(slots), first.rows, first.columns
    array = new_array(shape, dtype, scans[0][0].path.parent)
    frame = 0
    for (header, layout, _), of_file in zip(scans, transforms, strict=True):
        for stored, transform in zip(read_stored(header, layout), of_file, strict=True):
            array[slots[frame]] = transform.apply(stored, dtype)
            frame += 1
    return array


def _check_all_rescaled(
    scans: Sequence[Scan], transforms: Sequence[Sequence[ModalityTransform]]
) -> None:
    """Raise SeriesError where some frames are rescaled and others say nothing: their values are not on one scale."""
    if all(transform.is_plain for of_file in transforms for transform in of_file):
        return
    for (header, layout, _), of_file in zip(scans, transforms, strict=True):
        for number, transform in enumerate(of_file):
            if not transform.is_said:
                which = f"frame {number} of " * (layout.frames > 1)
                raise SeriesError(
                    f"{which}{header.path.name} has no rescale slope and intercept, and others beside it have; wanted "
                    "all or none; export the series again"
                )


def _check_alike(scans: Sequence[Scan]) -> None:
    first, first_layout, first_frames = scans[0]
    for header, layout, frames in scans[1:]:
        if (layout.rows, layout.columns) != (first_layout.rows, first_layout.columns):
            raise SeriesError(
                f"{header.path.name} is {(layout.columns, layout.rows)} pixels (x, y) and "
                f"{first.path.name} {(first_layout.columns, first_layout.rows)}; wanted slices of one size"
            )
        pair = (frames.spacing_yx_mm, first_frames.spacing_yx_mm)
        if not np.allclose(*pair, rtol=_SPACING_TOLERANCE, atol=0):
            raise SeriesError(
                f"{header.path.name} has pixels of {pair[0]} mm (y, x) and {first.path.name} of "
                f"{pair[1]}; wanted one pixel spacing"
            )
        places = [text(of.dataset, FRAME_OF_REFERENCE) for of in (header, first)]
        if all(places) and places[0] != places[1]:
            raise SeriesError(
                f"{header.path.name} lies in the frame of reference {places[0]} and {first.path.name} in {places[1]}, "
                "so that nobody knows how they lie to each other; wanted one; put the slices of each into a folder of "
                "their own"
            )
