"""Text that people hand over, in the encodings that Windows' editors and shells give it."""

from __future__ import annotations

import codecs
import os

BOM = codecs.BOM_UTF8
"""What Notepad, Excel and PowerShell put before UTF-8; it says nothing, and is passed over."""

NOT_UTF16 = (
    "found text in UTF-16, as Notepad may save it and > in PowerShell does; wanted UTF-8: save it again as that, in "
    "PowerShell with | Out-File -Encoding utf8 FILE"
)


def is_utf16(head: bytes) -> bool:
    """Whether text that begins so is in UTF-16: by its mark, or by zeros between its letters."""
    is_marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return is_marked or [*map(bool, head[:4])] in ([True, False] * 2, [False, True] * 2)


def variable(name: str) -> str:
    """An environment variable, which may hold a file by $(cat FILE), without what surrounds text; "" without one."""
    return os.environ.get(name, "").removeprefix(BOM.decode()).strip()
