"""What of a file's axes is a 3-D volume of one value per voxel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import VolumeError


def volume_shape(lengths: Sequence[int], path: Path, values: int = 1) -> tuple[int, int, int]:
    """(z, y, x) out of the lengths of axes x, y, z and further ones of length 1.

    Args:
        lengths: of the axes, in that order.
        path: for messages.
        values: how many numbers a voxel has.

    Raises VolumeError, which says what to do, where that is no single scalar volume.
    """
    if values != 1:
        raise several_values(path, f"{values} of them")
    if len(lengths) < 3:
        raise VolumeError(
            f"{path}: found a 2-D image of size {lengths} (x, y); wanted a 3-D volume"
        )
    if any(length != 1 for length in lengths[3:]):
        raise VolumeError(
            f"{path}: found {len(lengths)} axes of size {lengths} (x, y, z, time...); wanted 3; "
            "save one time point, for instance with nibabel: "
            "image.slicer[..., 0].to_filename('one.nii.gz')"
        )
    width, height, depth = lengths[:3]
    return depth, height, width


def several_values(path: Path, what: str) -> VolumeError:
    """The error for colours, vectors and complex numbers."""
    return VolumeError(
        f"{path}: found several values per voxel ({what}); wanted one; "
        "save one channel as a volume of its own"
    )
