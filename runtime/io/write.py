"""Writing a label mask onto the grid of the volume it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, Sam2Error, VolumeError
from runtime.files.atomic import check_destination, write_whole
from runtime.io.dicom.rtstruct import write_structures
from runtime.io.dicom.seg import write_segmentation
from runtime.io.dicom.segments import HasMasks, check_labels
from runtime.io.read import NIFTI_SUFFIXES, read_volume
from runtime.io.volumes.mask_formats import FORMATS, nifti_forms
from runtime.io.volumes.nifti_forms import AFFINES
from runtime.io.volumes.volume import Volume

# Formats that are one file each: a header with its data beside it cannot be replaced in one step.
SEGMENTATION_SUFFIX, STRUCTURES_SUFFIX = ".dcm", ".rtstruct.dcm"
MASK_SUFFIXES = (*FORMATS, STRUCTURES_SUFFIX, SEGMENTATION_SUFFIX)
# How far a voxel may be from where it belongs, of the largest coordinate: NIfTI rounds to float32.
_ROUNDING, _NIFTI_ROUNDING = 1e-12, 1e-6


def check_mask_path(path: str | PathLike[str]) -> Path:
    """`path` if a mask can be written there.

    Raises InputError for what is no path, for a suffix that is not written, and as check_destination does.
    """
    try:
        path = Path(path)
    except TypeError as error:
        raise InputError(
            f"found {type(path).__name__}; wanted the path to write, then the labels, then like"
        ) from error
    _suffix(path)
    check_destination(path)
    return path


class HasLabels(Protocol):
    """A result that knows its labels (z, y, x), uint8 or uint16."""

    def labels(self) -> NDArray[Any]: ...


def write_mask(path: str | PathLike[str], labels: NDArray[Any] | HasLabels, like: Volume) -> None:
    """Writes labels (z, y, x) uint8 or uint16, compressed, with exactly the geometry of `like`.

    As DICOM (.dcm) it is a segmentation of the images that `like` was read from, with the codes of
    `runtime.io.dicom.seg.SegmentationOptions`, and objects of a result may overlap; as .rtstruct.dcm, a structure set
    of them.

    NIfTI holds geometry as float32 and rounds it so; a mask of a NIfTI file carries that file's
    qform and sform, bit by bit. The file appears whole or not at all, and only after it has been
    read back and found to be what was to be written. Raises as check_mask_path does, and
    InputError for labels of another shape or dtype and for `like` that is no volume, Sam2Error when the writing itself
    fails.
    """
    path = check_mask_path(path)
    if not isinstance(like, Volume):
        raise InputError(
            f"found a {type(like).__name__} to be like; wanted the volume that the mask is of"
        )
    if is_segmentation(path):
        write_segmentation(path, labels if isinstance(labels, HasMasks) else _labels(labels), like)
        return
    if is_structures(path):
        write_structures(path, labels if isinstance(labels, HasMasks) else _labels(labels), like)
        return
    labels = _labels(labels)
    check_labels(labels, like.shape, like.source)
    pieces = FORMATS[_suffix(path)]
    write_whole(
        path,
        lambda part: _write(part, pieces(labels, like)),
        lambda part: _check_written(part, path, labels, like),
    )


def _write(part: Path, pieces: Iterator[bytes]) -> None:
    with part.open("wb") as file:
        file.writelines(pieces)


def is_segmentation(path: Path) -> bool:
    """Whether a mask of that name is written as a DICOM Segmentation."""
    return _suffix(path) == SEGMENTATION_SUFFIX


def is_structures(path: Path) -> bool:
    """Whether a mask of that name is written as an RT Structure Set."""
    return _suffix(path) == STRUCTURES_SUFFIX


def _labels(labels: NDArray[Any] | HasLabels) -> NDArray[Any]:
    """Labels, or those of a result. Raises InputError for anything else."""
    if not isinstance(labels, np.ndarray):
        if not hasattr(labels, "labels"):
            kind = type(labels).__name__
            raise InputError(f"found a {kind}; wanted labels: an array (z, y, x), or a result")
        labels = labels.labels()
    if isinstance(labels, np.ma.MaskedArray):
        raise InputError("found labels that are masked; wanted all: fill them, labels.filled(0)")
    return labels


def _suffix(path: Path) -> str:
    for suffix in MASK_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(
        f"{path} has no suffix a mask is written as; wanted {', '.join(MASK_SUFFIXES)}"
    )


def _check_written(part: Path, path: Path, labels: NDArray[Any], like: Volume) -> None:
    """Reads a mask back; Sam2Error when it is not what was to be written."""
    try:
        wrong = _difference(part, labels, like)
    except VolumeError as error:
        wrong = str(error)
    if wrong:
        raise Sam2Error(f"{path} could not be written: read back, {wrong}; is the disk full?")


def _difference(part: Path, labels: NDArray[Any], like: Volume) -> str:
    """What is wrong with a mask that was written, or nothing."""
    is_nifti = part.name.lower().endswith(NIFTI_SUFFIXES)
    forms = nifti_forms(like)
    asked = forms.taken if is_nifti and forms.taken in AFFINES else None
    there = read_volume(part, affine=asked)
    if there.array.dtype != labels.dtype or there.shape != labels.shape:
        return f"it is of dtype {there.array.dtype} and shape {there.shape}"
    if not all(map(np.array_equal, there.array, labels)):  # by slices, which needs no memory
        return "its labels are others"
    rounding = _NIFTI_ROUNDING if is_nifti else _ROUNDING
    here, meant = _corners_mm(there), _corners_mm(like)
    if not np.abs(here - meant).max() <= rounding * max(1.0, np.abs(meant).max()):
        return "it lies elsewhere"
    if there.nifti is not None and not forms.says_the_same(there.nifti):
        return f"its affines are {there.nifti} where {forms} were meant"
    return ""


def _corners_mm(volume: Volume) -> NDArray[np.float64]:
    """LPS positions of the eight outermost voxels."""
    ends = ((0, length - 1) for length in volume.shape[::-1])
    corners: NDArray[np.float64] = np.array([*product(*ends, (1,))]) @ volume.affine[:3].T
    return corners
