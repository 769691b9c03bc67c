"""Folders for what nobody keeps: files that arrive, or that a library wants to have as files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from runtime.files.atomic import unfinished
from runtime.files.atomic_folder import locked

START = "medsam2-scratch-"
"""Of the folders' names, which nothing else in the system's temporary folder begins with."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder in the system's temporary one, for this user alone, which goes at the end with what it holds.

    That of a process that is killed stays, patients' scans and all, until the next one to ask for a folder removes it;
    those of living processes are locked. Raises OSError where there can be none.
    """
    _remove_abandoned(gettempdir())
    while True:
        folder = Path(mkdtemp(prefix=START))
        unfinished.add(folder)
        try:
            with locked(folder, is_patient=True):
                if not folder.exists():  # taken for abandoned before it was locked
                    continue
                yield folder
                return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.discard(folder)


@cache  # once a process: the system's temporary folder may hold many others
def _remove_abandoned(temporary: str) -> None:
    remove_abandoned(temporary)


def remove_abandoned(temporary: str | None = None) -> None:
    """Remove this user's folders whose processes are dead, in the system's temporary folder. Raises OSError."""
    for entry in os.scandir(temporary or gettempdir()):
        if not entry.name.startswith(START) or not entry.is_dir(follow_symlinks=False):
            continue
        with locked(Path(entry.path)) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(entry.path, ignore_errors=True)
