"""What `undo` goes back to and `redo` forth to: of each change, what its objects were like on the other side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from runtime.errors import PromptError
from runtime.predictors.footprint import Footprint, footprint
from runtime.predictors.runs import alone
from runtime.predictors.tracked_object import State, TrackedObject

Change = dict[int, State | None]
"""Objects on the other side of a change; None where there was none."""


@dataclass(slots=True, eq=False)
class History:
    """Changes that can be taken back, and those that have been.

    Attributes:
        lock: one thread at a time.
        objects: that change, by id.
        new: makes one more.
        past: latest last.
        future: latest taken back last; a new change empties it.
    """

    lock: AbstractContextManager[object]
    objects: dict[int, TrackedObject]
    new: Callable[[], TrackedObject]
    past: list[Change] = field(default_factory=list)
    future: list[Change] = field(default_factory=list)

    def note(self, object_ids: Iterable[int]) -> None:
        """Some objects are about to change."""
        self.past.append(self._states(object_ids))
        self.future.clear()

    @alone
    def mark(self) -> None:
        """Have the next `undo` come back to here, as if something changed."""
        self.note(self.objects)

    @alone
    def undo(self) -> None:
        """Be as before the last change. Raises PromptError if there is none."""
        if not self.past:
            raise PromptError("nothing to undo: no prompt has been added")
        self._go_over(self.past, self.future)

    @alone
    def redo(self) -> None:
        """Be as before the last `undo`. Raises PromptError if there is none, or another change since."""
        if not self.future:
            raise PromptError("nothing to redo: no prompt has been taken back since the last one")
        self._go_over(self.future, self.past)

    @alone
    def forget(self, count: int) -> None:
        """Give up going back to the oldest of the changes, and what is kept for that."""
        del self.past[:count]

    @alone
    def forget_redo(self, count: int | None) -> None:
        """Give up coming forth again to the furthest of the changes that were taken back; None is all of them."""
        del self.future[:count]

    @alone
    def footprints(self) -> tuple[Footprint, Footprint]:
        """What the objects hold as they are, and what the changes do that can be taken back or brought back."""
        now = footprint(obj.state() for obj in self.objects.values())
        changes = (state for change in (*self.past, *self.future) for state in change.values())
        return now, footprint(state for state in changes if state is not None)

    def _go_over(self, one: list[Change], other: list[Change]) -> None:
        """Go to the far side of the last of some changes, from where the other ones lead back."""
        other.append(self._states(one[-1]))
        for object_id, there in one.pop().items():
            if there is not None:
                self.objects.setdefault(object_id, self.new()).go_back(there)
            elif gone := self.objects.pop(object_id, None):
                gone.forget()

    def _states(self, object_ids: Iterable[int]) -> Change:
        objects = self.objects
        return {i: objects[i].state() if i in objects else None for i in object_ids}
