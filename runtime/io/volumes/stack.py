"""Whether slices form one regular grid, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError

# Largest difference between two direction cosines that still counts as the same orientation;
# scanners write five or six decimals.
ORIENTATION_TOLERANCE = 1e-3
# A gap may differ from the median by this share of it, or by this much, whichever is more.
GAP_TOLERANCE = 0.01
GAP_TOLERANCE_MM = 0.01
# A quarter of a voxel is as far as a mask may be from what it was drawn on (`runtime.prompts.label_map`).
OFF_GRID_SHARE = 0.25
# Positions are written with two decimals by some: whatever the gaps are then, slices lie this near to an even grid,
# and nearer than this share of its spacing, which a missing slice would not.
ROUNDED_MM, ROUNDED_SHARE = 0.02, 0.1
# Slices nearer than this lie on top of each other.
DUPLICATE_MM = 1e-3
LARGEST_MM = 1e6  # a kilometre; farther away nothing lies that was scanned


@dataclass(frozen=True, slots=True)
class ImagePlane:
    """Where one slice lies: DICOM's Image Position and Image Orientation (Patient), PS3.3 C.7.6.2.

    Attributes:
        name: for messages.
        position_mm: LPS (x, y, z) of the centre of the first pixel.
        orientation: direction cosines along a row, then along a column; six numbers.
    """

    name: str
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices as a grid.

    Attributes:
        order: indices of the slices by increasing position along the normal.
        spacing_mm: distance between neighbours; None for a single slice.
        origin_mm: (x, y, z) of the first slice in that order.
        direction: row-major 3 x 3, columns along a row, along a column, along the normal.
    """

    order: tuple[int, ...]
    spacing_mm: float | None
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]


def stack_planes(planes: Sequence[ImagePlane]) -> Stack:
    """The grid that `planes` (at least one, in any order) form.

    Raises SeriesError for mixed orientations and two slices in one place; and unless all lie within
    0.02 mm of an even grid, for gaps that differ by more than max(1 % of the median, 0.01 mm), a slice
    that lies a quarter of the spacing from the grid and slices that slide sideways (gantry tilt).
    """
    _check_numbers(planes)
    _check_orientations(planes)
    axes = _axes(planes[0])
    positions_mm = np.array([plane.position_mm for plane in planes], np.float64)
    order = np.argsort(positions_mm @ axes[:, 2], kind="stable")
    sorted_planes = [planes[index] for index in order]
    steps_mm = np.diff(positions_mm[order], axis=0)
    offsets_mm = (positions_mm[order] - positions_mm[order[0]]) @ axes
    if len(steps_mm) and not _is_even(offsets_mm):
        _check_gaps(sorted_planes, steps_mm @ axes[:, 2])
        _check_grid(sorted_planes, offsets_mm)
        _check_tilt(sorted_planes, offsets_mm)
    x_mm, y_mm, z_mm = positions_mm[order[0]].tolist()
    return Stack(
        tuple(order.tolist()),
        float(np.mean(steps_mm @ axes[:, 2])) if len(steps_mm) else None,
        (x_mm, y_mm, z_mm),
        tuple(axes.ravel().tolist()),
    )


def _axes(plane: ImagePlane) -> NDArray[Any]:
    """Columns: row direction, column direction, normal; made exactly orthonormal."""
    along_row, along_column = np.array(plane.orientation, np.float64).reshape(2, 3)
    lengths = np.array([np.linalg.norm(along_row), np.linalg.norm(along_column)])
    skew = abs(float(along_row @ along_column))
    if not (skew <= ORIENTATION_TOLERANCE and (abs(lengths - 1) <= ORIENTATION_TOLERANCE).all()):
        raise SeriesError(
            f"{plane.name}: its orientation {plane.orientation} is not two perpendicular unit "
            "vectors; export the series again"
        )
    along_row = along_row / lengths[0]
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    return np.stack([along_row, np.cross(normal, along_row), normal], axis=1)


def _check_numbers(planes: Sequence[ImagePlane]) -> None:
    for plane in planes:
        numbers = np.array([*plane.position_mm, *plane.orientation], np.float64)
        if not (np.abs(numbers) <= LARGEST_MM).all():
            raise SeriesError(
                f"{plane.name}: found position {plane.position_mm} and orientation {plane.orientation}; wanted "
                "numbers; export the series again"
            )


