"""The key that clients show: from a file or the environment, never from the command line, which everybody can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.errors import InputError, MissingInput
from runtime.files.plain_text import BOM, NOT_UTF16, is_utf16, variable

VARIABLE = "MEDSAM2_SERVE_KEY"
SHORTEST, LONGEST = 16, 256
HOW_TO_MAKE = "make one with: (umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(24))' > key.txt)"


def read_key(path: str | None) -> str | None:
    """The key in a file, or in the environment variable `VARIABLE`; None where neither is given.

    Raises InputError for a key that is too short or cannot be sent in a header, or a file that others may read;
    MissingInput for a file that is not there.
    """
    if path is not None:
        return check_key(_read(Path(path)), path)
    if VARIABLE in os.environ:
        return check_key(variable(VARIABLE), VARIABLE)
    return None


def check_key(text: str, source: str) -> str:
    """A key without what surrounds it. Raises InputError."""
    key = text.strip()
    is_sendable = key.isascii() and key.isprintable() and not set(key) & set(" ,;\"'\\#%@/?")
    if not SHORTEST <= len(key) <= LONGEST or not is_sendable:
        raise InputError(
            f"{source}: found a key of {len(key)} characters; wanted {SHORTEST} to {LONGEST} letters and digits of "
            f"ASCII, without spaces, quotes and what means something in an address; {HOW_TO_MAKE}"
        )
    return key


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & (
                stat.S_IRGRP | stat.S_IROTH
            ):
                raise InputError(
                    f"{path}: others may read this key; mend it with: chmod 600 {path}"
                )
            data = file.read(4096)
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such file; {HOW_TO_MAKE}") from error
    if is_utf16(data):
        raise InputError(f"{path}: {NOT_UTF16}")
    return data.removeprefix(BOM).decode("ascii", "replace")
