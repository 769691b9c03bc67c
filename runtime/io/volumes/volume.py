"""A 3-D scalar image and where it lies in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import VolumeError
from runtime.io.volumes.itk import sitk
from runtime.io.volumes.nifti_forms import NiftiForms

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# Directions written as six decimals pass; a shear that would move a mask by a voxel does not.
ORTHONORMAL_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """Where the pixels of one slice came from: a DICOM file, and which of its frames, from 1."""

    path: Path
    number: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A volume of one value per voxel.

    Attributes:
        array: (z, y, x), any integer or float dtype; NaN is allowed.
        spacing_mm: voxel size in (z, y, x) order.
        origin_mm: centre of voxel (0, 0, 0) in LPS world coordinates, (x, y, z) order.
        direction: row-major 3 x 3 whose columns are the world directions of the x, y and z axes (SimpleITK's order).
        modality: DICOM's word ("CT", "MR", ...) or None when the source does not say.
        source: where it came from, for messages.
        nifti: both affines of the NIfTI file it was read from, which its masks carry on.
        unit: of length, a key of `units.UNITS_MM`, in which the NRRD or MetaImage says it that this was read from; such
            masks do too.
        frames: of DICOM, one for each slice along z; what is written as DICOM refers to them.

    Raises VolumeError for an array that is not 3-D, is empty or not numeric, and for a geometry that is not positive,
    finite and orthonormal.
    """

    array: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY
    modality: str | None = None
    source: str = "array"
    nifti: NiftiForms | None = None
    frames: tuple[SourceFrame, ...] = ()
    unit: str = "mm"

    def __post_init__(self) -> None:
        _check_array(self.array, self.source)
        _check_geometry(self.spacing_mm, self.origin_mm, self.direction, self.source)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) in voxels."""
        depth, height, width = self.array.shape
        return depth, height, width

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 x 4 from voxel (x, y, z, 1) to LPS millimetres."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing_mm[::-1]
        affine[:3, 3] = self.origin_mm
        return affine

    @classmethod
    def from_array(
        cls,
        array: ArrayLike,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        modality: str | None = None,
    ) -> Self:
        """A volume from an array (z, y, x), axis-aligned with its first voxel at the world's origin.

        `spacing_mm` is in (z, y, x) order. The array is not copied. Raises VolumeError.
        """
        if type(array).__module__.startswith("SimpleITK"):  # a list of voxels to numpy
            raise VolumeError(
                "found a SimpleITK image; wanted an array (z, y, x), or a volume: Volume.from_image(image)"
            )
        try:
            voxels = np.asanyarray(array)  # a masked one as such, to be refused
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(array).__name__
            raise VolumeError(f"a {kind} is no array: {error}; wanted one (z, y, x)") from error
        _check_masked(voxels, "array")
        return cls(np.asarray(voxels), _floats(spacing_mm), modality=modality)

    @classmethod
    def from_image(cls, image: Any, modality: str | None = None, source: str = "image") -> Self:
        """A volume from a 3-D scalar SimpleITK image; the voxels are copied. Raises VolumeError."""
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise VolumeError(
                f"{source}: found a {image.GetDimension()}-D image with "
                f"{image.GetNumberOfComponentsPerPixel()} values per voxel; wanted 3-D with one"
            )
        return cls(
            sitk.GetArrayFromImage(image),
            _floats(image.GetSpacing()[::-1]),
            _floats(image.GetOrigin()),
            tuple(float(value) for value in image.GetDirection()),
            modality,
            source,
        )

    def to_image(self) -> Any:
        """This volume as a SimpleITK image; float16 becomes float32, which ITK can hold."""
        array = self.array.astype(np.float32) if self.array.dtype == np.float16 else self.array
        image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("="), copy=False))
        image.SetSpacing(self.spacing_mm[::-1])
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)
        return image


def _floats(values: Sequence[float]) -> tuple[float, float, float]:
    try:
        first, second, third = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise VolumeError(f"found {values!r}; wanted three numbers") from error
    return first, second, third


def _check_masked(array: NDArray[Any], source: str) -> None:
    """Raise VolumeError for values under a mask, which numpy drops without a word."""
    if np.ma.is_masked(array):
        raise VolumeError(
            f"{source}: found voxels that are masked; wanted all: fill them, such as array.filled(array.min())"
        )


def _check_array(array: NDArray[Any], source: str) -> None:
    _check_masked(array, source)
    if array.ndim != 3:
        raise VolumeError(
            f"{source}: found an array of shape {array.shape}; wanted three axes (z, y, x); "
            "take one channel or time point with array[..., 0], add an axis with array[None]"
        )
    if array.size == 0:
        raise VolumeError(f"{source}: found an empty array of shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{source}: found voxels of dtype {array.dtype}; wanted integers or floats; "
            "convert them with array.astype(...)"
        )


def _check_geometry(
    spacing_mm: Sequence[float], origin_mm: Sequence[float], direction: Sequence[float], source: str
) -> None:
    if len(spacing_mm) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing_mm):
        raise VolumeError(f"{source}: found spacing {spacing_mm} mm; wanted three positive numbers")
    if len(origin_mm) != 3 or not np.isfinite(origin_mm).all():
        raise VolumeError(f"{source}: found origin {origin_mm} mm; wanted three finite numbers")
    if len(direction) != 9 or not np.isfinite(direction).all():
        raise VolumeError(f"{source}: found direction {direction}; wanted nine finite numbers")
    # The products of more than 2 may overflow.
    axes = np.asarray(direction, np.float64).reshape(3, 3).clip(-2, 2)
    error = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if not error <= ORTHONORMAL_TOLERANCE:
        raise VolumeError(
            f"{source}: the axes {tuple(direction)} are not orthonormal (off by {error:.2g}); "
            "wanted an unsheared grid; resample the volume onto one first, for instance with "
            "3D Slicer's Resample Scalar Volume"
        )