def _check_orientations(planes: Sequence[ImagePlane]) -> None:
    first = planes[0]
    for plane in planes[1:]:
        difference = float(np.abs(np.subtract(plane.orientation, first.orientation)).max())
        if not difference <= ORIENTATION_TOLERANCE:
            raise SeriesError(
                f"{plane.name} and {first.name} lie in different directions ({plane.orientation} "
                f"and {first.orientation}); wanted parallel slices; take localisers and other "
                "views out of the series"
            )


def _is_even(offsets_mm: NDArray[Any]) -> bool:
    """Whether slices are on an even grid but for rounding; one row per slice, in the coordinates of the slices."""
    spacing_mm = float(offsets_mm[-1, 2]) / (len(offsets_mm) - 1)
    errors_mm = offsets_mm.copy()
    errors_mm[:, 2] -= spacing_mm * np.arange(len(offsets_mm))
    worst_mm = float(np.linalg.norm(errors_mm, axis=1).max())
    return spacing_mm >= DUPLICATE_MM and worst_mm <= min(ROUNDED_MM, ROUNDED_SHARE * spacing_mm)


def _check_gaps(planes: Sequence[ImagePlane], gaps_mm: NDArray[Any]) -> None:
    nearest = int(np.argmin(gaps_mm))
    if not gaps_mm[nearest] >= DUPLICATE_MM:
        raise SeriesError(
            f"{planes[nearest].name} and {planes[nearest + 1].name} lie in the same place; wanted "
            "one slice per position; keep a single time point, phase or echo of the series"
        )
    median_mm = float(np.median(gaps_mm))
    errors_mm = np.abs(gaps_mm - median_mm)
    worst = int(np.argmax(errors_mm))
    if not errors_mm[worst] <= max(GAP_TOLERANCE_MM, GAP_TOLERANCE * median_mm):
        raise SeriesError(
            f"slices are unevenly spaced: {planes[worst].name} and {planes[worst + 1].name} are "
            f"{gaps_mm[worst]:.4g} mm apart where {median_mm:.4g} mm is usual; a slice may be "
            "missing; add it, or resample the series onto an even grid"
        )


def _check_grid(planes: Sequence[ImagePlane], offsets_mm: NDArray[Any]) -> None:
    """Small errors of gaps may add up; one row per slice, in the coordinates of the slices."""
    spacing_mm = float(offsets_mm[-1, 2]) / (len(planes) - 1)
    errors_mm = np.abs(offsets_mm[:, 2] - spacing_mm * np.arange(len(planes)))
    worst = int(np.argmax(errors_mm))
    if not errors_mm[worst] <= OFF_GRID_SHARE * spacing_mm:
        raise SeriesError(
            f"slices are unevenly spaced: {planes[worst].name} lies {errors_mm[worst]:.4g} mm from where slices every "
            f"{spacing_mm:.4g} mm would have it; wanted one spacing; resample the series onto an even grid"
        )


def _check_tilt(planes: Sequence[ImagePlane], offsets_mm: NDArray[Any]) -> None:
    """offsets_mm: one row per slice, in the coordinates of the slices (along row, column, normal)."""
    steps_mm = np.diff(offsets_mm, axis=0)
    slack_mm = max(GAP_TOLERANCE_MM, GAP_TOLERANCE * float(np.median(steps_mm[:, 2])))
    for step_mm, (here, there) in zip(steps_mm, pairwise(planes), strict=True):
        _check_slide(step_mm, here, there, max(GAP_TOLERANCE_MM, GAP_TOLERANCE * step_mm[2]))
    for offset_mm, plane in zip(offsets_mm, planes, strict=True):
        _check_slide(
            offset_mm, planes[0], plane, max(slack_mm, ORIENTATION_TOLERANCE * offset_mm[2])
        )


def _check_slide(step_mm: NDArray[Any], here: ImagePlane, there: ImagePlane, most: float) -> None:
    drift_mm = float(np.hypot(step_mm[0], step_mm[1]))
    if not drift_mm <= most:
        raise SeriesError(
            f"slices slide sideways: {there.name} lies {drift_mm:.4g} mm off the normal through {here.name}, over "
            f"{step_mm[2]:.4g} mm (gantry tilt?); wanted slices stacked straight; resample the series onto a straight "
            "grid first"
        )
