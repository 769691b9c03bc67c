"""Signals that come while a library is at work and calls back: what a handler raises in a callback would be lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from runtime.process.run import SIGNALS


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Numbers of the signals that have come meanwhile; the handler that was there hears of the first one at the end.

    Callbacks have to look at them, and make the library stop. A second signal comes from somebody who does not want to
    wait, and is handled where it comes. Outside the main thread, in which handlers run, there is nothing to note.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def hand_on(number: int, frame: FrameType | None) -> None:
        if callable(handler := before[number]):
            handler(number, frame)

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            with suppress(KeyboardInterrupt):  # which the library would swallow
                hand_on(came[0], frame)
            hand_on(number, frame)

    try:
        for number, handler in before.items():
            if callable(handler):  # else it is ignored, or ends the process
                signal.signal(number, note)
        yield came
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        if came:
            hand_on(came[0], None)
