"""The one place where compressed bytes are inflated: never ahead of need, checksums checked."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from runtime.errors import VolumeError

# window bits of zlib's inflateInit2: gzip alone, or whichever of zlib and gzip is there.
WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "zlib": 32 + zlib.MAX_WBITS}
# As much as deflate can shrink anything (zlib.net, "zlib technical details").
MAX_RATIO = 1032

_PACKED_BYTES = 1 << 15
_PIECE_BYTES = 1 << 20


class Inflated(io.RawIOBase):
    """What a gzip or zlib stream holds, from where `file` stands to the end of the file.

    Several gzip members in a row are one stream (RFC 1952), and zeros may follow them, as tapes
    leave them. Reading raises VolumeError for damage, for a stream without its end and checksum,
    and for other bytes behind the end.
    """

    def __init__(self, file: BinaryIO, path: Path, packing: str = "gzip") -> None:
        super().__init__()
        self._file, self._path, self._packing = file, path, packing
        self._inflater = zlib.decompressobj(WINDOW_BITS[packing])
        self._packed = b""
        self._ended = False

    def readinto(self, buffer: Any) -> int:
        """Put some bytes into a buffer; return how many, 0 at the end, whose checksum was right."""
        view = memoryview(buffer).cast("B")
        while len(view) and not self._ended:
            try:
                piece = self._inflate(min(len(view), _PIECE_BYTES))
            except zlib.error as error:
                raise VolumeError(f"{self._path} is damaged ({error}); copy it again") from error
            if piece:
                view[: len(piece)] = piece
                return len(piece)
        return 0

    def _inflate(self, most: int) -> bytes:
        if self._inflater.eof:
            self._next_member()
            return b""
        packed = self._packed or self._file.read(_PACKED_BYTES)
        piece = self._inflater.decompress(packed, most)
        self._packed = self._inflater.unconsumed_tail
        if not packed and not piece and not self._inflater.eof:
            raise VolumeError(
                f"{self._path} is cut short: its compressed data has no end; copy it again"
            )
        return piece

    def _next_member(self) -> None:
        """Go on to another gzip member, or end."""
        padding = b"\0" if self._packing == "gzip" else b""
        rest = self._inflater.unused_data.lstrip(padding)
        while len(rest) < 2 and (more := self._file.read(_PACKED_BYTES)):
            rest = (rest + more).lstrip(padding)
        if not rest:
            self._ended = True
        elif self._packing == "gzip" and rest[:2] == b"\x1f\x8b":
            self._inflater = zlib.decompressobj(WINDOW_BITS["gzip"])
            self._packed = rest
        else:
            raise VolumeError(
                f"{self._path} goes on behind the end of its compressed data; copy it again"
            )
