"""Whether a volume file is whole.

ITK 5.4 reads a NIfTI file that was cut short as if the lost voxels were zero, and a MetaImage whose
compressed data is damaged or too little as whatever was in memory, both without an error. These
checks run before it is asked. NRRD and uncompressed MetaImage need none: ITK refuses those itself.
"""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from math import isfinite, prod
from pathlib import Path
from typing import BinaryIO

from runtime.errors import VolumeError

_CHUNK_BYTES = 1 << 16
_NIFTI1_HEADER_BYTES = 348
_NIFTI2_HEADER_BYTES = 540
_META_BYTES = {"MET_FLOAT": 4, "MET_DOUBLE": 8} | {
    f"MET_{sign}{name}": count
    for name, count in (("CHAR", 1), ("SHORT", 2), ("INT", 4), ("LONG", 4), ("LONG_LONG", 8))
    for sign in ("", "U")
}


def check_intact(path: Path, suffix: str) -> None:
    """Refuses a cut or damaged file of that suffix with VolumeError; OSError passes through."""
    if suffix == ".nii":
        with path.open("rb") as stream:
            wanted = _nifti_bytes(stream, path)
        _check_length(path, path.stat().st_size, wanted)
    elif suffix == ".nii.gz":
        _check_gzipped_nifti(path)
    elif suffix in (".mha", ".mhd"):
        _check_meta(path)


def _check_gzipped_nifti(path: Path) -> None:
    try:
        with gzip.open(path, "rb") as stream:
            wanted = _nifti_bytes(stream, path)
            stream.seek(0)
            # Reading to the end is what checks gzip's own checksum.
            found = sum(map(len, iter(lambda: stream.read(_CHUNK_BYTES), b"")))
    except gzip.BadGzipFile as error:
        raise VolumeError(
            f"{path} is not sound gzip ({error}); copy it again, or name it .nii if it is not gzip"
        ) from error
    except (EOFError, zlib.error) as error:
        raise VolumeError(f"{path} is cut short or damaged ({error}); copy it again") from error
    _check_length(path, found, wanted)


def _nifti_bytes(stream: BinaryIO | gzip.GzipFile, path: Path) -> int:
    """Bytes a NIfTI-1 file must hold (uncompressed), from its header (nifti1.h)."""
    header = stream.read(_NIFTI1_HEADER_BYTES)
    if len(header) < _NIFTI1_HEADER_BYTES:
        raise VolumeError(f"{path} holds {len(header)} bytes, less than a NIfTI header; not NIfTI")
    for order in "<>":
        (header_bytes,) = struct.unpack_from(f"{order}i", header, 0)
        if header_bytes == _NIFTI2_HEADER_BYTES:
            raise VolumeError(f"{path} is NIfTI-2; wanted NIfTI-1; convert it, e.g. with nibabel")
        if header_bytes == _NIFTI1_HEADER_BYTES and header[344:347] == b"n+1":
            axes, *dims = struct.unpack_from(f"{order}8h", header, 40)
            (bits,) = struct.unpack_from(f"{order}h", header, 72)
            (offset,) = struct.unpack_from(f"{order}f", header, 108)
            if isfinite(offset):
                wanted: int = int(offset) + prod(dims[: max(axes, 0)]) * bits // 8
                return wanted
    raise VolumeError(f"{path} does not begin with a single-file NIfTI-1 header; not NIfTI")


def _check_length(path: Path, found: int, wanted: int) -> None:
    if found < wanted:
        raise VolumeError(
            f"{path} is cut short: its header promises {wanted} bytes, {found} are there; "
            "copy it again"
        )


def _check_meta(path: Path) -> None:
    with path.open("rb") as stream:
        fields = _meta_fields(stream)
        if fields.get("compresseddata", "").lower() != "true":
            return
        try:
            packed = int(fields.get("compresseddatasize", "0"))
            wanted = prod(map(int, fields["dimsize"].split())) * _META_BYTES[fields["elementtype"]]
        except (KeyError, ValueError) as error:
            raise VolumeError(
                f"{path} has a MetaImage header that means nothing: {error}"
            ) from error
        data = fields.get("elementdatafile", "")
        if data.upper() == "LOCAL":
            _check_zlib(stream, path, packed, wanted)
            return
    if (path.parent / data).is_file():
        with (path.parent / data).open("rb") as stream:
            # Without a size ITK takes a separate file whole.
            _check_zlib(stream, path.parent / data, packed or sys.maxsize, wanted)


def _meta_fields(stream: BinaryIO) -> dict[str, str]:
    """The "Key = value" lines of a MetaImage header; leaves the stream at the first data byte."""
    fields: dict[str, str] = {}
    while "elementdatafile" not in fields:
        line = stream.readline(_CHUNK_BYTES)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            break
        fields[key.strip().lower()] = value.strip()
    return fields


def _check_zlib(stream: BinaryIO, path: Path, packed: int, wanted: int) -> None:
    """Refuses unless the next `packed` bytes hold all of a zlib stream of `wanted` bytes."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    found = 0
    try:
        while packed > 0 and not inflater.eof and (chunk := stream.read(min(packed, _CHUNK_BYTES))):
            packed -= len(chunk)
            found += len(inflater.decompress(chunk))
    except zlib.error as error:
        raise VolumeError(f"{path} is damaged ({error}); copy it again") from error
    if not inflater.eof:
        raise VolumeError(f"{path} is cut short: its compressed data has no end; copy it again")
    _check_length(path, found, wanted)
