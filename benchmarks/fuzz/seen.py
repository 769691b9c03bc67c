"""A volume as one reader sees it, so that readers can be compared: voxels, and where their corners lie."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io import Volume

NEAR = 1e-3
"""Of a voxel's diagonal: float32 headers and six decimals agree better, a wrong field does not."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Voxels (z, y, x) and the affine (4, 4) from voxel indices (x, y, z, 1) to LPS millimetres."""

    array: NDArray[Any]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Seen:
        """What our own reader made of a file."""
        return cls(volume.array, volume.affine)

    def difference(self, other: Seen) -> str | None:
        """What two readers disagree about, or None; voxels may have other types but not other values."""
        if self.array.shape != other.array.shape:
            return f"shape {self.array.shape}, not {other.array.shape}"
        if not np.array_equal(self.array, other.array, equal_nan=self.array.dtype.kind == "f"):
            a, b = (np.asarray(seen.array, np.float64) for seen in (self, other))
            scale = np.nanmax(np.abs(b), initial=1.0)
            close = np.isclose(a, b, rtol=1e-6, atol=1e-6 * scale, equal_nan=True)
            if not close.all():
                return f"{int((~close).sum())} of {close.size} voxels differ"
        last = [side - 1 for side in self.array.shape[::-1]]
        corners = np.array([(*corner, 1) for corner in product(*((0, end) for end in last))])
        gap_mm = np.abs(corners @ (self.affine - other.affine).T).max()
        voxel_mm = np.linalg.norm(other.affine[:3, :3], axis=0).min()
        if not gap_mm <= NEAR * (voxel_mm + np.abs(other.affine).max()):
            return f"corners lie {gap_mm:.6g} mm apart (voxels of {voxel_mm:.6g} mm)"
        return None


def lps_of_ras(affine: NDArray[Any]) -> NDArray[np.float64]:
    """An affine to RAS millimetres (NIfTI) as one to LPS millimetres (DICOM)."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
