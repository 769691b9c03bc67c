"""What steps of undo and redo may take in memory, of all sessions together; where they take more, the oldest go."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from weakref import WeakSet

from runtime.serve.object import SessionObject
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
        self._sessions: WeakSet[Objects] = WeakSet()

    @property
    def held_bytes(self) -> int:
        """That all steps took when they were counted last."""
        return sum(objects.history_bytes for objects in self._all())

    @property
    def is_over(self) -> bool:
        """Whether that is more than there is room for."""
        return self.held_bytes > max(0, self._room())

    def count(self, objects: Objects, changed: SessionObject) -> None:
        """Count the steps of a session's object again, and have the oldest of all forgotten that do not fit.

        Only on the worker's thread.
        """
        with self._lock:
            self._sessions.add(objects)
        changed.count_history()
        self.settle()

    def leave(self, objects: Objects | None) -> None:
        """Count those of a session that has ended no more."""
        with self._lock:
            if objects is not None:
                self._sessions.discard(objects)

    def settling(self) -> Steps:
        """`settle` as work for the worker."""
        self.settle()
        return
        yield Urgency.PROMPT

    def settle(self) -> None:
        """Have the oldest steps forgotten that do not fit; only on the worker's thread."""
        may_forget = self._all()
        while self.is_over and may_forget:
            most = max(may_forget, key=lambda objects: objects.history_bytes)
            if not most.forget_oldest_step():
                may_forget.remove(most)

    def _all(self) -> list[Objects]:
        with self._lock:
            return [*self._sessions]
