"""MetaImage files (.mha, and .mhd with data beside it), read and checked without a library.

What a key means is MetaIO's (ITK's) reading of it, which has no other specification; but DistanceUnits, of which ITK
takes no notice, become millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import VolumeError
from runtime.files.plain_file import open_plain
from runtime.io.volumes.data_files import beside, listed, numbered
from runtime.io.volumes.header_text import HeaderLines, integers, reals
from runtime.io.volumes.scalar import several_values, volume_shape
from runtime.io.volumes.units import UNITS_MM, unit_of
from runtime.io.volumes.volume import IDENTITY, Volume
from runtime.io.volumes.voxels import Part, read_voxels

DTYPES = {
    "MET_CHAR": "i1",
    "MET_ASCII_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Three names each; the first that is there counts, as in MetaIO.
_ORIGINS = ("Offset", "Origin", "Position")
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_SPACINGS = ("ElementSpacing", "ElementSize")
_UNIT = "DistanceUnits"
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
# Who writes one of these writes all of the geometry; an AnatomicalOrientation alone is written by hand.
_OF_METAIO = ("CenterOfRotation", *_DIRECTIONS)
_KEYS = (
    *("ObjectType", "ObjectSubType", "NDims", "DimSize", "HeaderSize", "BinaryData"),
    *("CompressedData", "CompressedDataSize", "ElementType", "ElementNumberOfChannels"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile"),
    *_ORIGINS,
    *(*_OF_METAIO, "AnatomicalOrientation"),
    *_SPACINGS,
    *_BYTE_ORDERS,
    _UNIT,
)
_EARLY, _LONGEST, _MAX_AXES = 100, 80, 16
_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read_metaimage(path: Path) -> Volume:
    """The volume in a MetaImage file.

    Raises VolumeError for whatever is no such file or contradicts itself, or whose data is not in
    plain files of the same folder.
    """
    try:
        header = _Header(path)
        header.check_whole()
        shape, dtype = _shape(header), _dtype(header)
        encoding = _encoding(header)
        parts = _parts(header, encoding)
        x_mm, y_mm, z_mm = header.lengths_mm(_SPACINGS, 1.0)
        origin_mm = header.lengths_mm(_ORIGINS, 0.0)
        direction = _direction(header)
    except VolumeError:
        raise
    except ValueError as error:
        raise VolumeError(f"{path} has a MetaImage header that means nothing: {error}") from error
    return Volume(
        read_voxels(parts, encoding, shape, dtype),
        (z_mm, y_mm, x_mm),
        origin_mm,
        direction,
        source=str(path),
        unit=header.unit,
    )


class _Header:
    """The lines of a header: fields by key, the names of a LIST, and the byte behind them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.names: list[str] = []
        with open_plain(path) as stream:
            lines = HeaderLines(stream)
            while "ElementDataFile" not in self.fields:
                self._add(lines.next())
            self.end = stream.tell()
            if self.fields["ElementDataFile"].startswith("LIST"):
                self.names = lines.rest()

    def _add(self, line: str | None) -> None:
        if line is None:
            raise ValueError("it ends without ElementDataFile")
        if not line.strip():
            return
        end = min((at for at in map(line.find, "=:") if at >= 0), default=0)
        key, value = line[:end].strip(), line[end + 1 :].strip()
        odd = any(letter < " " and letter != "\t" for letter in value)
        if odd or not key or not key.isascii() or not key.isprintable():
            raise ValueError(f"found the line {line[:80]!r}; wanted Key = value")
        if key in self.fields:
            raise ValueError(f"found {key} twice")
        # Keys of other programs are nobody's business; a damaged one of ours is, and they come early.
        strange = key not in _KEYS and len(self.fields) < _EARLY
        if strange and (near := get_close_matches(key[:_LONGEST], _KEYS, 1, 0.8)):
            raise ValueError(f"found the key {key[:_LONGEST]!r}; wanted {near[0]}")
        self.fields[key] = value

    def check_whole(self) -> None:
        """Refuse a header of MetaIO's that has lost a line: it writes all of the geometry."""
        if any(key in self.fields for key in _OF_METAIO):
            for keys in (_SPACINGS, _ORIGINS, _DIRECTIONS):
                if not any(key in self.fields for key in keys):
                    raise ValueError(f"it has lost its {keys[0]}, which such a header always has")

    def first(self, keys: Sequence[str], default: str) -> str:
        """The value of the first of `keys` that is there."""
        return next((self.fields[key] for key in keys if key in self.fields), default)

    def whole(self, key: str, default: int) -> int:
        """One integer."""
        (value,) = integers(self.fields.get(key, str(default)))
        return value

    def truth(self, keys: Sequence[str], default: str) -> bool:
        """True or False."""
        text = self.first(keys, default)
        if text.lower() not in _TRUTH:
            raise ValueError(f"found {keys[0]} = {text[:80]!r}; wanted True or False")
        return _TRUTH[text.lower()]

    @property
    def lengths(self) -> list[int]:
        """The length of each axis, x first."""
        lengths = integers(self.fields.get("DimSize", ""))
        axes = self.whole("NDims", 0)
        if len(lengths) != axes or not 1 <= axes <= _MAX_AXES or min(lengths) < 1:
            raise ValueError(
                f"found NDims = {axes} and DimSize = {lengths[:_MAX_AXES]}; wanted one positive "
                "length for each axis"
            )
        return lengths

    @property
    def unit(self) -> str:
        """Of lengths, a key of `UNITS_MM`; mm where none is said."""
        word = self.fields.get(_UNIT, "")
        if (unit := unit_of(word)) is None:
            raise ValueError(
                f"found {_UNIT} = {word[:80]!r}; wanted mm, cm, m, um or nm; correct it, or take it out if it is in mm"
            )
        return unit

    def lengths_mm(self, keys: Sequence[str], default: float) -> tuple[float, float, float]:
        """A length along each of the axes x, y and z; `default` is in the unit of the file."""
        values = reals(self.first(keys, ""))
        if values and len(values) != len(self.lengths):
            found = f"{keys[0]} = {self.first(keys, '')[:200]}"
            raise ValueError(f"found {found}; wanted {len(self.lengths)} numbers")
        x, y, z = (value * UNITS_MM[self.unit] for value in values[:3] or [default] * 3)
        return x, y, z


