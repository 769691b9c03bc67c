"""Reading a volume from a file or a DICOM folder."""

from __future__ import annotations

import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError, MissingInput, VolumeError
from runtime.io.dicom import is_dicom, read_dicom_file, read_series
from runtime.io.intact import check_intact
from runtime.io.itk import header_reader, quiet, reason, sitk
from runtime.io.volume import IDENTITY, Volume

# Suffix -> ITK's reader for it; the longest suffix first, so that .nii.gz is found whole.
IMAGE_IOS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
SUFFIXES = (*IMAGE_IOS, ".npz", ".dcm")


def read_volume(path: str | PathLike[str], series: str | None = None) -> Volume:
    """The volume in a file (NIfTI-1, NRRD, MetaImage, DICOM, .npz) or in a folder of DICOM slices.

    series: the series instance UID to take from a folder that holds several.
    A file that begins as DICOM does is read as DICOM whatever its name. An .npz holds `imgs`
    (z, y, x) uint8 and, if it likes, `spacing`, `origin` and `direction` in SimpleITK's (x, y, z)
    order, as MedSAM2's do.

    Raises MissingInput when nothing is there, VolumeError for a file that is no 3-D scalar volume,
    SeriesError for DICOM that is no single, evenly spaced series, and InputError for a `series`
    that goes with no folder.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInput(f"{path} does not exist; wanted a volume file or a folder of DICOM")
    try:
        if path.is_dir():
            return read_series(path, series)
        if series is not None:
            raise InputError(f"{path} is a file; a series can only be chosen from a DICOM folder")
        return _read_file(path)
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error}") from error


def _read_file(path: Path) -> Volume:
    suffix = next((end for end in SUFFIXES if path.name.lower().endswith(end)), "")
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in IMAGE_IOS:
        check_intact(path, suffix)
        return _read_image(path, IMAGE_IOS[suffix])
    if suffix == ".dcm" or is_dicom(path):
        return read_dicom_file(path)
    raise VolumeError(
        f"{path} has no suffix this reads and is not DICOM; wanted one of {', '.join(SUFFIXES)}, "
        "or a folder of DICOM slices"
    )


def _read_image(path: Path, image_io: str) -> Volume:
    try:
        reader = header_reader(str(path), image_io)
        _extract_3d(path, reader)
        with quiet():
            image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(_unreadable(path, reason(error))) from error
    return Volume.from_image(image, source=str(path))


def _unreadable(path: Path, why: str) -> str:
    if "orthonormal" in why:
        return (
            f"{path}: its axes are sheared (no orthonormal direction in its header); resample it "
            "onto an unsheared grid first, for instance with 3D Slicer's Resample Scalar Volume"
        )
    return f"{path} cannot be read as what its name says, or is cut short: {why}"


def _extract_3d(path: Path, reader: Any) -> None:
    """Refuses what is no 3-D scalar image, and drops further axes of length 1."""
    size = reader.GetSize()
    complex_ids = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() in complex_ids:
        raise VolumeError(
            f"{path}: found several values per voxel (colour, vector or complex); wanted one; "
            "save one channel as a volume of its own"
        )
    if len(size) < 3:
        raise VolumeError(f"{path}: found a 2-D image of size {size} (x, y); wanted a 3-D volume")
    if any(length != 1 for length in size[3:]):
        raise VolumeError(
            f"{path}: found {len(size)} axes of size {size} (x, y, z, time...); wanted 3; save one "
            "time point, for instance with nibabel: image.slicer[..., 0].to_filename('one.nii.gz')"
        )
    if len(size) > 3:
        reader.SetExtractSize([*size[:3], *(0 for _ in size[3:])])


def _read_npz(path: Path) -> Volume:
    try:
        # Opened here because numpy leaves the file open when it is no sound archive.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise VolumeError(f"{path} is a bare array; wanted an .npz with the key imgs")
            arrays = {key: np.asarray(archive[key]) for key in _NPZ_KEYS if key in archive}
            found = ", ".join(archive.files) or "none"
    except VolumeError:
        raise
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise VolumeError(f"{path} cannot be read as .npz: {error}") from error
    if "imgs" not in arrays:
        raise VolumeError(f"{path}: found the keys {found}; wanted imgs (z, y, x) uint8")
    return _from_npz(arrays, str(path))


_NPZ_KEYS = ("imgs", "spacing", "origin", "direction")


def _from_npz(arrays: dict[str, Any], source: str) -> Volume:
    if arrays["imgs"].dtype != np.uint8:
        raise VolumeError(
            f"{source}: found imgs of dtype {arrays['imgs'].dtype}; wanted uint8, already "
            "windowed; save raw intensities as NIfTI, NRRD or MetaImage instead"
        )
    spacing_x_mm, spacing_y_mm, spacing_z_mm = _npz_numbers(arrays, "spacing", (1.0,) * 3, source)
    x_mm, y_mm, z_mm = _npz_numbers(arrays, "origin", (0.0,) * 3, source)
    return Volume(
        arrays["imgs"],
        (spacing_z_mm, spacing_y_mm, spacing_x_mm),
        (x_mm, y_mm, z_mm),
        _npz_numbers(arrays, "direction", IDENTITY, source),
        source=source,
    )


def _npz_numbers(
    arrays: dict[str, Any], key: str, default: tuple[float, ...], source: str
) -> tuple[float, ...]:
    values = np.ravel(arrays.get(key, default))
    if values.dtype.kind not in "iuf" or values.size != len(default):
        raise VolumeError(f"{source}: found {key} {values}; wanted {len(default)} numbers")
    return tuple(float(value) for value in values)
