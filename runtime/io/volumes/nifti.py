"""NIfTI-1 and NIfTI-2 files (nifti1.h, nifti2.h), read and checked without a library."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, isnan, prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, VolumeError
from runtime.files.plain_file import open_plain
from runtime.io.size_limit import new_array
from runtime.io.volumes.inflated import Inflated
from runtime.io.volumes.nifti_forms import AFFINES, CODES, UNIT_MM, NiftiForms
from runtime.io.volumes.scalar import several_values, volume_shape
from runtime.io.volumes.volume import Volume
from runtime.io.volumes.voxels import (
    MAX_PREFACE_BYTES,
    Part,
    Stream,
    check_possible,
    fill,
    to_native,
)

# Field: its type and where it begins in NIfTI-1, then in NIfTI-2. Only what decides about voxels.
_FIELDS = {
    "sizeof_hdr": (("i4", 0), ("i4", 0)),
    "dim": (("8i2", 40), ("8i8", 16)),
    "datatype": (("i2", 70), ("i2", 12)),
    "bitpix": (("i2", 72), ("i2", 14)),
    "pixdim": (("8f4", 76), ("8f8", 104)),
    "vox_offset": (("f4", 108), ("i8", 168)),
    "scl_slope": (("f4", 112), ("f8", 176)),
    "scl_inter": (("f4", 116), ("f8", 184)),
    "xyzt_units": (("u1", 123), ("i4", 500)),
    "qform_code": (("i2", 252), ("i4", 344)),
    "sform_code": (("i2", 254), ("i4", 348)),
    "quatern": (("3f4", 256), ("3f8", 352)),
    "qoffset": (("3f4", 268), ("3f8", 376)),
    "srow": (("12f4", 280), ("12f8", 400)),
    "magic": (("V4", 344), ("V8", 4)),
}
HEADER_BYTES = (348, 540)
MAGIC = (b"n+1\0", b"n+2\0\r\n\x1a\n")
PAIR_MAGIC = (b"ni1\0", b"ni2\0\r\n\x1a\n")
# Behind the header lie four bytes that say whether extensions follow.
FIRST_OFFSET = (352, 544)

DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_SEVERAL_VALUES = {32: "complex", 128: "RGB", 1792: "complex", 2048: "complex", 2304: "RGBA"}


def layout(version: int, order: Literal["<", ">"] = "<") -> np.dtype[Any]:
    """The header of NIfTI-1 or NIfTI-2 as a structured dtype; order is numpy's "<" or ">"."""
    places = [places[version - 1] for places in _FIELDS.values()]
    return np.dtype(
        {
            "names": [*_FIELDS],
            "formats": [np.dtype(kind).newbyteorder(order) for kind, _ in places],
            "offsets": [offset for _, offset in places],
            "itemsize": HEADER_BYTES[version - 1],
        }
    )


def read_nifti(path: Path, affine: str | None = None) -> Volume:
    """The volume in a single-file NIfTI-1 or NIfTI-2, plain or in gzip as its name says.

    Intensities with a slope become float32; those of more than 16 bits and float64 become float64.

    Args:
        path: of the file.
        affine: "qform" or "sform", for a file in which they disagree; the other is passed over.

    Raises VolumeError for whatever is no such file or contradicts itself, and InputError for a
    form that the file does not have.
    """
    packed = path.name.lower().endswith(".gz")
    with open_plain(path) as file:
        _check_packing(file, path, packed)
        stream: Stream = Inflated(file, path) if packed else file
        header, header_bytes = _read_header(stream, path)
        shape, dtype, offset = _shape(header, path), _dtype(header, path), _offset(header, path)
        scale = _scale(header, path)
        forms = _forms(header, affine, shape, path)
        encoding = "gzip" if packed else "raw"
        check_possible(Part(path, skip=offset), encoding, prod(shape), dtype)
        _check_extensions(_take(stream, offset - header_bytes, path), header, path)
        array = new_array(shape, dtype, path)
        fill(stream, array, path)
    return Volume(
        _scaled(to_native(array), scale, path), *forms.grid(shape), source=str(path), nifti=forms
    )


