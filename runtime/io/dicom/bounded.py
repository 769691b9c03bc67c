"""A file that is never read beyond its end, and whether elements fill it up to there."""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO, cast

from runtime.errors import VolumeError
from runtime.io.dicom.elements import refusing
from runtime.io.dicom.transfer_syntax import TransferSyntax

_PIXEL_DATA = 0x7FE00010
_LEAST_READS, _BYTES_PER_READ = 200_000, 64
_MOST_ZEROS = 1 << 16  # that some writers fill up a file with


class BoundedFile:
    """A binary file for pydicom.

    Python would first make room for whatever length an element claims, and an element takes pydicom some
    microseconds: both are bounded by the file's size.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        stream.seek(0, os.SEEK_END)
        self.size = stream.tell()
        stream.seek(0)
        self.tell, self.seek = stream.tell, stream.seek
        # Each takes three reads or less; 10,000 frames of 64 x 64 pixels are described by a million.
        self._reads_left = _LEAST_READS + self.size // _BYTES_PER_READ

    def read(self, count: int = -1) -> bytes:
        """Read at most what is left. Raises ValueError for more reads than a header of this size can need."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ValueError("its header has too many elements")
        left = max(0, self.size - self._stream.tell())
        return self._stream.read(left if count < 0 else min(count, left))


def check_rest(stream: BinaryIO, end: int, syntax: TransferSyntax) -> None:
    """Raise VolumeError unless what follows the pixels, which end at `end`, is nothing, zeros, or further elements.

    Where bytes were lost or added within the pixels, something else is left over.
    """
    from pydicom.filereader import read_dataset

    file = BoundedFile(stream)
    file.seek(end)
    rest = file.read(_MOST_ZEROS)
    if not rest.strip(b"\0"):
        return
    file.seek(end)
    with (
        warnings.catch_warnings(action="ignore"),
        refusing(VolumeError, "what follows its pixels is no element"),
    ):
        read_dataset(
            cast(BinaryIO, file),
            syntax.is_implicit,
            syntax.is_little,
            stop_when=lambda tag, *_: tag <= _PIXEL_DATA,
            specific_tags=[_PIXEL_DATA],
        )
    if len(rest) < 8 or file.tell() != file.size:
        raise VolumeError("what follows its pixels is no element; bytes were lost or added")
