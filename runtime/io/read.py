"""Reading a volume from a file or a DICOM folder."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from runtime.errors import InputError, MissingInput, VolumeError
from runtime.io.dicom import is_dicom, read_dicom_file, read_series
from runtime.io.dicom.query import Choice
from runtime.io.volumes.metaimage import read_metaimage
from runtime.io.volumes.nifti import read_nifti
from runtime.io.volumes.nifti_forms import AFFINES
from runtime.io.volumes.npz import read_npz
from runtime.io.volumes.nrrd import read_nrrd
from runtime.io.volumes.volume import Volume

READERS = {
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".mha": read_metaimage,
    ".mhd": read_metaimage,
    ".npz": read_npz,
}
NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, *READERS, ".dcm")


def read_volume(
    path: str | PathLike[str], series: Choice | None = None, affine: str | None = None
) -> Volume:
    """The volume in a file (NIfTI, NRRD, MetaImage, DICOM, .npz) or in a folder of DICOM slices.

    A file that begins as DICOM does is read as DICOM whatever its name. An .npz holds `imgs`
    (z, y, x) uint8 and, if it likes, `spacing`, `origin` and `direction` in SimpleITK's (x, y, z)
    order, as MedSAM2's do.

    Args:
        path: of the file or folder.
        series: which to take from a folder that holds several: its series instance UID, or what its headers say, such
            as {"SeriesDescription": "*venous*"}, by the keywords of `runtime.io.dicom.query.KEYWORDS`.
        affine: "qform" or "sform", whichever is right in a NIfTI file where they disagree.

    Raises MissingInput when nothing is there, VolumeError for a file that is no 3-D scalar volume
    or contradicts itself, SeriesError for DICOM that is no single, evenly spaced series, and
    InputError for what is no path, a `series` that goes with no folder and an `affine` that goes
    with no NIfTI.
    """
    if isinstance(path, str) and not path:
        raise MissingInput("found an empty path; wanted that of a volume file or a folder of DICOM")
    try:
        path = Path(path)
    except TypeError as error:
        raise InputError(
            f"found {type(path).__name__}; wanted the path of a volume, or for an array Volume.from_array(array)"
        ) from error
    if affine is not None and affine not in AFFINES:
        raise InputError(f"found the affine {affine!r}; wanted one of {', '.join(AFFINES)}")
    try:
        if not path.exists():
            raise MissingInput(f"{path} does not exist; wanted a volume file or a folder of DICOM")
        if path.is_dir():
            _refuse_affine(path, affine)
            return read_series(path, series)
        if isinstance(series, str):
            raise InputError(f"{path} is a file; a series can only be chosen from a DICOM folder")
        return _read_file(path, series, affine)
    except OSError as error:
        if isinstance(error, MissingInput):
            raise
        raise VolumeError(f"{path} cannot be read: {error}") from error


def _read_file(path: Path, series: Mapping[str, str] | None, affine: str | None) -> Volume:
    if not path.is_file():
        raise VolumeError(f"{path} is a device or a pipe; wanted a plain file")
    suffix = next((end for end in SUFFIXES if path.name.lower().endswith(end)), "")
    if series is not None and suffix in (*NIFTI_SUFFIXES, *READERS):
        raise InputError(f"{path} is no DICOM; a series can only be chosen of that")
    if suffix in NIFTI_SUFFIXES:
        return read_nifti(path, affine)
    _refuse_affine(path, affine)
    if suffix in READERS:
        return READERS[suffix](path)
    if suffix == ".dcm" or is_dicom(path):
        return read_dicom_file(path, series)
    raise VolumeError(
        f"{path} has no suffix this reads and is not DICOM; wanted one of {', '.join(SUFFIXES)}, "
        "or a folder of DICOM slices"
    )


def _refuse_affine(path: Path, affine: str | None) -> None:
    if affine is not None:
        raise InputError(f"{path} is not NIfTI and has no {affine}; leave affine out")