def _check_packing(file: BinaryIO, path: Path, packed: bool) -> None:
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if packed and not is_gzip:
        raise VolumeError(
            f"{path} is not gzip; copy it again, or name it .nii if it was never compressed"
        )
    if is_gzip and not packed:
        raise VolumeError(f"{path} is compressed with gzip; name it .nii.gz")


def _read_header(stream: Stream, path: Path) -> tuple[Any, int]:
    """The header's fields, and how many bytes were read for them."""
    content = _take(stream, HEADER_BYTES[0], path)
    for kind in (layout(1), layout(1, ">"), layout(2), layout(2, ">")):
        size = kind.itemsize
        if np.frombuffer(content, kind["sizeof_hdr"], 1)[0] == size:
            content += _take(stream, size - len(content), path)
            header, version = np.frombuffer(content, kind)[0], 1 + HEADER_BYTES.index(size)
            magic = header["magic"].tobytes()
            if magic == MAGIC[version - 1]:
                return header, size
            if magic == PAIR_MAGIC[version - 1]:
                raise VolumeError(
                    f"{path} is the header of a NIfTI pair (.hdr and .img); wanted one file; "
                    "save it so, for instance with nibabel: nibabel.load(...).to_filename('a.nii')"
                )
    raise VolumeError(f"{path} does not begin with a NIfTI-1 or NIfTI-2 header; not NIfTI")


def _take(stream: Stream, count: int, path: Path) -> bytes:
    content = bytearray()
    while len(content) < count and (more := stream.read(count - len(content))):
        content += more
    if len(content) < count:
        raise VolumeError(f"{path} is cut short within its header, or is not NIfTI; copy it again")
    return bytes(content)


def _check_extensions(content: bytes, header: Any, path: Path) -> None:
    """Follow the chain of extensions between header and voxels: each says how long it is."""
    at = 4 if content[:1] != b"\0" else len(content)
    while at + 8 <= len(content):
        length = int(np.frombuffer(content, header.dtype["sizeof_hdr"], 1, at)[0])
        if length < 16 or length % 16 or at + length > len(content):
            raise VolumeError(
                f"{path} is damaged: one of its header extensions claims {length} bytes, where "
                f"{len(content) - at} are left before its voxels; copy it again"
            )
        at += length


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    """(z, y, x) of a scalar volume."""
    axes, *dims = header["dim"].tolist()
    lengths = dims[: max(axes, 0)]
    if not 1 <= axes <= 7 or min(lengths) < 1:
        raise VolumeError(
            f"{path} is damaged: found {axes} axes of size {lengths}; wanted 1 to 7, none of them "
            "empty; copy it again"
        )
    return volume_shape(lengths, path, max(lengths[4:], default=1))


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code in _SEVERAL_VALUES:
        raise several_values(path, _SEVERAL_VALUES[code])
    if code not in DTYPES:
        raise VolumeError(
            f"{path}: found voxels of NIfTI's datatype {code}; wanted integers of 8 to 64 bits, "
            "float32 or float64; convert them first"
        )
    dtype = np.dtype(DTYPES[code])
    if bits != dtype.itemsize * 8:
        raise VolumeError(
            f"{path} is damaged: its datatype {code} has {dtype.itemsize * 8} bits, its bitpix says "
            f"{bits}; copy it again"
        )
    return dtype.newbyteorder(header.dtype["datatype"].byteorder)


def _offset(header: Any, path: Path) -> int:
    offset = float(header["vox_offset"])
    first = FIRST_OFFSET[HEADER_BYTES.index(int(header["sizeof_hdr"]))]
    if not (first <= offset <= first + MAX_PREFACE_BYTES and offset.is_integer()):
        raise VolumeError(
            f"{path} is damaged: its voxels begin at byte {offset:.10g}; wanted {first} to "
            f"{first + MAX_PREFACE_BYTES}; copy it again"
        )
    return int(offset)


