"""Whether a compressed frame holds all of its picture: decoders draw something for what is missing.

Of JPEG-LS, and within a tile of JPEG 2000, GDCM says so itself.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.io.pictures.jpeg import check_whole, exact_pixels

Decode = Callable[[bytes], NDArray[Any]]

# Starts of frame of ISO 10918-1, table B.1.
_LOSSY, _LOSSLESS = (0xC0, 0xC1, 0xC2), 0xC3
_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# JPEG 2000 (ISO 15444-1, A.4): the start of a part of a tile, and the end of all.
_TILE_PART, _END, _HEAD_BYTES = 0x90, 0xD9, 12


def check_whole_jpeg(
    frame: bytes, process: int, bits: int, drawn: NDArray[Any], decode: Decode
) -> None:
    """Raise VolumeError for a JPEG whose data ends before its picture does, be it by a byte.

    Args:
        frame: the codestream, with an end.
        process: the marker of its start of frame.
        bits: of a sample.
        drawn: what came out of it.
        decode: by which it did; asked again of lossless samples, and of lossy ones of more than 8 bits.
    """
    again = partial(_pixels, decode=decode)
    try:
        if process == _LOSSLESS:
            check_whole(frame, again, drawn.tobytes())
        elif process in _LOSSY:
            check_whole(frame, exact_pixels if bits == 8 else again)
    except OSError:  # GDCM decodes it and Pillow does not
        return
    except ValueError as error:
        raise VolumeError(f"of its codestream, {error}") from error


def with_end(frame: bytes, process: int) -> bytes:
    """A JPEG, with an end where it has none, which GDCM does not decode, and which may be whole all the same.

    It takes the place of zeros, since these may stand for what was never written. What `check_whole_jpeg` does not look
    at stays as it is.
    """
    if process not in (*_LOSSY, _LOSSLESS) or frame.rfind(_END_OF_IMAGE) > frame.rfind(_SCAN):
        return frame
    data = frame.rstrip(b"\0")
    return data + b"\0" * data.endswith(b"\xff") + _END_OF_IMAGE


def _pixels(frame: bytes, decode: Decode) -> bytes:
    try:
        return decode(frame).tobytes()
    except VolumeError:  # as GDCM does of a restart in place of data, and of none behind it
        return b""


def whole_jpeg2000(frame: bytes, at: int) -> bytes:
    """A JPEG 2000 codestream that has all of its tiles, with an end where only that is missing.

    Parts of tiles say how long they are, and mostly of how many parts a tile is made. Where these are all there and
    nothing but zeros follows, the end of the codestream is all that is missing. Where a last part goes up to an end
    that is not there (a length of 0), or nobody says how many there are, it may be cut short.

    Args:
        frame: the codestream.
        at: the byte of its sizes' marker.

    Raises VolumeError for what is cut short, or may be.
    """
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", frame, at + 6)
    wanted = -(-(right - left) // (width or 1)) * -(-(bottom - top) // (height or 1))
    found: Counter[int] = Counter()
    promised: dict[int, int] = {}
    while at + _HEAD_BYTES <= len(frame) and frame[at] == 0xFF and frame[at + 1] != _END:
        if frame[at + 1] == _TILE_PART:
            tile, length, _, parts = struct.unpack_from(">HIBB", frame, at + 4)
            found[tile] += 1
            promised[tile] = max(parts, promised.get(tile, 0))
            at += length if length >= _HEAD_BYTES else len(frame)  # 0: up to the end
        else:
            at += 2 + max(2, struct.unpack_from(">H", frame, at + 2)[0])
    if len(found) < wanted:
        raise _cut(f"{len(found)} of {wanted} tiles in its codestream")
    for tile, parts in promised.items():
        if found[tile] < parts:
            raise _cut(f"{found[tile]} of {parts} parts of tile {tile} in its codestream")
    if at > len(frame) or frame[at:].strip(b"\0"):  # up to its end, cut within a part, or whole
        return frame
    if frame.endswith(_END_OF_IMAGE, 0, at):  # which no data holds
        raise _cut("the end of its codestream within the last part of a tile")
    if found != promised:
        raise _cut("no end of its codestream, and nothing that says how many parts there should be")
    if not frame[at - 1]:
        raise _cut("no end of its codestream, and zeros before it that may never have been written")
    return frame[:at] + bytes([0xFF, _END])


def _cut(found: str) -> VolumeError:
    return VolumeError(f"found {found}; it is cut short: copy it again")
