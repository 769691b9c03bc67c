"""Waiting for a prediction: what is found is shown as it comes, until it is over, time is up, or others wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import SessionBusy
from runtime.serve.object import SessionObject
from runtime.serve.planes import Spans, union
from runtime.serve.worker import Task

LONGEST_S = 45.0  # until a prompt has been taken; clients give up after 60 s


@dataclass(frozen=True, slots=True)
class Wait:
    """How long one call waits.

    Attributes:
        clock: in seconds.
        began: on that clock.
        deadline_s: after that, for what goes on in the background then.
        is_urged: whether somebody else wants their turn.
        on_shown: called with each box that has been written to the object's buffer.
        is_prompt: whether the task takes a prompt first; what fails after that is the next call's to tell.
    """

    clock: Callable[[], float]
    began: float
    deadline_s: float
    is_urged: Callable[[], bool]
    on_shown: Callable[[SessionObject, Spans], None]
    is_prompt: bool = True

    def follow(self, chosen: SessionObject, task: Task, shows: bool = True) -> Spans | None:
        """Show what a task finds, as it comes, if anything is to be shown. Returns the box of all that was written.

        What has been prompted is always waited for; a task that is ended before has not been taken.
        Raises whatever ended the task before its prompt was taken, and SessionBusy if that could not be for too long.
        """
        changed: Spans | None = None
        while True:
            with chosen.news:
                chosen.news.wait_for(
                    lambda: (
                        self._is_enough(chosen, task)
                        or (shows and chosen.is_prompted and chosen.has_unshown)
                    ),
                    self._left(chosen),
                )
                is_enough = self._is_enough(chosen, task) or self._left(chosen) <= 0
                chosen.is_awaited = not is_enough
                is_shown = shows and chosen.is_prompted
            if is_shown and (box := chosen.show()) is not None:
                changed = union(changed, box)
                self.on_shown(chosen, box)
            if is_enough:
                break
        is_taken = self.is_prompt and chosen.is_prompted
        if task.is_over and task.error is not None and not is_taken:
            raise task.error
        if not chosen.is_prompted and not task.is_over:
            task.end()
            if not chosen.is_prompted:
                raise SessionBusy(
                    f"the network had too much to do for {LONGEST_S:g} s: the prompt was not taken; try again later"
                )
        return changed

    def _is_enough(self, chosen: SessionObject, task: Task) -> bool:
        return task.is_over or (chosen.is_prompted and self.is_urged())

    def _left(self, chosen: SessionObject) -> float:
        """Seconds that may still be waited."""
        limit = self.deadline_s if chosen.is_prompted else LONGEST_S
        return self.began + limit - self.clock()
