"""Where the frames of a multi-frame DICOM object lie.

GDCM takes a multi-frame object's geometry from its first frames and, when the others disagree,
falls back on 1 mm voxels or on the first frame's values without a word (GDCM 3.0), and SimpleITK
does not show what is inside sequences. So the few numbers that matter are read from the file here.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import SeriesError
from runtime.io.stack import Plane

POSITION = (0x0020, 0x0032)
ORIENTATION = (0x0020, 0x0037)
PIXEL_SPACING = (0x0028, 0x0030)
INTERCEPT = (0x0028, 0x1052)
SLOPE = (0x0028, 0x1053)
_WANTED = (POSITION, ORIENTATION, PIXEL_SPACING, INTERCEPT, SLOPE)

_PREAMBLE_BYTES = 128 + len(b"DICM")
_PIXEL_DATA = (0x7FE0, 0x0010)
_DELIMITERS = 0xFFFE
_UNDEFINED = 0xFFFFFFFF
# VRs whose length takes four bytes after two reserved ones (PS3.5 table 7.1-1).
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# Transfer syntaxes that are not explicit little endian: implicit, deflated, big endian.
_OTHER_SYNTAX = re.compile(rb"UI..1\.2\.840\.10008\.1\.2(\.1\.99|\.2)?(\0|\x02)", re.DOTALL)


def read_frames(path: Path, frames: int) -> tuple[list[Plane], tuple[float, float]]:
    """The plane of each frame in stored order, and the pixel spacing (y, x) in mm.

    Raises SeriesError when the object does not give one position per frame, when it gives several
    pixel spacings or rescalings, or is not stored as explicit little endian.
    """
    values = _values(path)
    positions = values[POSITION]
    if len(positions) != frames:
        raise SeriesError(
            f"{path}: found {frames} frames and {len(positions)} positions (0020|0032); wanted "
            "one per frame; radiographs and films, which have none, are no volume"
        )
    orientations = values[ORIENTATION]
    if len(orientations) not in (1, frames):
        raise SeriesError(f"{path} has {frames} frames and {len(orientations)} orientations")
    for tag, word in ((PIXEL_SPACING, "pixel spacing"), (SLOPE, "slope"), (INTERCEPT, "intercept")):
        if len(set(values[tag])) > 1:
            raise SeriesError(f"{path}: its frames have more than one {word}; wanted the same")
    if not values[PIXEL_SPACING] or len(values[PIXEL_SPACING][0]) != 2:
        raise SeriesError(f"{path} has no pixel spacing (0028|0030)")
    if any(len(p) != 3 for p in positions) or any(len(o) != 6 for o in orientations):
        raise SeriesError(f"{path} has a position that is not 3, or an orientation not 6 numbers")
    if len(orientations) == 1:
        orientations = orientations * frames
    planes = [
        Plane(f"frame {index} of {path.name}", position, orientation)
        for index, (position, orientation) in enumerate(zip(positions, orientations, strict=True))
    ]
    y_mm, x_mm = values[PIXEL_SPACING][0]
    return planes, (y_mm, x_mm)


def _values(path: Path) -> dict[tuple[int, int], list[tuple[float, ...]]]:
    values: dict[tuple[int, int], list[tuple[float, ...]]] = {tag: [] for tag in _WANTED}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # The transfer syntax stands in the file's meta group, which is always near the beginning.
        if data[128:132] != b"DICM" or _OTHER_SYNTAX.search(data[:1024]):
            raise SeriesError(
                f"{path}: where its frames lie can only be read from explicit little endian; "
                "convert it first, for instance with dcmconv +te"
            )
        try:
            for tag, text in _elements(data):
                values[tag].append(tuple(float(part) for part in text.split(b"\\")))
        except (struct.error, ValueError) as error:
            raise SeriesError(f"{path}: its header cannot be followed ({error})") from error
    return values


def _elements(data: mmap.mmap) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Wanted elements in file order, sequences walked flat (PS3.5 section 7.1.2, explicit VR)."""
    at = _PREAMBLE_BYTES
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        if group == _DELIMITERS:
            at += 8
            continue
        vr = data[at + 4 : at + 6]
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", data, at + 8)
            at += 12
        else:
            (length,) = struct.unpack_from("<H", data, at + 6)
            at += 8
        if (group, element) == _PIXEL_DATA and length == _UNDEFINED:
            return
        if vr == b"SQ":
            continue
        if length == _UNDEFINED:
            raise ValueError(f"({group:04x}|{element:04x}) is {vr!r} of undefined length")
        if (group, element) in _WANTED:
            yield (group, element), data[at : at + length].strip(b" \0")
        at += length
