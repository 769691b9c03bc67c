"""Files that appear whole or not at all: the one way in which this project writes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from uuid import uuid4

from runtime.errors import Sam2Error

if sys.platform != "win32":
    import fcntl

MARK = ".part-"
"""What every temporary name has in it, after a dot and its destination's name."""


def write_whole(
    path: str | PathLike[str],
    write: Callable[[Path], object],
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Write a file beside its destination, check it, and only then give it its name.

    What lay at `path` before is untouched unless all has gone well. The file is on the disk, not only in the system's
    buffers, before it takes its name. Two processes may write the same path: one of them wins, whole. A process that
    is killed leaves at most one hidden file, which the next one to write this path removes.

    Args:
        path: destination; its folder has to be there.
        write: writes the file at the path that it is given, which ends in the suffixes of `path`.
        check: reads it back and raises what it finds wrong.

    Returns the destination. Raises Sam2Error where the system refuses, as a full disk does; what `write` and `check`
    raise otherwise passes through.
    """
    path = Path(path)
    try:
        _remove_abandoned(path)
        with _temporary(path) as part:
            write(part)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            if check is not None:
                check(part)
            part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        why = error.strerror or str(error)
        raise Sam2Error(f"{path} could not be written: {why}; what was there is kept") from error
    return path


def write_text(path: str | PathLike[str], text: str) -> Path:
    """Write UTF-8 text with `write_whole`."""
    return write_whole(path, lambda part: part.write_text(text, "utf-8"))


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, locked for as long as it is there."""
    while True:
        part = path.with_name(
            f"{temporary_start(path)}{uuid4().hex}{''.join(path.suffixes[-2:])[-20:]}"
        )
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            lock(descriptor, is_patient=True)
            if not part.exists():  # taken for abandoned before it was locked
                continue
            yield part
            return
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
            os.close(descriptor)


def temporary_start(path: Path) -> str:
    """What the temporary names of a destination begin with; names have at most 255 bytes in most systems."""
    return os.fsdecode(os.fsencode(f".{path.name}")[:120]) + MARK


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose writers are dead; those of living writers are locked."""
    for name in os.listdir(path.parent):
        if not name.startswith(temporary_start(path)):
            continue
        part = path.with_name(name)
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDWR)
            try:
                if lock(descriptor):
                    part.unlink()
            finally:
                os.close(descriptor)


def lock(descriptor: int, is_patient: bool = False) -> bool:
    """Whether a lock on a file was taken; never where the system has no such locks.

    `is_patient` waits for whoever has it, who has taken a file for abandoned and will be gone at once.
    """
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make a new name last; where folders cannot be opened, the system does it in its own time."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
