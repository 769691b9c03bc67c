"""Frames out of the pixel data, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SeriesError, VolumeError
from runtime.io.dicom.bounded import check_rest
from runtime.io.dicom.codestream import decode_codestream
from runtime.io.dicom.encapsulated import read_encapsulated
from runtime.io.dicom.format import PixelFormat
from runtime.io.dicom.header import Header
from runtime.io.dicom.rle import decode_rle


def read_stored(header: Header, layout: PixelFormat) -> Iterator[NDArray[Any]]:
    """Stored values of each frame, (y, x) or (y, x, 3), in the type of the format. Raises VolumeError."""
    try:
        with header.pixel_stream(layout.total_bytes) as stream:
            if header.syntax.codec:
                frames = read_encapsulated(stream, layout.frames, header.syntax)
                for number, frame in enumerate(frames):
                    yield _decode(frame, number, layout, header)
            else:
                check_rest(stream, header.pixel_at + (header.pixel_bytes or 0), header.syntax)
                stream.seek(header.pixel_at)
                yield from _read_native(stream, layout, header)
    except (VolumeError, SeriesError) as error:
        raise VolumeError(f"{header.path}: its pixels cannot be read: {error}") from error


def _decode(frame: bytes, number: int, layout: PixelFormat, header: Header) -> NDArray[Any]:
    try:
        if header.syntax.codec == "rle":
            return layout.take_out(decode_rle(frame, layout))
        decoded = decode_codestream(frame, layout, header.syntax)
        return layout.take_out(decoded.view(layout.container))
    except VolumeError as error:
        if layout.frames == 1:
            raise
        raise VolumeError(f"in frame {number}, {error}") from error


def _read_native(stream: BinaryIO, layout: PixelFormat, header: Header) -> Iterator[NDArray[Any]]:
    if layout.allocated == 1 or (layout.allocated == 8 and _is_swapped(header)):
        # Neither bits nor swapped bytes end where frames end.
        yield from _read_crossing(stream, layout, header)
        return
    container = layout.container if header.syntax.is_little else layout.container.newbyteorder(">")
    for _ in range(layout.frames):
        stored = np.frombuffer(_exactly(stream, layout.frame_bytes), container)
        yield layout.take_out(_shaped(stored.astype(layout.container, copy=False), layout))


def _is_swapped(header: Header) -> bool:
    """Whether bytes are swapped in pairs: words of big endian (PS3.5 section 7.3)."""
    return not header.syntax.is_little and header.pixel_vr == "OW"


def _read_crossing(stream: BinaryIO, layout: PixelFormat, header: Header) -> Iterator[NDArray[Any]]:
    stored = np.frombuffer(_exactly(stream, header.pixel_bytes or 0), np.uint8)
    if _is_swapped(header):
        stored = stored[: len(stored) // 2 * 2].view(np.uint16).byteswap().view(np.uint8)
    if layout.allocated == 1:
        stored = np.unpackbits(stored, bitorder="little")
    count = layout.samples_stored
    for frame in range(layout.frames):
        yield layout.take_out(_shaped(stored[frame * count : (frame + 1) * count], layout))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise VolumeError(f"cut short: found {len(data)} bytes of a frame, wanted {count}")
    return data


def _shaped(stored: NDArray[Any], layout: PixelFormat) -> NDArray[Any]:
    if layout.photometric == "YBR_FULL_422":
        # Two brightnesses and the colour that they share (PS3.3 C.7.6.3.1.2).
        groups = stored.reshape(-1, 4)
        stored = groups[:, [0, 2, 3, 1, 2, 3]].reshape(-1)
    elif layout.is_planar:
        return stored.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    shape = (layout.rows, layout.columns, layout.samples)
    return stored.reshape(shape[: 2 if layout.samples == 1 else 3])
