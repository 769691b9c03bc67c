"""Where what can be made again is kept between runs: compiled models, and certificates of this machine.

Nothing here is an error: where nothing can be kept or what is kept has been damaged, it is made again. What is kept is
run, so it counts only where nobody else can have put it: a digest tells damage, not who computed it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from pathlib import Path

from platformdirs import user_cache_path

from runtime.errors import Sam2Error
from runtime.files.atomic import write_bytes

VARIABLE = "MEDSAM2_RUNTIME_CACHE"
"""Environment variable with another folder to use; set to nothing, nothing is kept."""

log = logging.getLogger("runtime")


def cache_folder(kind: str) -> Path | None:
    """This user's folder for one kind of thing, made if missing; None where nothing is or can be kept.

    A folder that is another user's, or that others may write into, is not used, and the log says so.
    """
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
    if others := _whose(folder.stat(), stat.S_IWGRP | stat.S_IWOTH):
        log.warning(
            "nothing is kept in %s: it %s; make it your own (chmod go-w), or name another folder in %s",
            folder,
            others,
            VARIABLE,
        )
        return None
    return folder if os.access(folder, os.W_OK) else None


def is_this_users(status: os.stat_result) -> bool:
    """Whether a file is this user's; so is every file where users have no numbers."""
    return _whose(status) is None


def _whose(status: os.stat_result, others_write: int = 0) -> str | None:
    """What is wrong with an owner, or with permissions that are among `others_write`; None if nothing is."""
    if not hasattr(os, "geteuid"):  # Windows keeps a user's profile from others by other means
        return None
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to {os.geteuid()}"
    return "can be written by others" if status.st_mode & others_write else None


def write_cached(path: Path, data: bytes) -> None:
    """Keep bytes for `read_cached`, with their digest before them; a log line where there is no room for them."""
    try:
        write_bytes(path, hashlib.sha256(data).digest() + data)
    except Sam2Error as error:
        log.warning("not kept: %s", error)


def read_cached(path: Path) -> bytes | None:
    """What is kept there, or None where nothing is, where it is not what was kept, or where another user put it."""
    try:
        with path.open("rb") as stream:
            if not is_this_users(os.fstat(stream.fileno())):
                return None
            data = stream.read()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return data[size:] if hashlib.sha256(data[size:]).digest() == data[:size] else None
