"""Where what can be made again is kept between runs: compiled models, and certificates of this machine.

Nothing here is an error: where nothing can be kept or what is kept has been damaged, it is made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from platformdirs import user_cache_path

from runtime.atomic import write_bytes
from runtime.errors import Sam2Error

VARIABLE = "MEDSAM2_RUNTIME_CACHE"
"""Environment variable with another folder to use; set to nothing, nothing is kept."""

log = logging.getLogger("runtime")


def cache_folder(kind: str) -> Path | None:
    """This user's folder for one kind of thing, made if missing; None where nothing is or can be kept."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "":
        return None
    try:
        folder = (Path(chosen) if chosen else user_cache_path("medsam2-runtime", False)) / kind
        if not chosen and not folder.is_absolute():
            return None  # no home is known, or one that depends on where the command is called
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # platformdirs raises the latter in later versions
        return None
    return folder if os.access(folder, os.W_OK) else None


def keep(path: Path, data: bytes) -> None:
    """Keep bytes to be read by `kept`, with their digest before them; a log line where there is no room for them."""
    try:
        write_bytes(path, hashlib.sha256(data).digest() + data)
    except Sam2Error as error:
        log.warning("not kept: %s", error)


def kept(path: Path) -> bytes | None:
    """What is kept there, or None where nothing is or where it is not what was kept."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return data[size:] if hashlib.sha256(data[size:]).digest() == data[:size] else None
