"""MedSAM2's .npz files: an 8-bit volume under the key imgs, perhaps its labels and where it lies."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from difflib import get_close_matches
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.files.plain_file import open_plain
from runtime.io.size_limit import new_array
from runtime.io.volumes.inflated import MAX_RATIO
from runtime.io.volumes.volume import IDENTITY, Volume
from runtime.io.volumes.voxels import fill

GRID_KEYS = ("spacing", "origin", "direction")
KEYS = ("imgs", "gts", *GRID_KEYS)
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy writes no others
_SPARE_BYTES = 1 << 16  # what a member may have beside its packed voxels


def read_npz(path: Path) -> Volume:
    """The volume in an .npz: `imgs` (z, y, x) uint8, and if it likes `spacing`, `origin` and
    `direction` in SimpleITK's (x, y, z) order.

    Raises VolumeError.
    """
    arrays = _read(path, ("imgs", *GRID_KEYS))
    x_mm, y_mm, z_mm = _numbers(arrays, "spacing", (1.0,) * 3, path)
    origin_x_mm, origin_y_mm, origin_z_mm = _numbers(arrays, "origin", (0.0,) * 3, path)
    return Volume(
        arrays["imgs"],
        (z_mm, y_mm, x_mm),
        (origin_x_mm, origin_y_mm, origin_z_mm),
        _numbers(arrays, "direction", IDENTITY, path),
        source=str(path),
    )


def read_npz_labels(path: Path) -> NDArray[Any]:
    """`gts` of an .npz, of whatever shape and type of number. Raises VolumeError."""
    return _read(path, ("gts",))["gts"]


def _read(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read those of `keys` that are there; the first has to be.

    Nothing is unpickled, and no array is larger than its member of the archive can hold.
    """
    try:
        with open_plain(path) as stream:
            if stream.read(6) == npy.MAGIC_PREFIX:
                raise VolumeError(f"{path} is a bare array; wanted an .npz with the key imgs")
            with zipfile.ZipFile(stream) as archive:
                arrays = _arrays(archive, keys, path)
                names = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
    except (VolumeError, OSError, MemoryError):
        raise
    except Exception as error:  # numpy, zipfile and the tokenizer of headers raise almost anything
        raise VolumeError(f"{path} cannot be read as .npz: {error}; write it again") from error
    if keys[0] not in arrays:
        raise VolumeError(f"{path}: found the keys {names or 'none'}; wanted {keys[0]} (z, y, x)")
    return arrays


def _arrays(archive: zipfile.ZipFile, keys: Sequence[str], path: Path) -> dict[str, NDArray[Any]]:
    """The arrays that are asked for, by key."""
    arrays = {}
    for member in archive.infolist():
        archive.open(member).close()  # its name stands twice in a zip, and has to be the same
        if member.comment:  # numpy writes none, and a wrong length of one hides what follows
            raise VolumeError(f"{path}: found a comment on {member.filename}; write it again")
        key = member.filename.removesuffix(".npy")
        if key not in KEYS and (near := get_close_matches(key.lower(), KEYS, 1, 0.85)):
            raise VolumeError(f"{path}: found the key {key}; wanted {near[0]}")
        if key not in keys:
            continue
        if key in arrays:
            raise VolumeError(f"{path}: found {key} twice; wanted one array of a name")
        arrays[key] = _array(archive, member, key, path)
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str, path: Path) -> NDArray[Any]:
    if member.compress_type not in _PACKINGS:
        raise VolumeError(f"{path}: {key} is packed otherwise than numpy packs; write it again")
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise VolumeError(
                f"{path}: found {key} in version {version} of .npy; wanted 1.0 or 2.0"
            )
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        _check_type(key, shape, dtype, path)
        wanted = prod(shape) * dtype.itemsize
        if wanted > member.compress_size * MAX_RATIO + _SPARE_BYTES:
            raise VolumeError(
                f"{path} is damaged: {key} promises {wanted} bytes, {member.compress_size} packed "
                "ones are there; write it again"
            )
        array = new_array((prod(shape),), dtype, path)
        fill(cast(BufferedIOBase, stream), array, path)
    return array.reshape(shape, order="F" if by_columns else "C")


def _check_type(key: str, shape: Sequence[int], dtype: np.dtype[Any], path: Path) -> None:
    if dtype.hasobject:
        raise VolumeError(f"{path}: {key} holds a pickle, which could do anything; never read here")
    if key == "imgs" and dtype != np.uint8:
        raise VolumeError(
            f"{path}: found imgs of dtype {dtype}; wanted uint8, already windowed; save raw "
            "intensities as NIfTI, NRRD or MetaImage instead"
        )
    if key in GRID_KEYS and (dtype.kind not in "iuf" or prod(shape) > 9):
        raise VolumeError(f"{path}: found {key} of dtype {dtype} and shape {shape}; wanted numbers")


def _numbers(
    arrays: dict[str, NDArray[Any]], key: str, default: tuple[float, ...], path: Path
) -> tuple[float, ...]:
    values = np.ravel(arrays.get(key, default))
    if values.size != len(default):
        raise VolumeError(f"{path}: found {key} {values}; wanted {len(default)} numbers")
    return tuple(float(value) for value in values)
