"""Frames in JPEG, JPEG-LS and JPEG 2000, decoded by GDCM from a minimal file once their own headers agree.

GDCM 3.2 crashes where a codestream promises other sizes than the file around it; what it is given here is nothing but
a codestream of the right size and the few numbers it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import VolumeError
from runtime.files.scratch import scratch_folder
from runtime.io.dicom.format import PixelFormat
from runtime.io.dicom.transfer_syntax import TransferSyntax
from runtime.io.dicom.whole_frame import check_whole_jpeg, whole_jpeg2000, with_end
from runtime.io.volumes.itk import quiet, reason, sitk

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Start of frame of every JPEG process that is Huffman coded (ISO 10918-1 table B.1), and of JPEG-LS (ISO 14495-1).
_START_OF_FRAME = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)
_START_OF_SCAN, _WITHOUT_LENGTH = 0xDA, (0x01, *range(0xD0, 0xD9))
# What colours are, which DICOM headers get wrong: JFIF is always YCbCr (ISO 10918-5), Adobe's segment has a byte for it
# (ISO 10918-6, 6.5.3). Lossless processes transform nothing.
_JFIF, _ADOBE, _LOSSY, _LUMINANCE = 0xE0, 0xEE, (0xC0, 0xC1, 0xC2), "YBR_FULL_422"
# JPEG 2000: start of codestream and the size marker (ISO 15444-1, A.5.1).
_SIZES = b"\xff\x4f\xff\x51"
# What a JP2 file begins with, which some writers put around it (I.5.1).
_JP2 = b"\0\0\0\x0cjP"


class Size(NamedTuple):
    """What a codestream says of itself; `process` is the marker of JPEG's start of frame."""

    rows: int
    columns: int
    samples: int
    bits: int
    process: int = 0


def decode_codestream(frame: bytes, layout: PixelFormat, syntax: TransferSyntax) -> NDArray[Any]:
    """The frame (y, x) in its own type, or uint8 (y, x, 3) in RGB. Raises VolumeError where it cannot be decoded."""
    is_jpeg2000 = syntax.codec == "jpeg2000"
    size = _jpeg2000_size(frame) if is_jpeg2000 else _jpeg_size(frame)
    if size[:3] != (layout.rows, layout.columns, layout.samples) or size.bits > layout.allocated:
        raise VolumeError(
            f"its codestream is of {size.rows} rows of {size.columns}, {size.samples} samples of {size.bits} bits, and "
            f"its header says {layout.rows} of {layout.columns}, "
            f"{layout.samples} of {layout.allocated}"
        )
    if is_jpeg2000:
        return _decode(whole_jpeg2000(frame, frame.find(_SIZES) + 2), layout, syntax)
    ended = with_end(frame, size.process)
    decoded = _decode(ended, layout, syntax)
    again = partial(_decode, layout=layout, syntax=syntax)
    check_whole_jpeg(ended, size.process, size.bits, decoded, again)
    return decoded


def _decode(frame: bytes, layout: PixelFormat, syntax: TransferSyntax) -> NDArray[Any]:
    with scratch_folder() as folder:
        path = folder / "frame.dcm"
        path.write_bytes(_minimal_file(frame, layout, syntax))
        try:
            with quiet():
                image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
        except RuntimeError as error:
            why = reason(error).replace(str(path), "its codestream")
            raise VolumeError(
                f"its codestream is cut short, damaged, or of a kind not read ({why}); copy it again"
            ) from error
    array: NDArray[Any] = np.squeeze(sitk.GetArrayFromImage(image), 0)
    shape = (layout.rows, layout.columns, 3)[: 2 if layout.samples == 1 else 3]
    if (
        array.shape != shape
        or array.dtype.kind not in "iu"
        or array.dtype.itemsize != layout.container.itemsize
    ):
        raise VolumeError(
            f"its codestream came out as {array.dtype}{array.shape}; wanted {layout.dtype}{shape}"
        )
    return array


