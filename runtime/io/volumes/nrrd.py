"""NRRD files (.nrrd, and .nhdr with data beside it), read and checked without a library.

Rules: the format's definition (teem, "Definition of NRRD File Format"), and ITK's reading where that leaves a choice;
but units of length, of which ITK takes no notice, become millimetres.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.io.volumes.data_files import beside, listed, numbered
from runtime.io.volumes.header_text import integers, reals
from runtime.io.volumes.nrrd_header import NrrdHeader, vector
from runtime.io.volumes.scalar import volume_shape
from runtime.io.volumes.units import UNITS_MM
from runtime.io.volumes.volume import IDENTITY, Volume
from runtime.io.volumes.voxels import MAX_PREFACE_BYTES, Part, read_voxels

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, "
    "int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names.split(", ")}
ENCODINGS = {
    **{"raw": "raw", "gzip": "gzip", "gz": "gzip", "hex": "hex"},
    **{"text": "text", "txt": "text", "ascii": "text"},
}
# Space: signs that turn its axes into LPS. Spaces that are not the patient's are taken as they are.
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "lps": (1, 1, 1),
    "ras": (-1, -1, 1),
    "las": (1, -1, 1),
    "scanner-xyz": (1, 1, 1),
    "3d-right-handed": (1, 1, 1),
    "3d-left-handed": (1, 1, 1),
}
_DOMAIN_KINDS = ("domain", "space", "time", "???", "none")
_RANGE_KINDS = (
    *("stub", "scalar", "list", "point", "vector", "covariant-vector", "normal", "complex"),
    *("2-vector", "3-vector", "4-vector", "3-gradient", "3-normal", "quaternion", "3-color"),
    *("4-color", "rgb-color", "rgba-color", "hsv-color", "xyz-color", "2d-symmetric-matrix"),
    *("2d-masked-symmetric-matrix", "2d-matrix", "2d-masked-matrix", "3d-symmetric-matrix"),
    *("3d-masked-symmetric-matrix", "3d-matrix", "3d-masked-matrix"),
)


def read_nrrd(path: Path) -> Volume:
    """The volume in an NRRD file.

    Raises VolumeError for whatever is no such file or contradicts itself, or whose data is not in
    plain files of the same folder.
    """
    try:
        header = NrrdHeader(path)
        domain = _domain(header)
        lengths = [header.sizes[axis] for axis in domain]
        others = prod(header.sizes) // prod(lengths)
        shape = volume_shape(lengths, path, others)
        dtype, encoding = _dtype(header), _encoding(header)
        parts = _parts(header, encoding)
        unit = header.unit(domain)
        spacing, origin, direction = _grid(header, domain)
    except VolumeError:
        raise
    except ValueError as error:
        raise VolumeError(f"{path} has an NRRD header that means nothing: {error}") from error
    return Volume(
        read_voxels(parts, encoding, shape, dtype),
        (spacing[2] * UNITS_MM[unit], spacing[1] * UNITS_MM[unit], spacing[0] * UNITS_MM[unit]),
        (origin[0] * UNITS_MM[unit], origin[1] * UNITS_MM[unit], origin[2] * UNITS_MM[unit]),
        direction,
        source=str(path),
        unit=unit,
    )


def _domain(header: NrrdHeader) -> list[int]:
    """Which axes are axes of space, as opposed to colours or components of a vector."""
    kinds = header.axes("kinds") or ["domain"] * len(header.sizes)
    if strange := [kind for kind in kinds if kind not in _DOMAIN_KINDS + _RANGE_KINDS]:
        raise ValueError(f"found the kind of axis {strange[0][:80]!r}, which NRRD does not know")
    if "spacedirections" in header.fields:
        return [axis for axis, vector in enumerate(header.directions) if vector is not None]
    return [axis for axis, kind in enumerate(kinds) if kind in _DOMAIN_KINDS]


def _dtype(header: NrrdHeader) -> np.dtype[Any]:
    name = " ".join(header.need("type").lower().split())
    if name not in DTYPES:
        raise ValueError(f"found type {name[:80]!r}; wanted an integer type, float or double")
    dtype = np.dtype(DTYPES[name])
    if dtype.itemsize == 1 or (_encoding(header) == "text" and "endian" not in header.fields):
        return dtype
    order = header.need("endian").lower()
    if order not in ("little", "big"):
        raise ValueError(f"found endian {order[:80]!r}; wanted little or big")
    return dtype.newbyteorder("<" if order == "little" else ">")


def _encoding(header: NrrdHeader) -> str:
    name = header.need("encoding").lower()
    if name not in ENCODINGS:
        raise ValueError(
            f"found encoding {name[:80]!r}; wanted raw, gzip, text or hex; save it as one of them"
        )
    return ENCODINGS[name]


def _parts(header: NrrdHeader, encoding: str) -> list[Part]:
    """Where the voxels are: behind the header, or in files beside it."""
    (lines,) = integers(header.fields.get("lineskip", "0"))
    (skip,) = integers(header.fields.get("byteskip", "0"))
    if lines < 0 or skip < -1 or (skip == -1 and (encoding != "raw" or lines)):
        raise ValueError(f"found line skip {lines} and byte skip {skip} with {encoding} data")
    if encoding == "gzip" and skip > MAX_PREFACE_BYTES:
        raise ValueError(f"found byte skip {skip}; wanted at most {MAX_PREFACE_BYTES} in gzip")
    rest = lines, None if skip == -1 else skip
    if "datafile" in header.fields:
        return [Part(path, 0, *rest, follows=False) for path in _data_files(header)]
    return [Part(header.path, header.end, *rest)]


def _data_files(header: NrrdHeader) -> list[Path]:
    """One file; or those of a list or a pattern, one for each place on the slowest axis."""
    name, sizes = header.need("datafile"), header.sizes
    words = name.split()
    if words[0] == "LIST":
        paths = listed(header.path, header.names)
        axes = integers(" ".join(words[1:]))
    elif "%" in name:
        first, last, step, *axes = integers(" ".join(words[1:]))
        paths = numbered(header.path, words[0], first, last, step)
    else:
        return [beside(header.path, name)]
    (held,) = axes or [len(sizes) - 1]
    wanted = prod(sizes[held:]) if 1 <= held < len(sizes) else len(paths)
    if not 1 <= held <= len(sizes) or len(paths) != wanted or not paths:
        raise ValueError(f"found {len(paths)} data files of {held} axes each for sizes {sizes}")
    return paths


def _grid(
    header: NrrdHeader, domain: list[int]
) -> tuple[list[float], list[float], tuple[float, ...]]:
    """Spacing (x, y, z) and origin in the unit of the file, direction; both in LPS."""
    if "spacedirections" not in header.fields:
        return *_plain_grid(header, domain), IDENTITY
    signs = np.array(_signs(header))
    vectors = [_in_space(header, header.directions[axis] or []) for axis in domain[:3]]
    with np.errstate(all="ignore"):  # Volume refuses what is not finite
        axes = signs[:, None] * np.array(vectors).T
        lengths = np.linalg.norm(axes, axis=0)
        direction = axes / lengths
    return lengths.tolist(), _origin(header).tolist(), tuple(direction.ravel().tolist())


def _plain_grid(header: NrrdHeader, domain: list[int]) -> tuple[list[float], list[float]]:
    """Spacing and origin of a volume that says nothing about directions."""
    words = header.axes("spacings")
    if not words and header.fields.keys() & {"space", "spacedimension", "spaceorigin"}:
        raise ValueError("it names a space and has no space directions, so voxels have no size")
    spacing = reals(" ".join(words[axis] for axis in domain[:3])) if words else [1.0] * 3
    if "spaceorigin" in header.fields:
        return spacing, _origin(header).tolist()
    mins = header.axes("axismins")
    if (mins or "axismaxs" in header.fields) and not words:
        raise ValueError(
            "its voxel size has to be guessed from axis mins and maxs; save it with spacings"
        )
    if not mins:
        return spacing, [0.0] * 3
    # A minimum is the near side of the first voxel, or the middle of it where samples are nodes.
    centers = header.axes("centerings") or header.axes("centers") or ["cell"] * len(header.sizes)
    halves = [0.0 if centers[axis] == "node" else 0.5 for axis in domain[:3]]
    first = reals(" ".join(mins[axis] for axis in domain[:3]))
    return spacing, [a + b * c for a, b, c in zip(first, halves, spacing, strict=True)]


def _origin(header: NrrdHeader) -> NDArray[Any]:
    if "spaceorigin" not in header.fields:
        return np.zeros(3)
    return np.array(_in_space(header, vector(header.fields["spaceorigin"]))) * _signs(header)


def _signs(header: NrrdHeader) -> tuple[int, int, int]:
    """Signs that turn the file's world axes into LPS."""
    if "space" not in header.fields:
        return 1, 1, 1
    name = header.fields["space"].lower()
    if name not in _SPACES:
        raise ValueError(
            f"found space {name[:80]!r}; wanted left-posterior-superior, right-anterior-superior, "
            "left-anterior-superior or scanner-xyz; save it in one of them"
        )
    return _SPACES[name]


def _in_space(header: NrrdHeader, values: list[float]) -> list[float]:
    """The first three numbers of a vector that has one for each axis of the world."""
    wanted = 3 if "space" in header.fields else integers(header.need("spacedimension"))[0]
    if wanted < 3 or len(values) != wanted or any(value != 0 for value in values[3:]):
        raise ValueError(f"found the vector {values}; wanted three numbers, and zeros behind them")
    return values[:3]
