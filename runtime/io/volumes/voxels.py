"""Voxels as files hold them: raw, compressed or written out, of exactly the promised number.

Nothing is allocated or inflated beyond what a header promises, and a promise that the file cannot
possibly keep is refused before anything is. Bytes left over mean that header and data do not belong
together; they are refused too.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.files.plain_file import open_plain
from runtime.io.size_limit import new_array
from runtime.io.volumes.inflated import MAX_RATIO, WINDOW_BITS, Inflated

MAX_PREFACE_BYTES = 1 << 26
"""As much may lie between a header and packed voxels; more is no preface but a bomb."""

_CHUNK_BYTES = 1 << 16
_MAX_WORD_BYTES = 64

Stream = io.BufferedIOBase | Inflated


@dataclass(frozen=True, slots=True)
class Part:
    """Where voxels begin in a file.

    Attributes:
        path: of the file.
        offset, lines: bytes, and then lines, that come before.
        skip: bytes before the first voxel, counted after inflation; None when the voxels are the last bytes of the
            file, which only raw data can say.
        follows: whether the file may be a link, which one that a header names is no more once it was looked up.
    """

    path: Path
    offset: int = 0
    lines: int = 0
    skip: int | None = 0
    follows: bool = True


def read_voxels(
    parts: Sequence[Part], encoding: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """An array of that shape and dtype, in native byte order, out of equal parts.

    Args:
        parts: in the order of the voxels.
        encoding: "raw", "gzip", "zlib" (or gzip), "text" or "hex".
        shape: (z, y, x).
        dtype: with the byte order of the file.

    Raises VolumeError for too little, too much and damaged data. OSError passes.
    """
    count, rest = divmod(prod(shape), len(parts))
    if rest:
        raise VolumeError(
            f"{parts[0].path}: found {len(parts)} data files for the shape {shape} (z, y, x); "
            "wanted a number that divides it evenly"
        )
    for part in parts:
        check_possible(part, encoding, count, dtype)
    array = new_array(shape, dtype, parts[0].path)
    flat = array.reshape(-1)
    for index, part in enumerate(parts):
        _read_part(part, encoding, flat[index * count : (index + 1) * count])
    return to_native(array)


def to_native(array: NDArray[Any]) -> NDArray[Any]:
    """The same values in this machine's byte order, in the same memory."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def check_possible(part: Part, encoding: str, count: int, dtype: np.dtype[Any]) -> None:
    """Refuse a part that is too short for `count` voxels, whatever its bytes are."""
    there = max(0, part.path.stat().st_size - part.offset)
    plain = count * dtype.itemsize
    wanted = {"text": 2 * count - 1, "hex": 2 * plain}.get(encoding, plain) + (part.skip or 0)
    if wanted > there * (MAX_RATIO if encoding in WINDOW_BITS else 1):
        raise _cut_short(part.path, wanted, there)


def _read_part(part: Part, encoding: str, out: NDArray[Any]) -> None:
    with open_plain(part.path, part.follows) as file:
        file.seek(part.offset)
        _skip_lines(file, part)
        if part.skip is None:
            file.seek(os.fstat(file.fileno()).st_size - out.nbytes)
        packed = encoding in WINDOW_BITS
        stream: Stream = Inflated(file, part.path, encoding) if packed else file
        skip_bytes(stream, part.skip or 0, part.path)
        _FILL.get(encoding, fill)(stream, out, part.path)


def _skip_lines(file: io.BufferedIOBase, part: Part) -> None:
    lines = part.lines
    while lines > 0:
        piece = file.readline(_CHUNK_BYTES)
        if not piece:
            raise VolumeError(f"{part.path} is cut short: it ends before its data; copy it again")
        lines -= piece.endswith(b"\n")


def fill(stream: Stream, out: NDArray[Any], path: Path) -> None:
    """Fill `out` with the rest of a stream, which has to hold exactly as much."""
    view = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        got = stream.readinto(view[done:])
        if not got:
            raise _cut_short(path, len(view), done)
        done += got
    if stream.read(1):
        raise _too_long(path, f"{len(view)} bytes")


def skip_bytes(stream: Stream, count: int, path: Path) -> None:
    """Read `count` bytes for nothing; VolumeError when they are not there."""
    while count > 0:
        got = len(stream.read(min(count, _CHUNK_BYTES)) or b"")
        if not got:
            raise VolumeError(f"{path} is cut short: it ends before its first voxel; copy it again")
        count -= got


def _fill_text(stream: Stream, out: NDArray[Any], path: Path) -> None:
    """Numbers between blanks."""
    number = float if out.dtype.kind == "f" else int
    done, rest = 0, b""
    while chunk := stream.read(_CHUNK_BYTES):
        *words, rest = (rest + chunk).replace(b"_", b"?").split() or [b""]  # Python reads 1_0
        if chunk[-1:].isspace():
            words, rest = [*words, rest], b""
        done = _put_words(words, number, out, done, path)
        if len(rest) > _MAX_WORD_BYTES:
            raise _no_number(path, rest)
    done = _put_words([rest] if rest else [], number, out, done, path)
    if done < len(out):
        raise VolumeError(
            f"{path} is cut short: its header promises {len(out)} numbers, {done} are there; "
            "copy it again"
        )


def _put_words(words: list[bytes], number: Any, out: NDArray[Any], done: int, path: Path) -> int:
    if done + len(words) > len(out):
        raise _too_long(path, f"{len(out)} numbers")
    try:
        with np.errstate(over="raise"):
            out[done : done + len(words)] = [number(word) for word in words]
    except (ValueError, ArithmeticError) as error:
        raise _no_number(path, b" ".join(words[:8])) from error
    return done + len(words)


def _fill_hex(stream: Stream, out: NDArray[Any], path: Path) -> None:
    """Two hexadecimal digits a byte, with any blanks between."""
    view = out.reshape(-1).view(np.uint8).data
    done, rest = 0, b""
    while chunk := stream.read(_CHUNK_BYTES):
        digits = rest + b"".join(chunk.split())
        even = len(digits) // 2 * 2
        rest = digits[even:]
        if done + even // 2 > len(view):
            raise _too_long(path, f"{len(view)} bytes")
        try:
            view[done : done + even // 2] = bytes.fromhex(digits[:even].decode("latin-1"))
        except ValueError as error:
            raise _no_number(path, digits[:_MAX_WORD_BYTES]) from error
        done += even // 2
    if done < len(view) or rest:
        raise _cut_short(path, len(view), done)


def _cut_short(path: Path, wanted: int, size: int) -> VolumeError:
    return VolumeError(
        f"{path} is cut short: its header promises {wanted} bytes, {size} are there; copy it again"
    )


def _too_long(path: Path, wanted: str) -> VolumeError:
    return VolumeError(
        f"{path} holds more data than the {wanted} its header promises, so they do not belong "
        "together; copy or export it again"
    )


def _no_number(path: Path, text: bytes) -> VolumeError:
    return VolumeError(
        f"{path} is damaged: found {text[:_MAX_WORD_BYTES]!r} among its written-out voxels, which "
        "is no number of its voxel type; copy it again"
    )


_FILL = {"text": _fill_text, "hex": _fill_hex}
