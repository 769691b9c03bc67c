"""Reading DICOM: one regular series of slices, or one multi-frame object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError, VolumeError
from runtime.io.frames import read_frames
from runtime.io.itk import header_reader, quiet, reason, sitk
from runtime.io.stack import Plane, Stack, stack_planes
from runtime.io.volume import Volume

GDCM = "GDCMImageIO"
# SOP classes of objects that are no images of a patient (PS3.4 annex B.5): presentation states,
# waveforms, raw data and segmentations, structured reports, documents, radiotherapy.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = tuple(_STORAGE + branch for branch in ("11.", "9.", "66", "88.", "104.", "481."))
# The first of (0002|0002) and (0008|0016): which kind of object a file says it is.
_SOP_CLASS = re.compile(rb"(?:\x02\0\x02\0|\x08\0\x16\0)....([0-9.]+)", re.DOTALL)
# Pixel spacings are written with few decimals; two that differ by less are the same.
_SPACING_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. spacing_yx_mm, position_mm and orientation are () if missing."""

    path: Path
    modality: str | None
    description: str
    size: tuple[int, ...]
    pixel_id: int
    spacing_yx_mm: tuple[float, ...]
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    thickness_mm: tuple[float, ...]

    @property
    def frames(self) -> int:
        return self.size[2] if len(self.size) > 2 else 1


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do (PS3.10 section 7.1)."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_series(folder: Path, series: str | None = None) -> Volume:
    """The one series of slices in `folder` (not below it), or the one with that UID.

    Slices are ordered by where they lie, never by name; the third axis points along the slices'
    normal. Raises SeriesError unless they form one evenly spaced grid, and VolumeError for pixels
    that are colour, inverted (MONOCHROME1) or cannot be decoded.
    """
    headers = [_read_header(path) for path in _series_files(folder, series)]
    if len(headers) == 1:
        return _read_single(headers[0])
    for header in headers:
        if header.frames > 1:
            raise SeriesError(
                f"{header.path} holds {header.frames} frames beside {len(headers) - 1} other files "
                "of its series; wanted one slice per file, or one file; name that file alone"
            )
    _check_alike(headers)
    stack = stack_planes([_plane(header) for header in headers])
    array = _read_slices([headers[index] for index in stack.order])
    return _volume(array, stack, headers[0], str(folder))


def read_dicom_file(path: Path) -> Volume:
    """The volume in one file: the frames of an enhanced object, or a single slice (z = 1).

    Raises SeriesError when its frames are no evenly spaced grid, VolumeError as read_series does.
    """
    return _read_single(_read_header(path))


def _read_single(header: Header) -> Volume:
    if header.position_mm and header.frames == 1:
        stack = stack_planes([_plane(header)])
        spacing_yx_mm = header.spacing_yx_mm
    else:
        planes, spacing_yx_mm = read_frames(header.path, header.frames)
        stack = stack_planes(planes)
    array = _read_slices([header])[list(stack.order)]
    return _volume(array, stack, header, str(header.path), spacing_yx_mm)


def _volume(
    array: NDArray[Any],
    stack: Stack,
    header: Header,
    source: str,
    spacing_yx_mm: tuple[float, ...] = (),
) -> Volume:
    # One slice has no neighbour to measure to: its thickness must do, and 1 mm where it has none.
    thickness_mm = header.thickness_mm[0] if header.thickness_mm else 0.0
    z_mm = stack.spacing_mm or thickness_mm or 1.0
    y_mm, x_mm = spacing_yx_mm or header.spacing_yx_mm
    return Volume(
        array, (z_mm, y_mm, x_mm), stack.origin_mm, stack.direction, header.modality, source
    )


def _series_files(folder: Path, series: str | None) -> list[Path]:
    try:
        with quiet():
            uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
            found = {
                uid: [
                    Path(name)
                    for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
                ]
                for uid in uids
            }
    except RuntimeError as error:
        raise SeriesError(f"{folder} cannot be searched for DICOM: {reason(error)}") from error
    _check_left_out(folder, {path.name for paths in found.values() for path in paths})
    if not found:
        raise SeriesError(
            f"{folder} holds no DICOM images; wanted the folder that directly holds the slices, "
            "or the name of a volume file"
        )
    if series is None and len(found) > 1:
        raise SeriesError(
            f"{folder} holds {len(found)} series; wanted one; choose with series= "
            f"(--series UID):\n{_listing(found)}"
        )
    if series is not None and series not in found:
        raise SeriesError(f"{folder} holds no series {series}; it holds:\n{_listing(found)}")
    return found[series or next(iter(found))]


