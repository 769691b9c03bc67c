"""Files that appear whole or not at all: the one way in which this project writes them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from uuid import uuid4

from runtime.errors import InputError, MissingInput, Sam2Error

if sys.platform != "win32":
    import fcntl

MARK = ".part-"
"""What every temporary name has in it, after a dot and its destination's name."""
ABANDONED = re.compile(rf"\..*{re.escape(MARK)}[0-9a-f]{{32}}(\..*)?", re.DOTALL)
NAME_BYTES = 60  # of the destination's name in a temporary one: some file systems allow 143 in all
SUFFIX_LETTERS = 20

unfinished: set[Path] = set()
"""Temporary files and folders of this process, for one that is ended at once."""
_swept: set[Path] = set()
"""Folders in which this process has removed what was abandoned; a folder may hold many files, so it is read once."""


def write_whole(
    path: str | PathLike[str],
    write: Callable[[Path], object],
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Write a file beside its destination, check it, and only then give it its name.

    What lay at `path` before is untouched unless all has gone well, and what replaces it has its permissions. The file
    is on the disk, not only in the system's buffers, before it takes its name. Two processes may write the same path:
    one of them wins, whole. A process that is killed leaves at most one hidden file, which the next one that writes
    into this folder removes.

    Args:
        path: destination; its folder has to be there. A symbolic link stays one, and the file is where it leads.
        write: writes the file at the path that it is given, which ends in the suffixes of `path`.
        check: reads it back and raises what it finds wrong.

    Returns the destination. Raises Sam2Error where the system refuses, as a full disk does, and for what is there and
    is no file that may be written to; what `write` and `check` raise otherwise passes through.
    """
    path = Path(path)
    with refusals(path):
        target = _target(path)
        _remove_abandoned(target.parent)
        with _temporary(target) as (part, mode):
            write(part)
            sync_file(part)
            if check is not None:
                check(part)
            part.chmod(mode_of(target, mode))
            part.replace(target)
        sync_folder(target.parent)
    return path


def write_text(path: str | PathLike[str], text: str) -> Path:
    """Write UTF-8 text with `write_whole`."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | PathLike[str], data: bytes) -> Path:
    """Write bytes with `write_whole`."""
    return write_whole(path, lambda part: part.write_bytes(data))


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the system refuses, as a Sam2Error about `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Sam2Error):
            raise
        said = error
        while isinstance(
            said.__cause__, OSError
        ):  # around which pydicom puts a whole traceback as text
            said = said.__cause__
        why = said.strerror or str(said)
        raise Sam2Error(f"{path} could not be written: {why}; what was there is kept") from error


def check_destination(path: Path) -> None:
    """See that a file may be written at `path`, or where it leads if it is a link, before work goes into it.

    Raises InputError for a folder of that name, a name that no file can have and a folder that may not be written to,
    MissingInput where there is no folder to write into, and Sam2Error as `write_whole` does.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; wanted the name of a file")
        folder = _target(path).parent
        if not folder.is_dir():
            raise MissingInput(f"{folder} is not a folder; make it before writing {path.name}")
    except (OSError, ValueError) as error:
        if isinstance(error, Sam2Error):
            raise
        raise InputError(f"{path} cannot be written: {error}; name another file") from error
    _check_writable(folder)


def check_folder(folder: Path) -> None:
    """See that a folder can be made, or be written into, before work goes into what it is to hold.

    Raises InputError for a file of that name and for a folder that may not be written to, MissingInput where there is
    no folder to make it in.
    """
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{folder} is a file; name a folder")
        if not folder.parent.is_dir():
            raise MissingInput(f"{folder.parent} is not a folder; make it first")
    _check_writable(folder if folder.is_dir() else folder.parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} may not be written to; choose another folder")


def _target(path: Path) -> Path:
    """Where a file of that name really goes, through links.

    Raises Sam2Error for what is there and is no file, which would be replaced by one, and for what its owner has
    protected; OSError where nobody can have a look.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        return target
    if not target.is_file():
        raise Sam2Error(f"{target} is there and is no file; name another one to write")
    if not os.access(target, os.W_OK):
        raise Sam2Error(f"{target} is write-protected; name another file, or allow writing")
    return target


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, int]]:
    """A new empty file beside `target`, locked for as long as it is there; and the permissions a new file gets."""
    while True:
        part = _name_beside(target)
        unfinished.add(part)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            lock(descriptor, is_patient=True)
            if not part.exists():  # taken for abandoned before it was locked
                continue
            mode = make_usable(part, stat.S_IRUSR | stat.S_IWUSR)
            yield part, mode
            return
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
            unfinished.discard(part)
            os.close(descriptor)


def remove_unfinished() -> None:
    """Remove what this process has begun to write, since it will not come to that any more."""
    for part in list(unfinished):
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _name_beside(target: Path) -> Path:
    suffix = "".join(target.suffixes[-2:])[-SUFFIX_LETTERS:]
    return target.with_name(f"{temporary_start(target)}{uuid4().hex}{suffix}")


def temporary_start(path: Path) -> str:
    """What the temporary names of a destination begin with."""
    start = os.fsencode(f".{path.name}")[:NAME_BYTES]
    with suppress(UnicodeDecodeError):  # a letter cut in half goes; other bytes stay as they are
        os.fsencode(path.name).decode("utf-8")
        start = start.decode("utf-8", "ignore").encode("utf-8")
    return os.fsdecode(start) + MARK


def make_usable(part: Path, needed: int) -> int:
    """See that this process may use what it has made, whatever the umask is. Returns the permissions it had."""
    mode = stat.S_IMODE(part.stat().st_mode)
    if mode & needed != needed:
        part.chmod(mode | needed)
    return mode


def mode_of(target: Path, default: int) -> int:
    """Permissions of what is there, or others where nothing is."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        return default


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writers are dead; those of living writers are locked."""
    if folder in _swept:
        return
    all_dead = True
    for name in filter(ABANDONED.fullmatch, os.listdir(folder)):
        part = folder / name
        if part.is_dir():  # `runtime.files.atomic_folder` sees to those
            continue
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY)
            try:
                if lock(descriptor):
                    part.unlink()
                else:
                    all_dead = False
            finally:
                os.close(descriptor)
    if all_dead:
        _swept.add(folder)


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


def sync_file(file: Path) -> None:
    """See that a file is on the disk."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """See that the names in a folder are; where folders cannot be opened, the system does it in its own time."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
