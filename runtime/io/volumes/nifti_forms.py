"""The two affines of a NIfTI header, qform and sform, and which of them is meant.

Rules: nifti1.h (NIH) for what the fields say, nibabel for what they leave open.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

AFFINES = ("qform", "sform")
CODES = range(6)  # unknown, scanner, aligned, Talairach, MNI, other template
UNIT_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # unknown (taken as mm), metre, millimetre, micrometre
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# The first number of a quaternion is not written down: it is the root of what the squares of the
# others, in float32 or float64, leave of 1. They may be off by this much (nibabel's thresholds), and
# what is no more is 0: half turns are common, and quaternions next to them are not.
_SQUARES_ERROR = 3 * 2.0**-23
_SQUARES_ERRORS = {1: _SQUARES_ERROR, 2: 3 * 2.0**-52}
# Two affines that differ by no more were rounded: direction cosines have five or six decimals ...
_ANGLE_ERROR = 1e-4
# ... and coordinates are float32.
_COORDINATE_ERROR = 2.0**-22

Numbers = tuple[float, float, float]
Grid = tuple[Numbers, Numbers, tuple[float, ...]]
"""Spacing (z, y, x) in mm, origin (x, y, z) in LPS and direction, as Volume has them."""


@dataclass(frozen=True, slots=True)
class NiftiForms:
    """What a NIfTI header says about where its voxels lie, as it stands there.

    Attributes:
        qform_code, sform_code: of `CODES`; 0 says nothing.
        pixdim: qfac (the sign of the z axis in the qform), then voxel size along x, y and z.
        quatern: b, c and d of the unit quaternion whose first number is sqrt(1 - b*b - c*c - d*d).
        qoffset: position of voxel (0, 0, 0) by the qform.
        srow: the first three rows of the sform, row-major.
        unit: unit of length: 0 unknown, 1 metre, 2 millimetre, 3 micrometre (NIfTI's own code).
        taken: "qform", "sform", or "neither" where both codes are 0.
        version: 1, whose numbers are float32, or 2, whose are float64.
    """

    qform_code: int
    sform_code: int
    pixdim: tuple[float, ...]
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: tuple[float, ...]
    unit: int = 2
    taken: str = "sform"
    version: int = 1

    def affine(self, taken: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """4 x 4 from voxel (x, y, z) to RAS in the header's own unit; shape is (z, y, x).

        Raises ValueError for a form that says nothing.
        """
        if taken == "sform":
            return np.vstack([np.reshape(self.srow, (3, 4)), [0.0, 0.0, 0.0, 1.0]])
        if taken == "qform":
            return self._qform()
        # nibabel's base affine: x to the left, and the middle of the volume at the world's origin.
        lengths = np.array([-1.0, 1.0, 1.0]) * self._lengths()
        middle = (np.array(shape[::-1]) - 1) / 2
        return _affine(np.diag(lengths), -lengths * middle)

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """The grid of the form that is taken, for a volume of that shape (z, y, x)."""
        unit_mm = UNIT_MM[self.unit]
        with np.errstate(all="ignore"):  # Volume refuses what is not finite
            affine = LPS_OF_RAS @ self.affine(self.taken, shape)
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
            direction = affine[:3, :3] / lengths
        x_mm, y_mm, z_mm = (lengths * unit_mm).tolist()
        origin_x_mm, origin_y_mm, origin_z_mm = (affine[:3, 3] * unit_mm).tolist()
        return (
            (z_mm, y_mm, x_mm),
            (origin_x_mm, origin_y_mm, origin_z_mm),
            tuple(direction.ravel().tolist()),
        )

    def disagreement_mm(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """How far apart the forms put a voxel of the volume at most, and what is rounding of it.

        Raises ValueError for a form that says nothing.
        """
        ends = [(0, length - 1) for length in shape[::-1]]
        corners = np.array([*product(*ends, (1,))])
        with np.errstate(all="ignore"):  # infinite forms are as far apart as can be
            there = [corners @ self.affine(taken, shape)[:3].T for taken in AFFINES]
        if not np.isfinite(there).all():
            return inf, 0.0
        apart = float(np.linalg.norm(there[0] - there[1], axis=1).max())
        extent = float(np.linalg.norm(np.ptp(there[1], axis=0)))
        first = max(self._first_of_quaternion(), sqrt(_SQUARES_ERROR))
        angle = _ANGLE_ERROR + 2 * _SQUARES_ERROR / first
        rounding = angle * extent + _COORDINATE_ERROR * float(np.abs(there).max())
        return apart * UNIT_MM[self.unit], rounding * UNIT_MM[self.unit]

    def says_the_same(self, other: NiftiForms) -> bool:
        """Whether another header says the same, as exactly as both can; NaN equals NaN."""
        kind = np.float32 if 1 in (self.version, other.version) else np.float64
        codes = [(forms.qform_code, forms.sform_code, forms.unit) for forms in (self, other)]
        with np.errstate(over="ignore"):
            here, there = (
                np.array([*f.pixdim, *f.quatern, *f.qoffset, *f.srow]).astype(kind)
                for f in (self, other)
            )
        return codes[0] == codes[1] and np.array_equal(here, there, equal_nan=True)

    def _lengths(self) -> NDArray[np.float64]:
        lengths = np.array(self.pixdim[1:], np.float64)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError(f"the voxel size {self.pixdim[1:]} (x, y, z) is not positive")
        return lengths

    def _first_of_quaternion(self) -> float:
        missing = 1.0 - sum(value * value for value in self.quatern)
        if not (isfinite(missing) and missing >= -_SQUARES_ERROR):
            raise ValueError(f"the quaternion {self.quatern} is longer than 1 or not finite")
        return sqrt(missing) if missing > _SQUARES_ERRORS[self.version] else 0.0

    def _qform(self) -> NDArray[np.float64]:
        if self.pixdim[0] not in (-1.0, 0.0, 1.0):
            raise ValueError(f"qfac (pixdim[0]) is {self.pixdim[0]}, where 1 or -1 was wanted")
        signs = np.array([1.0, 1.0, -1.0 if self.pixdim[0] < 0 else 1.0])
        axes = rotation((self._first_of_quaternion(), *self.quatern))
        return _affine(axes * (self._lengths() * signs), np.array(self.qoffset))


def forms_of(
    spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...], direction: tuple[float, ...]
) -> NiftiForms:
    """Both forms, as scanner coordinates in mm, for a grid that was not read from NIfTI."""
    axes = LPS_OF_RAS[:3, :3] @ np.reshape(direction, (3, 3))
    lengths = np.array(spacing_mm[::-1])
    origin = LPS_OF_RAS[:3, :3] @ origin_mm
    qfac = 1.0 if np.linalg.det(axes) > 0 else -1.0
    return NiftiForms(
        qform_code=1,
        sform_code=1,
        pixdim=(qfac, *lengths.tolist()),
        quatern=_quaternion(axes * [1.0, 1.0, qfac])[1:],
        qoffset=tuple(origin.tolist()),
        srow=tuple(_affine(axes * lengths, origin)[:3].ravel().tolist()),
    )


def rotation(quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    """The 3 x 3 rotation of a quaternion (first number real), which need not have length 1."""
    a, b, c, d = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )


def _quaternion(axes: NDArray[np.float64]) -> tuple[float, ...]:
    """The unit quaternion nearest to a rotation matrix, with its first number positive.

    It is the eigenvector of the largest eigenvalue of a symmetric matrix (Bar-Itzhack 2000).
    """
    m = axes
    lower = [
        [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
        [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m.trace()],
    ]
    b, c, d, a = np.linalg.eigh(np.array(lower) / 3)[1][:, -1].tolist()
    sign = -1.0 if a < 0 else 1.0
    return sign * a, sign * b, sign * c, sign * d


def _affine(axes: NDArray[Any], origin: NDArray[Any]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return affine
