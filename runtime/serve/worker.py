"""One thread that runs the network for all sessions, a step at a time: the urgent first, and sessions in turn.

A step is one slice encoded or tracked, so that nobody who clicks waits for longer than that, whatever runs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from threading import Condition, Thread, current_thread
from typing import TypeVar

from runtime.errors import SessionClosed

log = logging.getLogger("runtime")
T = TypeVar("T")


class Urgency(IntEnum):
    """Who comes first; steps of one kind are taken in turn."""

    PROMPT = 0
    """A slice that somebody has just prompted."""
    AWAITED = 1
    """Slices of a prediction that somebody waits for."""
    BACKGROUND = 2
    """Slices of a prediction that nobody waits for."""
    AHEAD = 3
    """Encodings that nobody has asked for yet."""


Steps = Iterator[Urgency]
"""What there is to do; each step tells how urgent the next one is."""


def _nobody(task: Task) -> None:
    """Who is told of the end of work that has been told of already, or that nobody wants to know of."""


class Task:
    """Work that a worker does step by step.

    Attributes:
        owner: whose turn it uses: a session.
        urgency: of its next step.
        error: that ended it, or None.
        is_over: no step is under way, and none will come.
    """

    def __init__(
        self,
        worker: Worker,
        owner: object,
        steps: Steps,
        urgency: Urgency,
        on_over: Callable[[Task], None],
    ) -> None:
        self._worker, self._steps, self._on_over = worker, steps, on_over
        self.owner, self.urgency = owner, urgency
        self.error: BaseException | None = None
        self.is_over = self.is_ending = False

    def end(self, wait: bool = True) -> None:
        """Do no further step.

        Args:
            wait: until the step under way is over too, and everything put away; never on the worker's own thread.
        """
        self._worker.end(self, wait)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is over. Returns whether it is."""
        return self._worker.wait(self, timeout_s)

    def step(self) -> bool:
        """Do one step; only for the worker. Returns whether there are more."""
        try:
            self.urgency = next(self._steps)
        except StopIteration:
            return False
        except BaseException as error:  # whoever waits for it is told
            self.error = error
            return False
        return True

    def put_away(self) -> None:
        """Let the work close what it holds; only for the worker."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                self.error = self.error or error

    def tell(self) -> None:
        """Say that it is over to whoever made it, and hold them no more; only for the worker."""
        on_over, self._on_over = self._on_over, _nobody  # they hold this task: no circle is left
        try:
            on_over(self)
        except Exception:
            log.exception("what was to be told of the end of some work failed")


class Worker:
    """The thread and its queue.

    Every method may be called from any thread. The thread starts with the first task and is a daemon: it does not keep
    a process alive.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[Urgency, dict[object, deque[Task]]] = {u: {} for u in Urgency}
        self._thread: Thread | None = None
        self._is_closed = False

    def submit(
        self,
        owner: object,
        steps: Steps,
        urgency: Urgency,
        on_over: Callable[[Task], None] = _nobody,
    ) -> Task:
        """Begin some work. Raises SessionClosed once the worker has been closed.

        Args:
            owner: whose turn it uses.
            steps: all run on the worker's thread, and so does what they do when they are closed.
            urgency: of the first step.
            on_over: called on that thread when nothing more will be done, also if nothing ever was.
        """
        task = Task(self, owner, steps, urgency, on_over)
        with self._changed:
            if self._is_closed:
                raise SessionClosed("the worker was closed; make a new one")
            if self._thread is None:
                thread = Thread(target=self._run, name="inference", daemon=True)
                thread.start()  # which may fail, and is tried again then
                self._thread = thread
            self._enqueue(task)
        return task

    def call(self, owner: object, work: Callable[[], T], urgency: Urgency = Urgency.PROMPT) -> T:
        """Do something on the worker's thread, in its turn, and wait for it; its errors are raised here."""
        results: list[T] = []

        def once() -> Steps:
            results.append(work())
            return
            yield urgency

        task = self.submit(owner, once(), urgency)
        task.wait()
        if task.error is not None:
            raise task.error
        if not results:
            raise SessionClosed("the worker was closed before this was done")
        return results[0]

    def end(self, task: Task, wait: bool = True) -> None:
        """As `Task.end`."""
        with self._changed:
            task.is_ending = True
            if self._take_out(task):
                task.urgency = Urgency.PROMPT  # to be put away soon, on the worker's thread
                self._enqueue(task)
            if wait and current_thread() is not self._thread:
                self._changed.wait_for(lambda: task.is_over)

    def wait(self, task: Task, timeout_s: float | None = None) -> bool:
        """As `Task.wait`."""
        with self._changed:
            return self._changed.wait_for(lambda: task.is_over, timeout_s)

    def close(self, wait: bool = True) -> None:
        """End everything and the thread; whoever waits goes on. May be called twice.

        Args:
            wait: until the step under way is over too; what collects garbage must not, whatever it has interrupted.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if wait and thread is not None and thread is not current_thread():
            thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            has_more = not task.is_ending and task.step()
            with self._changed:
                goes_on = has_more and not task.is_ending and not self._is_closed
                if goes_on:
                    self._enqueue(task)
            if not goes_on:
                self._finish(task)
            del task
        with self._changed:
            left = [t for lines in self._waiting.values() for line in lines.values() for t in line]
            self._waiting = {urgency: {} for urgency in Urgency}
        for task in left:
            self._finish(task)

    def _next(self) -> Task | None:
        """The most urgent task of whoever has waited longest; None once the worker is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or any(self._waiting.values()))
            if self._is_closed:
                return None
            lines = next(lines for lines in self._waiting.values() if lines)
            owner = next(iter(lines))
            line = lines.pop(owner)  # to the end, behind all others
            task = line.popleft()
            if line:
                lines[owner] = line
            return task

    def _enqueue(self, task: Task) -> None:
        self._waiting[task.urgency].setdefault(task.owner, deque()).append(task)
        self._changed.notify_all()

    def _take_out(self, task: Task) -> bool:
        """Take a task out of the queue. Returns whether it was there: not under way, nor over."""
        for lines in self._waiting.values():
            line = lines.get(task.owner, deque())
            if task in line:
                line.remove(task)
                if not line:
                    del lines[task.owner]
                return True
        return False

    def _finish(self, task: Task) -> None:
        task.put_away()
        with self._changed:
            task.is_over = True
            self._changed.notify_all()
        task.tell()
