"""Folders that appear whole or not at all, as `runtime.files.atomic` has it for files."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from uuid import uuid4

from runtime.errors import Sam2Error
from runtime.files.atomic import (
    MARK,
    lock,
    make_usable,
    mode_of,
    refusals,
    sync_file,
    sync_folder,
    temporary_start,
    unfinished,
)

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def write_whole_folder(
    path: str | PathLike[str],
    write: Callable[[Path], object],
    check: Callable[[Path], object],
    is_replaced: bool = False,
) -> Path:
    """Fill a folder beside its destination, check it, and only then give it its name.

    What lay at `path` is untouched unless all has gone well. Two processes may write the same path: each has a
    temporary folder of its own. A process that is killed leaves at most one hidden folder, which the next one to write
    this path removes.

    Args:
        path: destination; its parent has to be there.
        write: fills the empty folder that it is given.
        check: reads it back and raises what it finds wrong.
        is_replaced: whether a folder at `path` is exchanged for the new one; otherwise there may be none.

    Returns the destination. Raises Sam2Error where the system refuses, as a full disk does; what `write` and `check`
    raise otherwise passes through.
    """
    path = Path(path)
    with refusals(path):
        target = Path(os.path.realpath(path))
        _remove_abandoned(target)
        with temporary_folder(lambda: _name_beside(target)) as part:
            mode = make_usable(part, stat.S_IRWXU)
            write(part)
            for file in part.iterdir():
                sync_file(file)
            check(part)
            sync_folder(part)
            part.chmod(mode_of(target, mode))
            if is_replaced and target.exists():
                _exchange(part, target)
            else:
                _take_name(part, target)
        sync_folder(target.parent)
    return path


@contextmanager
def temporary_folder(name: Callable[[], Path], mode: int = 0o777) -> Iterator[Path]:
    """A new empty folder of a new name, locked for as long as it is there; whatever has its name at the end goes."""
    while True:
        folder = name()
        unfinished.add(folder)
        folder.mkdir(mode)
        try:
            with locked(folder, is_patient=True):
                if not folder.exists():  # taken for abandoned before it was locked
                    continue
                yield folder
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.discard(folder)


@contextmanager
def locked(folder: Path, is_patient: bool = False) -> Iterator[bool]:
    """Whether this process has a folder's lock; not on systems whose folders have none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        yield False
        return
    try:
        yield lock(descriptor, is_patient)
    finally:
        os.close(descriptor)


def _name_beside(path: Path) -> Path:
    return path.with_name(f"{temporary_start(path)}{uuid4().hex}")


def _remove_abandoned(path: Path) -> None:
    """Remove temporary folders of `path` whose writers are dead; those of living writers are locked."""
    for name in os.listdir(path.parent):
        part = path.with_name(name)
        if name.startswith(temporary_start(path)) and part.is_dir() and not part.is_symlink():
            with locked(part) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(part, ignore_errors=True)


def _take_name(part: Path, path: Path) -> None:
    try:
        part.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise Sam2Error(
            f"{path} was not there before, and is now; it is kept: name another folder, or see who else writes there"
        ) from error


def _exchange(part: Path, path: Path) -> None:
    """Give `part` the name of `path` and the reverse: at once on Linux, else in two steps.

    A process that is killed between the two leaves the old folder as `.NAME.old-...`, which nobody removes.
    """
    if _exchange_at_once(part, path):
        return
    old = part.with_name(part.name.replace(MARK, ".old-"))
    path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        old.rename(path)
        raise
    with suppress(OSError):
        old.rename(part)


def _exchange_at_once(part: Path, path: Path) -> bool:
    """Whether the system has exchanged the two names; not every file system can."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28
    if rename is None:
        return False
    names = os.fsencode(part), os.fsencode(path)
    return bool(rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
