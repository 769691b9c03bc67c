"""Whether a JPEG holds all of its picture: where data is missing, decoders draw grey and say nothing of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO

from PIL import Image

# Markers of ISO 10918-1, table B.1. Frames that are coded by arithmetic, whose decoders read ahead, are not looked at.
_START_OF_SCAN, _END, _RESTART_INTERVAL = 0xDA, 0xD9, b"\xff\xdd"
_FRAMES_OF_HUFFMAN = (0xC0, 0xC1, 0xC2, 0xC3)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# What ends the data of a scan: a marker that is none of a restart, no 0xff that is data, behind any filling (B.1.1.2).
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
# Bits without a pattern and without a marker; the second is put behind a restart, where a decoder may wait for one.
_FILLINGS = (b"\x5a\xc3\x96\x3c\xa5\x69" * 11, b"\xa1\x1f\x47\x72\x0e\xd8" * 11)
_COARSE = 8  # libjpeg decodes a picture of so much smaller a side in half the time


def _coarse(data: bytes) -> bytes:
    """The pixels of a picture, small where its kind can be decoded so without leaving data out."""
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if "progressive" not in image.info:
            image.draft(image.mode, (image.width // _COARSE or 1, image.height // _COARSE or 1))
        return image.tobytes()


def exact_pixels(data: bytes) -> bytes:
    """The pixels of a picture, to its last block's texture, in twice the time."""
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        return image.tobytes()


def check_whole(
    data: bytes, decode: Callable[[bytes], bytes] = _coarse, drawn: bytes | None = None
) -> None:
    """Raise ValueError for a JPEG whose data ends before its picture does, though it has an end marker, or zeros.

    A decoder takes no more data than a picture needs. What is put between data and end marker is therefore drawn where
    some is missing, and nowhere else: a picture that two such fillings make different is not whole. `drawn` is what
    `decode` makes of the data itself, for which a decoder takes zeros, in place of the first filling. Unless `decode`
    is given, what is missing of the texture of the last block alone may pass. Raises what `decode` raises, or Pillow.
    """
    if (place := _last_scan(data)) is None:
        return
    start, end = place
    restart = b""  # where none is waited for GDCM refuses one
    if _RESTART_INTERVAL in data[:start]:
        restart = b"\xff" + bytes([0xD0 + len(_RESTART.findall(data, start, end)) % 8])
    first, second = _FILLINGS
    ending = b"\xff" + bytes([_END])  # behind which a camera may have put other pictures
    if drawn is None:
        drawn = decode(data[:end] + first + ending)
    if drawn != decode(data[:end] + restart + second + ending):
        raise ValueError("its data ends before its picture does; copy it again")


def _last_scan(data: bytes) -> tuple[int, int] | None:
    """Where the data of the last scan begins and ends; None where there is none, or none that is looked at."""
    at, scan, is_huffman = 2, None, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        is_huffman |= marker in _FRAMES_OF_HUFFMAN
        start = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        at = start
        if marker == _START_OF_SCAN:
            found = _AFTER_SCAN.search(data, start)
            if found is None:  # zeros there may stand for what was never written
                left = len(data.rstrip(b"\0"))
                return (start, max(start, left + (data[left - 1] == 0xFF))) if is_huffman else None
            scan, at = (start, found.start()), found.end() - 2
            if data[at + 1] == _END:
                return scan if is_huffman else None
    return None
