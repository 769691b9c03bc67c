"""Run lengths: a frame as one segment for each byte of its samples (PS3.5 annex G)."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.io.dicom.format import PixelFormat

_HEADER_BYTES, _MOST_SEGMENTS = 64, 15


def decode_rle(frame: bytes, layout: PixelFormat) -> NDArray[Any]:
    """The frame (y, x), or (y, x, samples), in the type that holds a sample; no larger than its format says.

    Raises VolumeError where segments are missing, too short or too long.
    """
    count = layout.samples * layout.container.itemsize
    if len(frame) < _HEADER_BYTES or layout.allocated == 1:
        raise VolumeError("its run lengths have no header")
    number, *offsets = struct.unpack_from(f"<{1 + _MOST_SEGMENTS}I", frame)
    if number != count:
        raise VolumeError(f"found {number} segments of run lengths; wanted {count}")
    bounds = [*offsets[:count], len(frame)]
    if bounds[0] < _HEADER_BYTES or any(start >= end for start, end in pairwise(bounds)):
        raise VolumeError("its segments of run lengths lie outside the frame")
    pixels = layout.rows * layout.columns
    planes = [_unpack(frame, start, end, pixels) for start, end in pairwise(bounds)]
    # Segments go from the most significant byte of the first sample to the least of the last.
    grouped = np.stack(planes).reshape(layout.samples, -1, pixels)
    samples = np.ascontiguousarray(grouped.transpose(0, 2, 1))
    values = samples.view(layout.container.newbyteorder(">"))[..., 0].astype(layout.container)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    return values.T.reshape(layout.rows, layout.columns, layout.samples)


def _unpack(data: bytes, at: int, end: int, wanted: int) -> NDArray[np.uint8]:
    """The `wanted` bytes that a segment stands for; what follows them may only be padding."""
    out = bytearray()
    while len(out) < wanted and at < end:
        head = data[at]
        if head < 128:
            out += data[at + 1 : min(at + 2 + head, end)]
            at += 2 + head
        elif head > 128:
            out += data[at + 1 : min(at + 2, end)] * (257 - head)
            at += 2
        else:
            at += 1
    if len(out) != wanted or at > end:
        raise VolumeError(f"found {len(out)} bytes in a segment of run lengths; wanted {wanted}")
    if data[at:end].strip(b"\0\x80"):
        raise VolumeError("a segment of run lengths goes on after its last pixel")
    return np.frombuffer(bytes(out), np.uint8)
