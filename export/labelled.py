"""Labelled volumes as cases to prompt: one object each, the prompt a careful user would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import Box, Mask, Point, Volume, read_volume
from runtime.errors import MissingInput, VolumeError
from runtime.prompts import Prompt

PROMPTS = ("box", "click", "mask")
MIN_AREA = 40  # voxels on the prompted slice
MIN_SLICES = 3
LABEL_SUFFIX = "_label"


@dataclass(frozen=True, slots=True)
class Case:
    """One object in one volume.

    Attributes:
        name: of volume and object.
        volume: with geometry.
        truth: (z, y, x).
        key: the slice to be prompted.
        is_flow: slices are unrelated pictures.
    """

    name: str
    volume: Volume
    truth: NDArray[np.bool_]
    key: int
    is_flow: bool = False


def folder_cases(folder: Path) -> Iterator[Case]:
    """Every labelled object of every volume in a folder. Raises MissingInput if there is none."""
    archives = sorted(folder.glob("*.npz"))
    pairs = sorted(folder.glob(f"*{LABEL_SUFFIX}.nii*"))
    if not archives and not pairs:
        raise MissingInput(
            f"{folder} holds no .npz and no NAME.nii.gz with NAME{LABEL_SUFFIX}.nii.gz"
        )
    for path in archives:
        with np.load(path, allow_pickle=False) as archive:
            if "gts" not in archive:
                raise VolumeError(f"{path} has no 'gts'; wanted a label volume beside 'imgs'")
            labels = archive["gts"]
        yield from _labelled(path.stem, read_volume(path), labels)
    for path in pairs:
        image = path.with_name(path.name.replace(LABEL_SUFFIX, ""))
        yield from _labelled(image.name, read_volume(image), read_volume(path).array)


def _labelled(name: str, volume: Volume, labels: NDArray[Any]) -> Iterator[Case]:
    if labels.shape != volume.shape:
        raise VolumeError(f"{name}: labels are {labels.shape}, the volume is {volume.shape}")
    for label, truth, key in objects(labels):
        yield Case(f"{name} object {label}", volume, truth, key)


def objects(labels: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_], int]]:
    """Label, mask and middle slice of each object that is large enough there; the middle of where it is."""
    found = []
    for label in np.unique(labels[labels > 0]):
        truth = labels == label
        areas = truth.sum((1, 2))
        present = np.flatnonzero(areas)
        key = int(present[len(present) // 2])
        if len(present) >= MIN_SLICES and areas[key] >= MIN_AREA:
            found.append((int(label), truth, key))
    return found


def draw_prompt(kind: str, truth: NDArray[np.bool_], key: int) -> Prompt:
    """The prompt a careful user would give: a tight box, a click deep inside, or the mask itself."""
    if kind == "mask":
        return Mask(slice=key, mask=truth[key])
    rows, columns = np.nonzero(truth[key])
    if kind == "box":
        y, x = ((int(v.min()), int(v.max()) + 1) for v in (rows, columns))
        return Box(slice=key, y=y, x=x)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return Point(slice=key, y=int(rows[middle]), x=int(columns[middle]))
