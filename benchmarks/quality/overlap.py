"""How well two masks agree, in overlap and in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.itk import sitk

Mask = NDArray[np.bool_]
NSD_TOLERANCE_MM = 2.0  # MedSAM2's


@dataclass(frozen=True, slots=True)
class Agreement:
    """Dice and IoU, 95th percentile of surface distance and share of surface within `NSD_TOLERANCE_MM`.

    Distances are NaN where one of the masks is empty; two empty masks agree fully.
    """

    dice: float
    iou: float
    hd95_mm: float
    nsd: float


def dice(mask: Mask, truth: Mask) -> float:
    """Dice coefficient; 1 if both are empty."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def compare(mask: Mask, truth: Mask, spacing_mm: tuple[float, float, float]) -> Agreement:
    """All measures of two masks (z, y, x) with voxels of `spacing_mm` (z, y, x)."""
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    iou = both / either if either else 1.0
    if not mask.any() or not truth.any():
        empty = 1.0 if not either else 0.0
        return Agreement(dice(mask, truth), iou, float("nan"), empty)
    where = tuple(slice(span.min(), span.max() + 1) for span in np.nonzero(mask | truth))
    near, real = np.pad(mask[where], 1), np.pad(truth[where], 1)  # nothing beyond matters
    to_truth, to_mask = (_distances_mm(a, b, spacing_mm) for a, b in ((near, real), (real, near)))
    distances = np.concatenate([to_truth, to_mask])
    hd95 = max(float(np.percentile(d, 95)) for d in (to_truth, to_mask))
    return Agreement(dice(mask, truth), iou, hd95, float((distances <= NSD_TOLERANCE_MM).mean()))


def _distances_mm(a: Mask, b: Mask, spacing_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Distances from every surface voxel of `a` to the surface of `b`."""
    image_a, image_b = _image(a, spacing_mm), _image(b, spacing_mm)
    surface = sitk.GetArrayFromImage(sitk.LabelContour(image_a, True)) > 0
    contour = sitk.LabelContour(image_b, True)
    distance = sitk.Abs(sitk.SignedMaurerDistanceMap(contour, False, False, True))
    values: NDArray[np.float32] = sitk.GetArrayFromImage(distance)[surface]
    return values


def _image(mask: Mask, spacing_mm: tuple[float, float, float]) -> object:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    return image
