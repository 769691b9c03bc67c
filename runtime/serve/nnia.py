"""Arrays on the wire, as nnInteractive's clients pack them: a head, and chunks of blosc2.

    4s "NNIA" | u8 version 1 | u8 codec | u8 dimensions | u8 length of the dtype's name | name | i64 shape each
    u32 chunks | for each: u64 bytes of voxels | u64 bytes of the frame | frame

Little-endian, C order. Nothing that a sender says about sizes is believed: every count is held to the others and to
limits before a byte of voxels is allocated, in the frames' own heads too (c-blosc2, README_CHUNK_FORMAT.rst), which
may name codecs and filters that load further code, and special frames that leave memory as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError

blosc2.set_releasegil(True)  # else nobody is answered while an image is unpacked

Bytes = bytes | bytearray | memoryview

MAGIC, VERSION = b"NNIA", 1
CODECS = {1: "zstd", 2: "lz4"}
DTYPES = {
    name: np.dtype(name)
    for name in ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
} | {name: np.dtype(name) for name in ("float16", "float32", "float64")}
MAX_DIMENSIONS = 4
MAX_CHUNKS = 4096
CHUNK_BYTES = 2**30
"""Of voxels in one chunk; a frame's own lengths are int32."""
HEAD_BYTES = 8 + 255 + 8 * MAX_DIMENSIONS + 4
"""As much as a head can take: what has to be there before sizes are known."""

_FIXED, _COUNT, _CHUNK = struct.Struct("<4sBBBB"), struct.Struct("<I"), struct.Struct("<QQ")
_FRAME = struct.Struct("<BxBBiii 6s B 8x B")  # 32 bytes, the last at 31
_FRAME_VERSIONS = range(3, 7)
_EXTENDED = 0b101  # both shuffle bits of the flags: there are 32 bytes of head
_FRAME_CODECS = {1, 4}  # lz4 and zstd, by the flags' upper three bits
_COPIED = 0b10  # of the flags: voxels as they are, whatever the codec
_FIRST_USER_CODEC = 32
_FILTERS = {0, 1, 2}  # none, shuffle, bit shuffle
_ZEROS = 0x10  # of the last byte, whose other values leave memory as it was, repeat, or need files