def _scale(header: Any, path: Path) -> tuple[float, float] | None:
    """Slope and intercept; None where intensities are meant as they are stored."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or isnan(slope) or (slope, inter) == (1, 0):  # NaN is nibabel's "not set"
        return None
    if not (isfinite(slope) and isfinite(inter)):
        raise VolumeError(
            f"{path}: found the slope {slope} and intercept {inter} of its intensities; wanted "
            "finite numbers; set scl_slope to 0 if intensities are meant as they are stored"
        )
    return slope, inter


def _scaled(array: NDArray[Any], scale: tuple[float, float] | None, path: Path) -> NDArray[Any]:
    if scale is None:
        return array
    small = array.dtype.itemsize <= 2 or array.dtype == np.float32
    scaled = np.empty(array.shape, np.float32 if small else np.float64)
    with np.errstate(all="ignore"):  # of infinite voxels
        for plane, stored in zip(scaled, array, strict=True):
            plane[...] = stored.astype(np.float64) * scale[0] + scale[1]
            if np.isinf(plane).any() and not np.isinf(stored).any():
                raise VolumeError(
                    f"{path}: its slope {scale[0]} and intercept {scale[1]} make voxels infinite"
                )
    return scaled


def _forms(header: Any, affine: str | None, shape: tuple[int, ...], path: Path) -> NiftiForms:
    units = int(header["xyzt_units"])
    unit, time_unit = units & 7, units - (units & 7)
    if unit not in UNIT_MM or time_unit not in range(0, 56, 8):
        raise VolumeError(
            f"{path}: found the units {units} (length {unit}, time {time_unit}); wanted metre (1), "
            "millimetre (2) or micrometre (3); set xyzt_units to 2 if it is in mm"
        )
    forms = NiftiForms(
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        pixdim=tuple(header["pixdim"].tolist()[:4]),
        quatern=tuple(header["quatern"].tolist()),
        qoffset=tuple(header["qoffset"].tolist()),
        srow=tuple(header["srow"].tolist()),
        unit=unit,
        version=1 + HEADER_BYTES.index(int(header["sizeof_hdr"])),
    )
    try:
        return replace(forms, taken=_taken(forms, affine, shape, path))
    except InputError:
        raise
    except ValueError as error:
        other = "; if its sform is right, say --affine sform" if forms.sform_code > 0 else ""
        raise VolumeError(f"{path} says no place for its voxels: {error}{other}") from error


def _taken(forms: NiftiForms, affine: str | None, shape: tuple[int, ...], path: Path) -> str:
    codes = {"qform": forms.qform_code, "sform": forms.sform_code}
    asked = [affine] if affine else [*AFFINES]
    for name in asked:
        if codes[name] not in CODES:
            raise VolumeError(
                f"{path} is damaged: its {name} has the code {codes[name]}; wanted 0 to 5"
            )
    there = [name for name in asked if codes[name]]
    if affine and not there:
        raise InputError(f"{path} has no {affine}, its code is 0; leave --affine out")
    if len(there) == 2:
        _check_agreement(forms, shape, path)
    taken = there[-1] if there else "neither"
    forms.affine(taken, shape)
    return taken


def _check_agreement(forms: NiftiForms, shape: tuple[int, ...], path: Path) -> None:
    apart_mm, rounding_mm = forms.disagreement_mm(shape)
    if not apart_mm <= rounding_mm:
        qform, sform = (forms.affine(name, shape)[:3].tolist() for name in AFFINES)
        raise VolumeError(
            f"{path}: its qform and sform put voxels up to {apart_mm:.4g} mm apart, where rounding "
            f"explains {rounding_mm:.2g} mm; qform (code {forms.qform_code}) {qform}, sform (code "
            f"{forms.sform_code}) {sform}; say which is right with --affine qform or --affine sform"
        )
