"""One driver for each output: two would hand out the same studies."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import InputError

if sys.platform != "win32":
    import fcntl

FILE_NAME = ".lock"

log = logging.getLogger("runtime")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, made if missing, on which no other command works meanwhile; whoever is killed has let go of it.

    Where the file system knows no locks, the log says so. Raises InputError where another command works on it.
    """
    folder.mkdir(exist_ok=True)
    # Open for writing, without which a network file system takes it for no lock.
    descriptor = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another medsam2 cohort works on {folder}; wait for it, or end it"
        ) from error
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s); see that no other command works on it", folder, error
        )
