"""What steps of undo and redo may take in memory, of all sessions together; where they take more, the oldest go."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from weakref import WeakKeyDictionary

from runtime.serve.objects import Objects
from runtime.serve.worker import Steps, Urgency

SESSION_BYTES = 2**30
"""Of a session that shares its memory with no other."""


class UndoMemory:
    """Counts the steps of sessions that share one worker.

    Where all of them take more than there is room for, the session that has most forgets its oldest one, until they
    fit. So each may have an equal share at the least, and more where others leave it. The latest step of each session
    is kept whatever it takes: a prompt that was a mistake can be taken back.

    Args:
        room: gives bytes that there is room for now; any thread may ask it.
    """

    def __init__(self, room: Callable[[], int] = lambda: SESSION_BYTES) -> None:
        self._room, self._lock = room, Lock()
        self._held: WeakKeyDictionary[Objects, int] = WeakKeyDictionary()

    @property
    def held_bytes(self) -> int:
        """That all steps took when they were counted last."""
        with self._lock:
            return sum(self._held.values())

    @property
    def is_over(self) -> bool:
        """Whether that is more than there is room for."""
        return self.held_bytes > max(0, self._room())

    def count(self, objects: Objects) -> None:
        """Count a session's steps again, and have the oldest forgotten that do not fit; only on the worker's thread."""
        self._note(objects)
        self.settle()

    def leave(self, objects: Objects | None) -> None:
        """Count those of a session that has ended no more."""
        with self._lock:
            if objects is not None:
                self._held.pop(objects, None)

    def settling(self) -> Steps:
        """`settle` as work for the worker."""
        self.settle()
        return
        yield Urgency.PROMPT

    def settle(self) -> None:
        """Have the oldest steps forgotten that do not fit; only on the worker's thread."""
        with self._lock:
            may_forget = dict(self._held)
        while self.is_over and may_forget:
            most = max(may_forget, key=lambda objects: may_forget[objects])
            before = may_forget[most]
            if (held := self._note(most)) >= before:  # else it has been reset meanwhile
                if not most.forget_oldest_step():
                    del may_forget[most]
                    continue
                held = self._note(most)
            may_forget[most] = held

    def _note(self, objects: Objects) -> int:
        held = objects.history_bytes()
        with self._lock:
            self._held[objects] = held
        return held