def _jpeg_size(data: bytes) -> Size:
    """Size in the first start of frame."""
    for marker, at in _segments(data):
        if marker in _START_OF_FRAME and at + 10 <= len(data):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
            return Size(rows, columns, samples, bits, marker)
    raise VolumeError("its codestream has no JPEG header")


def _jpeg_colours(data: bytes) -> str:
    """The photometric interpretation that a lossy codestream names, as libjpeg takes it; "" where it names none."""
    is_jfif, adobe = False, ""
    for marker, at in _segments(data):
        if marker == _JFIF and data[at + 4 : at + 9] == b"JFIF\0":
            is_jfif = True
        if marker == _ADOBE and data[at + 4 : at + 9] == b"Adobe" and at + 16 <= len(data):
            adobe = {0: "RGB", 1: _LUMINANCE}.get(data[at + 15], "")
        if marker in _LOSSY:
            return _LUMINANCE if is_jfif else adobe
    return ""


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment before the first scan; each is stepped over by its length."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _START_OF_SCAN:
            return
        yield marker, at
        at += 1 if marker == 0xFF else 2
        if marker not in (0xFF, *_WITHOUT_LENGTH):
            at += max(2, struct.unpack_from(">H", data, at)[0])


def _jpeg2000_size(data: bytes) -> Size:
    at = data.find(_SIZES) if data.startswith(_JP2) else 0 if data.startswith(_SIZES) else -1
    if at < 0 or at + 43 > len(data):
        raise VolumeError("its codestream has no JPEG 2000 header")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (samples,) = struct.unpack_from(">H", data, at + 40)
    depths = data[at + 42 : at + 42 + 3 * samples : 3]
    bits = max((depth & 0x7F) + 1 for depth in depths) if depths else 0
    return Size(bottom - top, right - left, samples, bits)


def _minimal_file(frame: bytes, layout: PixelFormat, syntax: TransferSyntax) -> bytes:
    """A DICOM file of one frame: what GDCM needs to decode it, and nothing that it could do more (PS3.10)."""
    meta = b"".join(
        (
            _element(0x0002, 0x0002, b"UI", _SECONDARY_CAPTURE),
            _element(0x0002, 0x0003, b"UI", "2.25.1"),
            _element(0x0002, 0x0010, b"UI", syntax.uid),
        )
    )
    return b"".join(
        (
            b"\0" * 128 + b"DICM",
            _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))),
            meta,
            _element(0x0008, 0x0016, b"UI", _SECONDARY_CAPTURE),
            _element(0x0008, 0x0018, b"UI", "2.25.1"),
            *_image_elements(layout, _colours(frame, layout, syntax)),
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF),
            struct.pack("<HHI", 0xFFFE, 0xE000, 0),
            struct.pack("<HHI", 0xFFFE, 0xE000, len(frame) + len(frame) % 2),
            frame + b"\0" * (len(frame) % 2),
            struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        )
    )


def _colours(frame: bytes, layout: PixelFormat, syntax: TransferSyntax) -> str:
    if layout.is_grey:  # never inverted here: ITK would turn it over
        return "MONOCHROME2"
    own = _jpeg_colours(frame) if layout.samples == 3 and syntax.codec == "jpeg" else ""
    return own or layout.photometric


def _image_elements(layout: PixelFormat, photometric: str) -> Iterator[bytes]:
    # GDCM cannot drop unused bits of bytes, and need not.
    stored = max(layout.stored, 8)
    yield _element(0x0028, 0x0002, b"US", struct.pack("<H", layout.samples))
    yield _element(0x0028, 0x0004, b"CS", photometric)
    if layout.samples > 1:
        yield _element(0x0028, 0x0006, b"US", struct.pack("<H", layout.is_planar))
    for element, value in (
        (0x0010, layout.rows),
        (0x0011, layout.columns),
        (0x0100, layout.allocated),
        (0x0101, stored),
        (0x0102, stored - 1),
        (0x0103, layout.is_signed),
    ):
        yield _element(0x0028, element, b"US", struct.pack("<H", value))


def _element(group: int, number: int, vr: bytes, value: bytes | str) -> bytes:
    if isinstance(value, str):
        value = value.encode() + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value
