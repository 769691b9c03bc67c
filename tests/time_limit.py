"""A time after which whatever this process waits for is given up, and the test fails where it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

AGAIN_S = 30.0
"""After which the clearing up that follows is given up too."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail what has not ended by then, in the main thread, where it waits; one within another rules while it lasts.

    Where the system has no such clock there is no limit.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def fail(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"took longer than {seconds:g} s; what it waited for is above")

    before = signal.signal(signal.SIGALRM, fail)
    left = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)
