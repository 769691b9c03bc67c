"""Labelled volumes as cases to prompt: one object each, the prompt a careful user would give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import Box, Mask, Point, Volume, read_volume
from runtime.errors import MissingInput, VolumeError
from runtime.io.volumes.npz import read_npz_labels
from runtime.prompts.prompts import Prompt

PROMPTS = ("box", "click", "mask")
MIN_AREA = 40  # voxels on the prompted slice
MIN_SLICES = 3
LABEL_SUFFIX = "_label"
EXPORTED = ("images", "labels")  # folders of medsam2 cohort export
MAX_LABELS = 1000  # of one volume
PLACE_TOLERANCE = 1e-3  # of a voxel, and of a unit vector


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


@dataclass(frozen=True, slots=True)
class LabelledVolume:
    """A volume and its labels as they lie in a folder, not read yet.

    Attributes:
        name: what its objects are called after.
        path: of the volume.
        labels_path: of its labels; None for an .npz, which holds both.
    """

    name: str
    path: Path
    labels_path: Path | None = None

    def cases(self) -> Iterator[Case]:
        """Its objects. Raises VolumeError for what cannot be read, or for labels that are none or lie elsewhere."""
        volume = read_volume(self.path)
        if self.labels_path is None:
            yield from _labelled(self.name, volume, read_npz_labels(self.path))
            return
        labels = read_volume(self.labels_path)
        _check_place(volume, labels)
        yield from _labelled(self.name, volume, labels.array)


def labelled_volumes(folder: Path) -> list[LabelledVolume]:
    """The volumes of a folder that have labels.

    These are .npz, NAME.nii.gz with NAME_label.nii.gz, and images/NAME.nii.gz with labels/NAME.nii.gz; the first and
    last at any depth, as `medsam2 cohort export` writes them. Raises MissingInput if there is none.
    """
    if not folder.is_dir():
        raise MissingInput(f"{folder} is not a folder; wanted one with labelled volumes")
    archives, pairs = sorted(folder.rglob("*.npz")), dict(_pairs(folder))
    if not archives and not pairs:
        raise MissingInput(
            f"{folder} holds no .npz, no NAME.nii.gz with NAME{LABEL_SUFFIX}.nii.gz, and no {EXPORTED[0]}/NAME.nii.gz "
            f"with {EXPORTED[1]}/NAME.nii.gz, as medsam2 cohort export writes them"
        )
    return [
        *(LabelledVolume(_called(p.with_suffix(""), folder), p) for p in archives),
        *(LabelledVolume(_called(p, folder), p, labels) for p, labels in pairs.items()),
    ]


def folder_cases(folder: Path) -> Iterator[Case]:
    """Every labelled object of every volume in a folder, one volume at a time; raises what these raise."""
    return some_cases(labelled_volumes(folder), None)


def some_cases(volumes: Iterable[LabelledVolume], count: int | None) -> Iterator[Case]:
    """The first objects of each volume, `count` of them; None is all."""
    for volume in volumes:
        yield from islice(volume.cases(), count)


def _called(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Paths of volumes and of their labels."""
    for path in sorted(folder.glob(f"*{LABEL_SUFFIX}.nii*")):
        name, _, suffixes = path.name.rpartition(LABEL_SUFFIX)
        yield path.with_name(name + suffixes), path
    images, labels = (folder / name for name in EXPORTED)
    for path in sorted(labels.rglob("*.nii*")):
        yield images / path.relative_to(labels), path


def _check_place(volume: Volume, labels: Volume) -> None:
    """Raise VolumeError where labels have the volume's shape but not its place, and would be compared shifted."""
    limit_mm = PLACE_TOLERANCE * min(volume.spacing_mm)
    is_there = (
        np.allclose(volume.spacing_mm, labels.spacing_mm, rtol=PLACE_TOLERANCE, atol=0)
        and np.allclose(volume.origin_mm, labels.origin_mm, rtol=0, atol=limit_mm)
        and np.allclose(volume.direction, labels.direction, rtol=0, atol=PLACE_TOLERANCE)
    )
    if not is_there:
        raise VolumeError(
            f"{labels.source} lies elsewhere than {volume.source} (spacing, origin or direction differ): "
            "resample it onto the volume's grid"
        )


def _labelled(name: str, volume: Volume, labels: NDArray[Any]) -> Iterator[Case]:
    if labels.shape != volume.shape:
        raise VolumeError(f"{name}: labels are {labels.shape}, the volume is {volume.shape}")
    if labels.dtype.kind not in "biuf":
        raise VolumeError(f"{name}: labels are of type {labels.dtype}, wanted integers")
    if not (np.isfinite(labels).all() and (labels == np.round(labels)).all() and labels.min() >= 0):
        raise VolumeError(f"{name}: labels are not all whole numbers from 0 up")
    if (count := len(np.unique(labels))) > MAX_LABELS:
        raise VolumeError(
            f"{name}: found {count} different labels, more than {MAX_LABELS}; is that an image?"
        )
    for label, truth, key in objects(labels):
        yield Case(f"{name} object {label}", volume, truth, key)


def objects(labels: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_], int]]:
    """Label, mask and middle slice of each object that is large enough there; the middle of where it is."""
    chosen = []
    for label in np.unique(labels[labels > 0]):
        truth = labels == label
        areas = truth.sum((1, 2))
        present = np.flatnonzero(areas)
        key = int(present[len(present) // 2])
        if len(present) >= MIN_SLICES and areas[key] >= MIN_AREA:
            chosen.append((int(label), truth, key))
    return chosen


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