def _check_left_out(folder: Path, found: set[str]) -> None:
    """Refuses damaged slices, which GDCM's search passes over as if they were no DICOM.

    Files of other kinds may lie beside the slices: notes, DICOMDIR, reports, contours.
    """
    for path in sorted(folder.iterdir()):
        if path.name in found or path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as stream:
            start = stream.read(1024)
        if sop_class := _SOP_CLASS.search(start):
            uid = sop_class[1].decode()
            damaged = uid.startswith(_STORAGE) and not uid.startswith(_NOT_IMAGES)
        else:
            # Cut before it could say what it is.
            damaged = not start or start[128:132] == b"DICM" or path.suffix.lower() == ".dcm"
        if damaged:
            raise SeriesError(
                f"{path} cannot be read as DICOM: cut short or damaged; copy it again, or take it "
                "out of the folder"
            )


def _listing(found: dict[str, list[Path]]) -> str:
    return "\n".join(f"  {uid}  {_summary(paths)}" for uid, paths in sorted(found.items()))


def _summary(paths: list[Path]) -> str:
    count = f"{len(paths)} slice" + "s" * (len(paths) != 1)
    try:
        header = _read_header(paths[0])
    except (SeriesError, VolumeError):
        return f"{count}, not an image that can be segmented"
    return f"{header.modality or 'modality unknown'}, {header.description!r}, {count}"


def _read_header(path: Path) -> Header:
    try:
        reader = header_reader(str(path), GDCM)
    except RuntimeError as error:
        raise SeriesError(
            f"{path} is not an image, or not one that can be read: {reason(error)}"
        ) from error
    modality = _text(reader, "0008|0060")
    if _text(reader, "0008|0016").startswith(_NOT_IMAGES):
        raise SeriesError(f"{path} is not an image of a patient ({modality}); wanted slices")
    if reader.GetNumberOfComponents() != 1:
        raise VolumeError(f"{path}: found colour pixels; wanted one value per pixel")
    if _text(reader, "0028|0004") == "MONOCHROME1":
        # ITK turns such pixels over for display, so that they no longer are Hounsfield units.
        raise VolumeError(
            f"{path}: found pixels of which low ones are white (MONOCHROME1); wanted MONOCHROME2; "
            "convert the series first"
        )
    return Header(
        path,
        modality or None,
        _text(reader, "0008|103e"),
        tuple(reader.GetSize()),
        reader.GetPixelID(),
        _numbers(reader, "0028|0030", path),
        _numbers(reader, "0020|0032", path),
        _numbers(reader, "0020|0037", path),
        _numbers(reader, "0018|0050", path),
    )


def _text(reader: Any, tag: str) -> str:
    if not reader.HasMetaDataKey(tag):
        return ""
    # Text that is not UTF-8 arrives as surrogates, which could not be printed.
    text = str(reader.GetMetaData(tag)).encode("utf-8", "replace").decode()
    return text.strip(" \0")


def _numbers(reader: Any, tag: str, path: Path) -> tuple[float, ...]:
    text = _text(reader, tag)
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError as error:
        raise SeriesError(f"{path}: found {text!r} in ({tag}); wanted numbers") from error


def _plane(header: Header) -> Plane:
    for name, tag, values, count in (
        ("position", "0020|0032", header.position_mm, 3),
        ("orientation", "0020|0037", header.orientation, 6),
        ("pixel spacing", "0028|0030", header.spacing_yx_mm, 2),
    ):
        if len(values) != count or not np.isfinite(values).all():
            raise SeriesError(
                f"{header.path} has no usable {name} ({tag}): found {values or 'nothing'}, wanted "
                f"{count} numbers; without it the slice cannot be placed"
            )
    return Plane(header.path.name, header.position_mm, header.orientation)


def _check_alike(headers: Sequence[Header]) -> None:
    first = headers[0]
    for header in headers[1:]:
        if header.size != first.size:
            raise SeriesError(
                f"{header.path.name} is {header.size[:2]} pixels (x, y) and {first.path.name} "
                f"{first.size[:2]}; wanted slices of one size"
            )
        pair = (header.spacing_yx_mm, first.spacing_yx_mm)
        if len(pair[0]) == len(pair[1]) and not np.allclose(*pair, rtol=_SPACING_TOLERANCE, atol=0):
            raise SeriesError(
                f"{header.path.name} has pixels of {pair[0]} mm (y, x) and {first.path.name} of "
                f"{pair[1]}; wanted one pixel spacing"
            )


def _read_slices(headers: Sequence[Header]) -> NDArray[Any]:
    """The pixels of the files in this order, (z, y, x), each rescaled as its own header says."""
    paths = [str(header.path) for header in headers]
    # Left alone, the reader would cut every slice down to the first one's type.
    mixed = len({header.pixel_id for header in headers}) > 1
    pixel_id = sitk.sitkFloat64 if mixed else headers[0].pixel_id
    try:
        with quiet():
            # A list would be read as slices, and a multi-frame file is none.
            image = sitk.ReadImage(paths if len(paths) > 1 else paths[0], pixel_id, GDCM)
    except RuntimeError as error:
        raise VolumeError(
            f"{headers[0].path.parent}: its pixels cannot be read: {reason(error)}"
        ) from error
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array