def _shape(header: _Header) -> tuple[int, int, int]:
    kind = header.fields.get("ObjectType", "Image")
    if kind != "Image":
        raise ValueError(f"found ObjectType = {kind[:80]!r}; wanted Image")
    return volume_shape(header.lengths, header.path, header.whole("ElementNumberOfChannels", 1))


def _dtype(header: _Header) -> np.dtype[Any]:
    name = header.fields.get("ElementType", "none")
    if name.endswith("_ARRAY"):
        raise several_values(header.path, name)
    if name not in DTYPES:
        raise ValueError(f"found ElementType = {name[:80]!r}; wanted one of {', '.join(DTYPES)}")
    (slope,) = reals(header.fields.get("ElementToIntensityFunctionSlope", "1"))
    (offset,) = reals(header.fields.get("ElementToIntensityFunctionOffset", "0"))
    if (slope, offset) != (1, 0):
        raise ValueError(
            f"its intensities have a slope of {slope} and an offset of {offset}, which programs "
            "disagree about; apply them and save the volume again"
        )
    big = header.truth(_BYTE_ORDERS, "False")
    if header.truth(_BYTE_ORDERS[::-1], "False") != big:
        raise ValueError(f"found {' and '.join(_BYTE_ORDERS)}, which disagree")
    return np.dtype(DTYPES[name]).newbyteorder(">" if big else "<")


def _encoding(header: _Header) -> str:
    packed = header.truth(("CompressedData",), "False")
    if header.truth(("BinaryData",), "True"):
        return "zlib" if packed else "raw"
    if packed:
        raise ValueError("its data is both text (BinaryData = False) and compressed")
    return "text"


def _direction(header: _Header) -> tuple[float, ...]:
    axes = len(header.lengths)
    values = reals(header.first(_DIRECTIONS, ""))
    if not values:
        return IDENTITY
    if len(values) != axes * axes:
        raise ValueError(f"found a TransformMatrix of {len(values)} numbers; wanted {axes * axes}")
    # Its rows are the world directions of the axes, which are our columns.
    return tuple(np.reshape(values, (axes, axes))[:3, :3].T.ravel().tolist())


def _parts(header: _Header, encoding: str) -> list[Part]:
    """Where the voxels are: behind the header, or in files beside it."""
    name = header.fields["ElementDataFile"]
    skip = header.whole("HeaderSize", 0)
    if skip < -1 or (skip == -1 and encoding != "raw"):
        raise ValueError(f"found HeaderSize = {skip}, which goes with no {encoding} data")
    if name.upper() == "LOCAL":
        if skip > 0:
            raise ValueError(f"found HeaderSize = {skip} with the data behind the header; wanted 0")
        parts = [Part(header.path, header.end)]
    else:
        parts = [Part(path, max(skip, 0), follows=False) for path in _data_files(header, name)]
    size = header.whole("CompressedDataSize", -1)
    stored = parts[0].path.stat().st_size - parts[0].offset
    if encoding == "zlib" and size != -1 and len(parts) == 1 and size != stored:
        raise VolumeError(
            f"{header.path} is cut short or damaged: its header promises {size} compressed bytes, "
            f"{stored} are there; copy it again"
        )
    return [replace(part, skip=None) for part in parts] if skip == -1 else parts


def _data_files(header: _Header, name: str) -> list[Path]:
    """One file; or the files of a LIST or of a pattern, one for each slice unless LIST says 3D."""
    lengths, words = header.lengths, name.split()
    axes = len(lengths) - 1
    if words[:1] == ["LIST"]:
        if len(words) > 1:
            (axes,) = integers(words[1].removesuffix("D"))
        paths = listed(header.path, header.names)
    elif "%" in name:
        first, *more = integers(" ".join(words[1:])) or [1]
        last, step = [*more, *(first + lengths[-1] - 1, 1)[len(more) :]]
        paths = numbered(header.path, words[0], first, last, step)
    else:
        return [beside(header.path, name)]
    if not 1 <= axes <= len(lengths) or len(paths) != prod(lengths[axes:]):
        raise ValueError(
            f"found {len(paths)} data files for DimSize = {lengths}; wanted one a slice"
        )
    return paths
