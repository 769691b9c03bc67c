"""Writing a label mask onto the grid of the volume it was made for."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, MissingInput, Sam2Error, VolumeError
from runtime.io.intact import check_intact
from runtime.io.itk import quiet, reason, sitk
from runtime.io.volume import Volume

# Formats that are one file each: a header with its data beside it cannot be replaced in one step.
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def check_mask_path(path: str | PathLike[str]) -> Path:
    """`path` if a mask can be written there.

    Raises InputError for a suffix that is not written, a folder of that name or a folder that may
    not be written to, and MissingInput when the folder it would go into does not exist.
    """
    path = Path(path)
    _suffix(path)
    if not path.parent.is_dir():
        raise MissingInput(f"{path.parent} is not a folder; make it before writing {path.name}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; wanted the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent} may not be written to; choose another folder")
    return path


class HasLabels(Protocol):
    """A result that knows its labels (z, y, x), uint8 or uint16."""

    def labels(self) -> NDArray[Any]: ...


def write_mask(path: str | PathLike[str], labels: NDArray[Any] | HasLabels, like: Volume) -> None:
    """Writes labels (z, y, x) uint8 or uint16, compressed, with exactly the geometry of `like`.

    NIfTI holds geometry as float32 and rounds it so. The file appears whole or not at all: it is
    written beside its destination and then moved over it. Raises as check_mask_path does, and
    InputError for labels of another shape or dtype, Sam2Error when the writing itself fails.
    """
    path = check_mask_path(path)
    labels = labels if isinstance(labels, np.ndarray) else labels.labels()
    _check_labels(labels, like)
    suffix = _suffix(path)
    part = path.with_name(f".{uuid4().hex}{suffix}")
    try:
        with quiet():
            sitk.WriteImage(like.place(labels), str(part), useCompression=True)
        check_intact(part, suffix)
        os.replace(part, path)
    except (RuntimeError, OSError, VolumeError) as error:
        why = reason(error) if isinstance(error, RuntimeError) else str(error)
        raise Sam2Error(f"{path} could not be written: {why}; is the disk full?") from error
    finally:
        part.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path} has no suffix a mask is written as; wanted {', '.join(SUFFIXES)}")


def _check_labels(labels: NDArray[Any], like: Volume) -> None:
    if labels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"found labels of dtype {labels.dtype}; wanted uint8 or uint16; "
            "convert them with labels.astype(np.uint8)"
        )
    if labels.shape != like.shape:
        raise InputError(
            f"found labels of shape {labels.shape}; wanted {like.shape} (z, y, x), the shape of "
            f"{like.source}"
        )