@dataclass(frozen=True, slots=True)
class Head:
    """What an array says about itself.

    Attributes:
        shape: as sent.
        dtype: one of `DTYPES`.
        num_chunks: that follow.
        size: bytes of the head.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    num_chunks: int
    size: int

    @property
    def num_bytes(self) -> int:
        """Of all voxels."""
        return prod(self.shape) * self.dtype.itemsize


def read_head(content: Bytes, max_bytes: int, num_dimensions: int) -> Head:
    """The head of a packed array, from its first `HEAD_BYTES` or all there are.

    Args:
        content: at least the head.
        max_bytes: of voxels.
        num_dimensions: that it has to have.

    Raises InputError for anything that is no such array, TooLarge for more voxels.
    """
    view = memoryview(content).cast("B")
    magic, version, codec, dimensions, name_bytes = _unpack(_FIXED, view, 0)
    if magic != MAGIC:
        raise InputError("found a body that is no packed array; wanted one that begins with NNIA")
    if version != VERSION or codec not in CODECS:
        raise InputError(
            f"found a packed array of version {version} and codec {codec}; wanted version {VERSION} and one of "
            f"{', '.join(f'{number} ({name})' for number, name in CODECS.items())}"
        )
    if dimensions != num_dimensions:
        raise InputError(f"found an array of {dimensions} dimensions; wanted {num_dimensions}")
    name = bytes(view[_FIXED.size : _FIXED.size + name_bytes])
    dtype = DTYPES.get(name.decode("ascii", "replace"))
    if dtype is None:
        raise InputError(f"found an array of {name[:32]!r}; wanted one of {', '.join(DTYPES)}")
    start = _FIXED.size + name_bytes
    shape = _unpack(struct.Struct(f"<{dimensions}q"), view, start)
    if min(shape) < 1:
        raise InputError(f"found an array of shape {shape}; wanted at least one voxel")
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes > max_bytes:
        raise TooLarge(f"found an array of {num_bytes} bytes; wanted {max_bytes} at the most")
    start += 8 * dimensions
    (num_chunks,) = _unpack(_COUNT, view, start)
    if not 1 <= num_chunks <= min(MAX_CHUNKS, num_bytes):
        raise InputError(
            f"found {num_chunks} chunks for {num_bytes} bytes; wanted 1 to {MAX_CHUNKS}"
        )
    return Head(shape, dtype, num_chunks, start + _COUNT.size)


class TooLarge(InputError):
    """More than this server takes."""


def unpack(content: Bytes, max_bytes: int, num_dimensions: int) -> NDArray[Any]:
    """A packed array; arguments and errors as for `read_head`, and InputError for damaged chunks."""
    view = memoryview(content).cast("B")
    head = read_head(view, max_bytes, num_dimensions)
    frames = list(_frames(view, head))
    voxels = np.zeros(head.num_bytes, np.uint8)  # zeros: no frame can show what was there before
    start = 0
    for size, frame in frames:
        try:
            blosc2.decompress2(frame, dst=voxels[start : start + size], nthreads=blosc2.nthreads)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"found a damaged chunk ({error}); wanted what was packed") from error
        start += size
    # A byte that is neither 0 nor 1 is no bool of numpy's.
    array: NDArray[Any] = voxels != 0 if head.dtype == np.bool_ else voxels.view(head.dtype)
    return array.reshape(head.shape)


def _frames(view: memoryview, head: Head) -> Iterator[tuple[int, memoryview]]:
    """Bytes of voxels and frame of each chunk, which fill the content and the array exactly. Raises InputError."""
    at, left = head.size, head.num_bytes
    for _ in range(head.num_chunks):
        size, packed = _unpack(_CHUNK, view, at)
        at += _CHUNK.size
        frame = view[at : at + packed]
        at += packed
        if not 0 < size <= min(left, CHUNK_BYTES) or size % head.dtype.itemsize:
            raise InputError(f"found a chunk of {size} bytes where {left} are left of the array")
        if len(frame) != packed or packed < _FRAME.size:
            raise InputError("found a body that is cut short")
        left -= size
        _check_frame(frame, size)
        yield size, frame
    if left or at != len(view):
        raise InputError(
            f"found chunks that leave {left} bytes of the array and {len(view) - at} of the body"
        )


def _check_frame(frame: memoryview, size: int) -> None:
    """Hold a frame's own head to what was said about it. Raises InputError."""
    version, flags, typesize, voxels, block, packed, filters, codec, special = _FRAME.unpack_from(
        frame
    )
    is_right = (
        version in _FRAME_VERSIONS
        and flags & _EXTENDED == _EXTENDED
        and (flags >> 5 in _FRAME_CODECS or flags & _COPIED)
        and set(filters) <= _FILTERS
        and special in (0, _ZEROS)
        and codec < _FIRST_USER_CODEC
        and typesize >= 1
        and voxels == size
        and packed == len(frame)
        and 0 < block <= voxels
    )
    if not is_right:
        raise InputError(
            "found a chunk whose own head does not fit; wanted a blosc2 chunk of its length, with "
            "zstd or lz4 and no filter but shuffles"
        )


def pack(array: NDArray[Any]) -> bytes:
    """An array as clients unpack it, zstd at its fastest: masks are mostly runs."""
    name = array.dtype.name.encode("ascii")
    voxels = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    starts = range(0, len(voxels), CHUNK_BYTES)
    parts = [
        _FIXED.pack(MAGIC, VERSION, 1, array.ndim, len(name)),
        name,
        struct.pack(f"<{array.ndim}q", *array.shape),
        _COUNT.pack(len(starts)),
    ]
    for start in starts:
        piece = voxels[start : start + CHUNK_BYTES]
        frame = blosc2.compress2(
            piece,
            typesize=array.dtype.itemsize,  # with another, a chunk of zeros could not be read back
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            filters=[blosc2.Filter.NOFILTER],
        )
        parts += [_CHUNK.pack(len(piece), len(frame)), frame]
    return b"".join(parts)


def _unpack(form: struct.Struct, view: memoryview, start: int) -> tuple[Any, ...]:
    if len(view) < start + form.size:
        raise InputError("found a body that is cut short; wanted a packed array")
    return form.unpack_from(view, start)
