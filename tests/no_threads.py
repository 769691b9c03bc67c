"""A system that lets nobody start a thread, as a container with a limit on processes does."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest


def no_more_threads(patch: pytest.MonkeyPatch) -> None:
    """Python says so in these words, until the patch is undone."""

    def start(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", start)
