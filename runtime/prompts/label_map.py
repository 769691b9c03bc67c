"""Label maps as prompts: whatever somebody has drawn, or another program, asks for the same objects again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PromptError
from runtime.io.dicom import is_dicom, read_segmentation
from runtime.io.read import read_volume
from runtime.io.volumes.npz import read_npz_labels
from runtime.io.volumes.volume import Volume
from runtime.prompts.key_slices import key_slices
from runtime.prompts.prompt_file import Calls
from runtime.prompts.prompts import MAX_OBJECT_ID, Box, Mask

LABELS_AS = {
    "box": "a box about each object on the slice where it is largest",
    "masks": "the object itself on up to eight of its slices",
}
OFF_VOXELS = 0.25  # how far a corner of the map may lie from that of the volume


def calls_of_labels(path: Path, like: Volume, labels_as: str = "box") -> Calls:
    """Prompts for every object of a label map (NIfTI, NRRD, MetaImage, `gts` of an .npz) or DICOM Segmentation.

    Args:
        path: of the file; a label is the object's id.
        like: the volume that it belongs to, on whose grid it has to lie.
        labels_as: a key of `LABELS_AS`.

    Raises PromptError for what has no labels or another grid, and what the readers raise.
    """
    masks = _masks(path, like)
    if not masks:
        raise PromptError(f"{path} has no object: all of it is 0; wanted a label for each")
    calls: Calls = []
    for object_id, mask in masks.items():
        areas = np.count_nonzero(mask, axis=(1, 2))
        if labels_as == "box":
            calls.append((object_id, [_box(mask, int(areas.argmax()))]))
        else:
            calls += [(object_id, [Mask(slice=i, mask=mask[i])]) for i in key_slices(areas)]
    return calls


def _masks(path: Path, like: Volume) -> dict[int, NDArray[np.bool_]]:
    if path.suffix.lower() == ".npz":
        return _by_label(read_npz_labels(path), like, path)
    if path.is_file() and (path.suffix.lower() == ".dcm" or is_dicom(path)):
        segments = read_segmentation(path, like=like)
        masks = {i: segments.mask(i) for i in segments.object_ids}
        return {i: mask for i, mask in masks.items() if mask.any()}
    labels = read_volume(path)
    check_place(labels, like, path)
    return _by_label(labels.array, like, path)


def _by_label(labels: NDArray[Any], like: Volume, path: Path) -> dict[int, NDArray[np.bool_]]:
    _check_shape(labels.shape, like, path)
    values = np.unique(labels)
    if labels.dtype.kind not in "buif" or not (values == np.rint(values)).all():
        raise PromptError(f"{path} holds {labels.dtype} with fractions; wanted labels")
    if values[0] < 0 or values[-1] > MAX_OBJECT_ID:
        raise PromptError(
            f"{path} holds values from {values[0]} to {values[-1]}; wanted labels from 0 to {MAX_OBJECT_ID}"
        )
    return {int(value): labels == value for value in values if value}


def _check_shape(shape: tuple[int, ...], like: Volume, path: Path) -> None:
    if shape != like.shape:
        raise PromptError(f"{path} is {shape}, the volume is {like.shape} (z, y, x)")


def check_place(labels: Volume, like: Volume, path: Path) -> None:
    """Raise PromptError unless voxels lie where the volume's do: another order of axes gives the same shape."""
    _check_shape(labels.shape, like, path)
    ends = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners = (ends * [*(np.array(like.shape[::-1]) - 1), 1]) @ (labels.affine - like.affine)[:3].T
    if not np.abs(corners).max() <= OFF_VOXELS * min(like.spacing_mm):
        raise PromptError(
            f"{path} lies elsewhere than {like.source}: corners differ by {np.abs(corners).max():.3g} mm; wanted a "
            "label map on the volume's own grid"
        )


def _box(mask: NDArray[np.bool_], index: int) -> Box:
    y, x = (np.flatnonzero(mask[index].any(axis)) for axis in (1, 0))
    return Box(slice=index, y=(float(y[0]), float(y[-1] + 1)), x=(float(x[0]), float(x[-1] + 1)))
