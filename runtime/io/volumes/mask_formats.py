"""A label mask as the bytes of NIfTI, NRRD or MetaImage; nothing here is shared with the readers
but NIfTI's layout, so that reading a mask back is a check of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.nifti import FIRST_OFFSET, HEADER_BYTES, MAGIC, layout
from runtime.io.volumes.nifti_forms import NiftiForms, forms_of
from runtime.io.volumes.units import UNITS_MM
from runtime.io.volumes.volume import Volume

_NIFTI_CODES = {"uint8": 2, "int16": 4, "float32": 16, "uint16": 512}
_META_TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}
_NIFTI1_LONGEST = 32767
_GZIP_BITS, _ZLIB_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


def nifti(labels: NDArray[Any], like: Volume) -> Iterator[bytes]:
    """Uncompressed single-file NIfTI."""
    yield nifti_header(like, labels.dtype)
    yield from planes(labels, labels.dtype)


def nifti_gz(labels: NDArray[Any], like: Volume) -> Iterator[bytes]:
    """Single-file NIfTI in gzip, without a name or a time, so that equal masks are equal files."""
    return _packed(nifti(labels, like), labels.itemsize, _GZIP_BITS)


def nrrd(labels: NDArray[Any], like: Volume) -> Iterator[bytes]:
    """NRRD with gzip's data behind its header, in the unit of the file that the volume was read from."""
    unit_mm = UNITS_MM[like.unit]
    lines = [
        "NRRD0004",
        f"type: {labels.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {_words(labels.shape[::-1])}",
        f"space directions: {' '.join(_vector(column) for column in like.affine[:3, :3].T / unit_mm)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(np.array(like.origin_mm) / unit_mm)}",
        # Most viewers take no notice of it, but then of neither file.
        *(["space units:" + f' "{like.unit}"' * 3] if like.unit != "mm" else []),
    ]
    yield "".join(f"{line}\n" for line in [*lines, ""]).encode()
    yield from _packed(planes(labels, labels.dtype), labels.itemsize, _GZIP_BITS)


def metaimage(labels: NDArray[Any], like: Volume) -> Iterator[bytes]:
    """MetaImage with zlib's data behind its header, in the unit of the file that the volume was read from."""
    unit_mm = UNITS_MM[like.unit]
    packed = [*_packed(planes(labels, labels.dtype), labels.itemsize, _ZLIB_BITS)]
    axes = np.reshape(like.direction, (3, 3))
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, packed))}",
        f"TransformMatrix = {_words(axes.T.ravel())}",
        f"Offset = {_words(np.array(like.origin_mm) / unit_mm)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_words(np.array(like.spacing_mm[::-1]) / unit_mm)}",
        *([f"DistanceUnits = {like.unit}"] if like.unit != "mm" else []),
        f"DimSize = {_words(labels.shape[::-1])}",
        f"ElementType = {_META_TYPES[labels.dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    yield "".join(f"{line}\n" for line in lines).encode()
    yield from packed


FORMATS: dict[str, Callable[[NDArray[Any], Volume], Iterator[bytes]]] = {
    ".nii.gz": nifti_gz,
    ".nii": nifti,
    ".nrrd": nrrd,
    ".mha": metaimage,
}
"""Suffix to what gives the bytes of labels (z, y, x) on the grid of a volume, piece by piece."""


def nifti_forms(like: Volume) -> NiftiForms:
    """The affines of the file that `like` was read from, if it still lies there; else its own."""
    here = like.spacing_mm, like.origin_mm, like.direction
    if like.nifti is not None and like.nifti.grid(like.shape) == here:
        return like.nifti
    return forms_of(*here)


def nifti_header(like: Volume, dtype: np.dtype[Any]) -> bytes:
    """All that stands before the little-endian voxels of a NIfTI file of a dtype, on the grid of a volume."""
    forms = nifti_forms(like)
    version = forms.version if max(like.shape) <= _NIFTI1_LONGEST else 2
    header = np.zeros((), layout(version))
    header["sizeof_hdr"], header["magic"] = HEADER_BYTES[version - 1], MAGIC[version - 1]
    header["dim"] = [3, *like.shape[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = _NIFTI_CODES[dtype.name], 8 * dtype.itemsize
    header["vox_offset"], header["scl_slope"] = FIRST_OFFSET[version - 1], 1
    header["xyzt_units"] = forms.unit
    header["qform_code"], header["sform_code"] = forms.qform_code, forms.sform_code
    header["pixdim"] = [*forms.pixdim, 1, 1, 1, 1]
    header["quatern"], header["qoffset"] = forms.quatern, forms.qoffset
    header["srow"] = forms.srow
    return header.tobytes().ljust(FIRST_OFFSET[version - 1], b"\0")


def planes(slices: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """Voxels as a dtype, little-endian, a slice (y, x) at a time."""
    for plane in slices:
        yield plane.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _packed(pieces: Iterator[bytes], itemsize: int, window_bits: int) -> Iterator[bytes]:
    """Deflated in as little time as masks need, which are runs of equal bytes or of equal pairs."""
    strategy = zlib.Z_RLE if itemsize == 1 else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(4, zlib.DEFLATED, window_bits, 9, strategy)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _words(values: Any) -> str:
    """Numbers with all their digits, between blanks."""
    return " ".join(repr(value) for value in np.asarray(values).tolist())


def _vector(values: Any) -> str:
    return f"({_words(values).replace(' ', ',')})"
