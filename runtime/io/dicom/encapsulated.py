"""Frames of encapsulated pixel data: items, fragments and offsets (PS3.5 annex A.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from runtime.errors import VolumeError
from runtime.io.dicom.bounded import check_rest
from runtime.io.dicom.transfer_syntax import TransferSyntax

_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_JPEG_ENDS = (b"\xff\xd9",)  # end of image, of JPEG, JPEG-LS and JPEG 2000 alike


def read_encapsulated(stream: BinaryIO, frames: int, syntax: TransferSyntax) -> Iterator[bytes]:
    """The codestream of each frame, from a file that stands at the offset table.

    Raises VolumeError unless the items end where they should and make up as many frames as there are.
    """
    table, fragments, end = _scan(stream)
    check_rest(stream, end, syntax)
    for parts in _group(stream, table, fragments, frames):
        yield b"".join(_bytes_of(stream, part) for part in parts)


Fragment = tuple[int, int]
"""Where the bytes of a fragment begin in the file, and how many they are."""


def _scan(stream: BinaryIO) -> tuple[list[int], list[Fragment], int]:
    """The offset table, all fragments, and where they end; nothing but their lengths is read."""
    items: list[Fragment] = []
    here = stream.tell()
    size = stream.seek(0, 2)
    while True:
        stream.seek(here)
        head = stream.read(8)
        if len(head) < 8:
            raise VolumeError("its pixel data is cut short: it has no end")
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == _END:
            break
        if (group, element) != _ITEM or here + 8 + length > size:
            raise VolumeError(f"its pixel data is cut short or damaged at byte {here}")
        items.append((here + 8, length))
        here += 8 + length
    if not items:
        raise VolumeError("its pixel data has no offset table; it is damaged")
    table = _bytes_of(stream, items[0])
    if len(table) % 4:
        raise VolumeError("its offset table is damaged")
    return list(struct.unpack(f"<{len(table) // 4}I", table)), items[1:], here + 8


def _group(
    stream: BinaryIO, table: list[int], fragments: list[Fragment], frames: int
) -> list[list[Fragment]]:
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    if frames == 1 and fragments:
        return [fragments]
    grouped: list[list[Fragment]] = []
    if table:
        # Offsets count from the first fragment's own item, 8 bytes before its bytes.
        starts = {offset + fragments[0][0] for offset in table} if fragments else set()
        for fragment in fragments:
            if fragment[0] in starts:
                grouped.append([])
            if grouped:
                grouped[-1].append(fragment)
    else:
        for before, fragment in pairwise([(0, 0), *fragments]):
            if not before[1] or _ends_a_frame(stream, before):
                grouped.append([])
            grouped[-1].append(fragment)
    if len(grouped) != frames:
        raise VolumeError(
            f"found {len(fragments)} fragments of {len(grouped)} frames; wanted {frames}"
        )
    return grouped


def _ends_a_frame(stream: BinaryIO, fragment: Fragment) -> bool:
    start, length = fragment
    tail = min(length, 4)
    last = _bytes_of(stream, (start + length - tail, tail))
    return last.rstrip(b"\0").endswith(_JPEG_ENDS)


def _bytes_of(stream: BinaryIO, fragment: Fragment) -> bytes:
    stream.seek(fragment[0])
    data = stream.read(fragment[1])
    if len(data) != fragment[1]:
        raise VolumeError("its pixel data is cut short")
    return data
