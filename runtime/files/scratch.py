"""Folders for what nobody keeps: files that arrive, or that a library wants to have as files."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from runtime.files.atomic_folder import locked, temporary_folder
from runtime.files.cache import is_this_users

START = "medsam2-scratch-"
"""Of the folders' names, which nothing else in the system's temporary folder begins with."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder in the system's temporary one, for this user alone, which goes at the end with what it holds.

    That of a process that is killed stays, patients' scans and all, until the next one to ask for a folder removes it;
    those of living processes are locked. Raises OSError where there can be none.
    """
    temporary = gettempdir()
    _remove_abandoned(temporary)
    with temporary_folder(lambda: Path(temporary, f"{START}{uuid4().hex}"), stat.S_IRWXU) as folder:
        yield folder


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
