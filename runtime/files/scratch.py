"""Folders for what nobody keeps: files that arrive, or that a library wants to have as files."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from runtime.errors import Sam2Error
from runtime.files.atomic_folder import locked, temporary_folder
from runtime.files.cache import is_this_users
from runtime.process.shortage import NOWHERE_TO_WRITE, causes

START = "medsam2-scratch-"
"""Of the folders' names, which nothing else in the system's temporary folder begins with."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder in the system's temporary one, for this user alone, which goes at the end with what it holds.

    That of a process that is killed stays, patients' scans and all, until the next one to ask for a folder removes it;
    those of living processes are locked. Raises Sam2Error where there can be none, or is no room in it.
    """
    with ExitStack() as held:
        try:
            temporary = gettempdir()
            _remove_abandoned(temporary)
            making = temporary_folder(
                lambda: Path(temporary, f"{START}{uuid4().hex}"), stat.S_IRWXU
            )
            folder = held.enter_context(making)
        except OSError as error:
            raise Sam2Error(
                f"no folder can be made for a moment's files ({error.strerror or error}); name one in TMPDIR"
            ) from error
        try:
            yield folder
        except (OSError, Sam2Error) as error:
            is_of_another = isinstance(error, Sam2Error) and str(folder) not in str(error)
            if is_of_another or not (why := _lack_of_room(error)):
                raise
            raise Sam2Error(
                f"{temporary}, where files lie for a moment, has no room ({why}); make some, or name another folder in "
                "TMPDIR"
            ) from error


def _lack_of_room(error: Exception) -> str:
    """What the system says of a folder that takes no more; nothing where that is not why an error was raised."""
    of_system = (cause for cause in causes(error) if isinstance(cause, OSError))
    return next((str(c.strerror) for c in of_system if c.errno in NOWHERE_TO_WRITE), "")


@cache  # once a process: the system's temporary folder may hold many others
def _remove_abandoned(temporary: str) -> None:
    remove_abandoned(temporary)


def remove_abandoned(temporary: str | None = None) -> None:
    """Remove this user's folders whose processes are dead, in the system's temporary folder. Raises OSError."""
    for entry in os.scandir(temporary or gettempdir()):
        with suppress(FileNotFoundError):  # whoever had it has removed it meanwhile
            if not entry.name.startswith(START) or not _is_own_folder(entry):
                continue
            with locked(Path(entry.path)) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_own_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and is_this_users(entry.stat(follow_symlinks=False))
