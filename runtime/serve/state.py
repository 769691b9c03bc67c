"""What all verbs of a session share: whose turn it is, the image, its objects, and how a prompt is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, RLock

from runtime.errors import NoImage, OutOfMemory, SessionClosed
from runtime.io.volumes.volume import Volume
from runtime.model import Model
from runtime.serve.answer import Wait
from runtime.serve.image import SessionImage
from runtime.serve.object import SessionObject
from runtime.serve.objects import Objects
from runtime.serve.planes import Box3, Position, Spans, as_lists
from runtime.serve.request import Request, Scene
from runtime.serve.undo_memory import UndoMemory
from runtime.serve.worker import Steps, Task, Urgency, Worker
from runtime.steps.encodings import Encodings

log = logging.getLogger("runtime")
Ask = Callable[[Scene], Request]
"""What a prompt asks, once the object stands still."""
Read = Callable[[Position], Ask]
"""Reads a prompt for an image of a shape; raises PromptError for one that does not fit."""
OnSlices = Callable[[int, Box3], None]


NO_IMAGE = "there is no image yet; call set_image first"


class SessionState:
    """A session but for its verbs; every method but `urge` and what only looks belongs into a `turn`.

    Args:
        model, encodings, worker, undo_memory, window, clock: as of the session.
    """

    def __init__(
        self,
        model: Model,
        encodings: Encodings,
        worker: Worker,
        undo_memory: UndoMemory,
        window: str,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.encodings, self.worker = model, encodings, worker
        self.undo_memory, self.window, self.clock = undo_memory, window, clock
        self.image: SessionImage | None = None
        self.objects: Objects | None = None
        self.on_slices: OnSlices | None = None
        self.is_closed = self.ran_prediction = False
        self.is_zoomed = True
        self._lock, self._count_lock, self._num_urging = RLock(), Lock(), 0
        self._ahead: Task | None = None

    @contextmanager
    def turn(self, is_urging: bool = True) -> Iterator[None]:
        """One call at a time. Raises SessionClosed.

        Args:
            is_urging: a call that waits for a prediction is to be answered with what there is, to make room for this.
        """
        if is_urging:
            self.urge(1)
        self._lock.acquire()
        if is_urging:
            self.urge(-1)
        try:
            if self.is_closed:
                raise SessionClosed("the session was closed; make a new one")
            yield
        finally:
            self._lock.release()

    def urge(self, more: int) -> None:
        """Count with those who want their turn."""
        with self._count_lock:
            self._num_urging += more
        for obj in self.objects or ():
            with obj.news:
                obj.news.notify_all()

    def set_image(self, volume: Volume) -> None:
        """Take an image, with one object in it, and begin to encode it. Raises InputError, and is without one then."""
        self.drop_image()
        try:
            image = SessionImage(volume, self.model, self.encodings, self.window, self.is_zoomed)
        except MemoryError as error:
            raise OutOfMemory(
                f"an image of {volume.shape} does not fit into memory beside what is there; crop it, or close others"
            ) from error
        self.image, self.objects = image, Objects(image, self._report)
        self._encode_ahead(image)

    def set_zoom(self, is_zoomed: bool) -> None:
        """Whether objects to come are seen with the bundle's zoom, if it has one."""
        self.is_zoomed = is_zoomed
        if (image := self.image) is not None and image.is_zoomed != is_zoomed:
            image.is_zoomed = is_zoomed
            if self._ahead is not None:
                self._ahead.end()
            self._encode_ahead(image)

    def _encode_ahead(self, image: SessionImage) -> None:
        self._ahead = self.worker.submit(self, image.encode_ahead(), Urgency.AHEAD, _say_failed)

    def drop_image(self) -> None:
        """Be without an image, its objects and all that goes on for them."""
        for task in [self._ahead, *(obj.task for obj in self.objects or ())]:
            if task is not None:
                task.end()
        if self.image is not None:
            try:
                self.worker.call(self, self.image.close)
            except SessionClosed:  # a worker that is closed encodes for nobody
                self.image.close()
        self.undo_memory.leave(self.objects)
        self.image = self.objects = self._ahead = None

    def close(self) -> None:
        """Be without anything, for good."""
        self.urge(1)
        with self._lock:
            self.urge(-1)
            self.is_closed = True
            self.drop_image()
            self.on_slices = None  # whoever listens holds the session

    def need_image(self) -> SessionImage:
        """The image. Raises NoImage."""
        if (image := self.image) is None:
            raise NoImage(NO_IMAGE)
        return image

    def need_objects(self) -> Objects:
        """The objects. Raises NoImage."""
        if (objects := self.objects) is None:
            raise NoImage(NO_IMAGE)
        return objects

    def chosen(self) -> SessionObject:
        """The object that is selected. Raises NoImage."""
        return self.need_objects().chosen

    def prompt(
        self,
        read: Read,
        deadline_s: float,
        runs: bool,
        is_shown: bool = False,
    ) -> Box3 | None:
        """Take a prompt for the selected object. Returns the box of its buffer that was written.

        Args:
            read: the prompt; one that does not fit stops nothing.
            deadline_s: from now on.
            runs: follow the object from there.
            is_shown: show it even if not.
        """
        began = self.clock()
        with self.turn():
            chosen, image = self.chosen(), self.need_image()
            ask = read(image.shape)
            chosen.stop()
            request = ask(Scene(chosen.now, image.shape, image.default_axis))
            self.ran_prediction = runs
            task = self._begin(chosen, chosen.carry_out(request, runs), Urgency.PROMPT)
            wait = self._wait(began, deadline_s)
            return as_lists(wait.follow(chosen, task, runs or is_shown))

    def go_on(self, deadline_s: float) -> Box3 | None:
        """Show what was found of the selected object, and wait for what is missing."""
        began = self.clock()
        with self.turn(is_urging=False):
            chosen = self.chosen()
            self.ran_prediction = bool(chosen.now.interactions)
            task = chosen.task
            if not chosen.is_running and not chosen.is_complete:
                task = self._begin(chosen, chosen.follow(), Urgency.AWAITED)
                chosen.is_prompted = True
            if task is None or task.is_over:
                return as_lists(chosen.show())
            wait = self._wait(began, deadline_s, is_prompt=False)
            return as_lists(wait.follow(chosen, task))

    def step_back(self, is_undo: bool) -> Box3 | None:
        """Undo or redo for the selected object, and go on in the background with what was missing then."""
        with self.turn():
            chosen, objects = self.chosen(), self.need_objects()
            chosen.stop()

            def step() -> bool:
                was_there = chosen.step_back(is_undo)
                self.undo_memory.count(objects, chosen)
                return was_there

            self.ran_prediction = self.worker.call(self, step)
            if not self.ran_prediction:
                return None
            changed = as_lists(chosen.show())
            if chosen.is_followed and not chosen.is_complete:
                self._begin(chosen, chosen.follow(), Urgency.BACKGROUND)
                chosen.is_prompted, chosen.is_awaited = True, False
            return changed

    def _begin(self, chosen: SessionObject, steps: Steps, urgency: Urgency) -> Task:
        chosen.is_prompted, chosen.is_awaited = False, True
        chosen.task = self.worker.submit(self, self._counted(chosen, steps), urgency, chosen.tell)
        return chosen.task

    def _counted(self, chosen: SessionObject, steps: Steps) -> Steps:
        """A prediction, after which is counted what undo keeps: masks that it has found anew are there twice then."""
        objects = self.need_objects()
        try:
            yield from steps
        finally:
            self.undo_memory.count(objects, chosen)

    def _wait(self, began: float, deadline_s: float, is_prompt: bool = True) -> Wait:
        return Wait(
            self.clock, began, deadline_s, lambda: self._num_urging > 0, self._report, is_prompt
        )

    def _report(self, chosen: SessionObject, spans: Spans) -> None:
        if (on_slices := self.on_slices) is None:
            return
        try:
            on_slices(chosen.id, as_lists(spans) or [])
        except Exception:
            log.exception("on_slices failed; the prediction goes on")


def _say_failed(task: Task) -> None:
    """Nobody waits for encodings ahead of need; who needs them will be told."""
    if task.error is not None:
        log.error("encoding ahead failed: %s", task.error)
