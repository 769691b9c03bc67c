"""Headers made of lines, as NRRD and MetaImage have them."""

from __future__ import annotations

from typing import BinaryIO

from runtime.files.plain_text import BOM, NOT_UTF16, is_utf16

MAX_HEADER_BYTES = 1 << 22
MAX_LINES = 1 << 15
"""Twice as many as there may be data files, which have a line each; a line takes Python a microsecond or two."""


class HeaderLines:
    """The lines of a header, one after the other, from where a file stands."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_LINES

    def next(self) -> str | None:
        """The next line without its end; None at the end of the file.

        Bytes that are not UTF-8 survive as surrogates, as in the system's file names.
        Raises ValueError for a header in UTF-16, and where it has had more than MAX_HEADER_BYTES, or MAX_LINES.
        """
        is_first = self._stream.tell() == 0
        line = self._stream.readline(MAX_HEADER_BYTES)
        if is_first and is_utf16(line):
            raise ValueError(NOT_UTF16)
        line = line.removeprefix(BOM) if is_first else line
        if self._stream.tell() >= MAX_HEADER_BYTES:
            raise ValueError(f"found a header of more than {MAX_HEADER_BYTES} bytes")
        self._left -= bool(line)
        if self._left < 0:
            raise ValueError(
                f"found a header of more than {MAX_LINES} lines; take its comments out"
            )
        return line.decode("utf-8", "surrogateescape").rstrip("\r\n") if line else None

    def rest(self) -> list[str]:
        """What is left, such as names of files, line by line and without blanks. Raises as next does."""
        return [name for line in iter(self.next, None) if (name := line.strip())]


def integers(text: str) -> list[int]:
    """Integers between blanks. Raises ValueError."""
    return [int(_plain(word)) for word in text.split()]


def reals(text: str) -> list[float]:
    """Numbers between blanks, which may be NaN or infinite. Raises ValueError."""
    return [float(_plain(word)) for word in text.split()]


def _plain(word: str) -> str:
    # Python reads 1_000 and digits of any script, which no header means.
    if not word.isascii() or "_" in word or len(word) > 64:
        raise ValueError(f"found {word[:80]!r} where a number was wanted")
    return word
