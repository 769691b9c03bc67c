"""A label mask as the bytes of NIfTI, NRRD or MetaImage; nothing here is shared with the readers
but NIfTI's layout, so that reading a mask back is a check of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.io.volumes.nifti import FIRST_OFFSET, HEADER_BYTES, MAGIC, layout
from runtime.io.volumes.nifti_forms import NiftiForms, forms_of
from runtime.io.volumes.volume import Volume

_NIFTI_CODES = {"uint8": (2, 8), "uint16": (512, 16)}
_META_TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}
_NIFTI1_LONGEST = 32767
_GZIP_BITS, _ZLIB_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


def write_nifti(part: Path, labels: NDArray[Any], like: Volume) -> None:
    """Write an uncompressed single-file NIfTI."""
    with part.open("wb") as file:
        for piece in _nifti(labels, like):
            file.write(piece)


def write_nifti_gz(part: Path, labels: NDArray[Any], like: Volume) -> None:
    """Single-file NIfTI in gzip, without a name or a time, so that equal masks are equal files."""
    with part.open("wb") as file:
        for piece in _packed(_nifti(labels, like), labels.itemsize, _GZIP_BITS):
            file.write(piece)


def write_nrrd(part: Path, labels: NDArray[Any], like: Volume) -> None:
    """NRRD with gzip's data behind its header."""
    lines = [
        "NRRD0004",
        f"type: {labels.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {_words(labels.shape[::-1])}",
        f"space directions: {' '.join(_vector(column) for column in like.affine[:3, :3].T)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(like.origin_mm)}",
    ]
    with part.open("wb") as file:
        file.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
        for piece in _packed(_planes(labels), labels.itemsize, _GZIP_BITS):
            file.write(piece)


def write_metaimage(part: Path, labels: NDArray[Any], like: Volume) -> None:
    """MetaImage with zlib's data behind its header."""
    packed = [*_packed(_planes(labels), labels.itemsize, _ZLIB_BITS)]
    axes = np.reshape(like.direction, (3, 3))
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, packed))}",
        f"TransformMatrix = {_words(axes.T.ravel())}",
        f"Offset = {_words(like.origin_mm)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_words(like.spacing_mm[::-1])}",
        f"DimSize = {_words(labels.shape[::-1])}",
        f"ElementType = {_META_TYPES[labels.dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    with part.open("wb") as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        for piece in packed:
            file.write(piece)


WRITERS: dict[str, Callable[[Path, NDArray[Any], Volume], None]] = {
    ".nii.gz": write_nifti_gz,
    ".nii": write_nifti,
    ".nrrd": write_nrrd,
    ".mha": write_metaimage,
}


def nifti_forms(like: Volume) -> NiftiForms:
    """The affines of the file that `like` was read from, if it still lies there; else its own."""
    here = like.spacing_mm, like.origin_mm, like.direction
    if like.nifti is not None and like.nifti.grid(like.shape) == here:
        return like.nifti
    return forms_of(*here)


def _nifti(labels: NDArray[Any], like: Volume) -> Iterator[bytes]:
    forms = nifti_forms(like)
    version = forms.version if max(labels.shape) <= _NIFTI1_LONGEST else 2
    header = np.zeros((), layout(version))
    header["sizeof_hdr"], header["magic"] = HEADER_BYTES[version - 1], MAGIC[version - 1]
    header["dim"] = [3, *labels.shape[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = _NIFTI_CODES[labels.dtype.name]
    header["vox_offset"], header["scl_slope"] = FIRST_OFFSET[version - 1], 1
    header["xyzt_units"] = forms.unit
    header["qform_code"], header["sform_code"] = forms.qform_code, forms.sform_code
    header["pixdim"] = [*forms.pixdim, 1, 1, 1, 1]
    header["quatern"], header["qoffset"] = forms.quatern, forms.qoffset
    header["srow"] = forms.srow
    yield header.tobytes()
    yield bytes(FIRST_OFFSET[version - 1] - HEADER_BYTES[version - 1])
    yield from _planes(labels)


def _planes(labels: NDArray[Any]) -> Iterator[bytes]:
    """The voxels, little-endian, a slice at a time."""
    for plane in labels:
        yield plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()


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
