"""One object of a session: its prompts, what is drawn of it, its history, and the prediction under way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.predictors import VolumePredictor
from runtime.predictors.chosen import AUTO
from runtime.predictors.result import SliceMask
from runtime.serve.drawing import NOTHING, Canvas, Drawn, within
from runtime.serve.history import BLANK, Change, Moment, ObjectHistory
from runtime.serve.image import SessionImage
from runtime.serve.planes import Spans, plane_shape, union
from runtime.serve.request import Request
from runtime.serve.worker import Steps, Task, Urgency

log = logging.getLogger("runtime")
THE_OBJECT = 1  # of its predictors: each object has its own, so that each has a history of its own


class SessionObject:
    """What is known of one object.

    The session's thread changes it between predictions, the worker's thread during them; both do so under `news`.

    Args:
        object_id, name: as the viewer knows it.
        image: in which it is.
        report: called with the box of what the worker has found while nobody waits.
        max_steps: that can be taken back; older ones cannot be any more.
    """

    def __init__(
        self,
        object_id: int,
        name: str,
        image: SessionImage,
        report: Callable[[SessionObject, Spans], None],
        max_steps: int,
    ) -> None:
        self.id, self.name = object_id, name
        self._image, self._report = image, report
        self.news = Condition()
        self.max_steps = max_steps
        self.history = ObjectHistory()
        self.canvas: Canvas | None = None
        self.task: Task | None = None
        self.is_awaited = self.is_prompted = False
        self.done = self.planned = 0
        self._predictors: dict[int, VolumePredictor] = {}
        self._unshown: dict[int, None] = {}
        self._is_whole = False  # whatever is not drawn any more has to go from the canvas too
        self._fields = BLANK
        self._drawn: dict[int, Drawn] = {}
        self._confidence: dict[int, float] = {}

    @property
    def now(self) -> Moment:
        """What it is like."""
        with self.news:
            return replace(self._fields, drawn=dict(self._drawn), confidence=dict(self._confidence))

    @property
    def axis(self) -> int:
        """Across whose planes it is followed."""
        return self.axis_of(self._fields)

    def axis_of(self, moment: Moment) -> int:
        """Across whose planes it is followed at a time."""
        return self._image.default_axis if moment.axis is None else moment.axis

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be found for its prompts."""
        return self._fields.is_complete

    @property
    def is_followed(self) -> bool:
        """Whether a prediction was asked for since its last prompt, or with it."""
        return self._fields.is_followed

    @property
    def is_running(self) -> bool:
        """Whether a prediction is under way."""
        task = self.task
        return task is not None and not task.is_over

    def confidence(self) -> NDArray[np.float32]:
        """By plane; NaN where nothing was computed."""
        now = self.now
        values = np.full(self._image.shape[self.axis_of(now)], np.nan, np.float32)
        for index, value in now.confidence.items():
            values[index] = value
        return values

    def show(self, whole: bool = False) -> Spans | None:
        """Write what is not shown yet to the buffer. Returns the box of what has changed."""
        with self.news:
            whole = whole or self._is_whole
            drawn = dict(self._drawn) if whole else {i: self._drawn[i] for i in self._unshown}
            axis = self.axis
            self._unshown, self._is_whole = {}, False
        canvas = self.need_canvas()
        return canvas.show_only(drawn, axis) if whole else canvas.show(drawn, axis)

    @property
    def has_unshown(self) -> bool:
        """Whether something was found that is not shown yet."""
        return bool(self._unshown) or self._is_whole

    def need_canvas(self) -> Canvas:
        """Where it is shown; a buffer is made if there is none."""
        if self.canvas is None:
            self.canvas = Canvas(np.zeros(self._image.shape, np.uint8))
        return self.canvas

    def show_in(self, buffer: NDArray[Any]) -> None:
        """Be shown in another buffer, with the next answer."""
        with self.news:
            self.canvas, self._is_whole = Canvas(buffer), True

    def stop(self, wait: bool = True) -> None:
        """End its prediction, if one is under way, and wait until that has ended; what was found stays."""
        if self.task is not None:
            self.task.end(wait)

    def tell(self, task: Task) -> None:
        """Wake whoever waits for its prediction, which is over."""
        with self.news:
            self.news.notify_all()
        if task.error is not None and self.is_prompted:
            log.error("a prediction failed after its prompt had been taken: %s", task.error)

    def go_to(self, moment: Moment) -> None:
        """Be as at another time."""
        with self.news:
            self._fields = moment
            self._drawn, self._confidence = dict(moment.drawn), dict(moment.confidence)
            self._unshown, self._is_whole = {}, True

    def forget(self) -> None:
        """Be as new, without history."""
        self.go_to(BLANK)
        self.history, self._predictors = ObjectHistory(), {}
        self.done = self.planned = 0

    def carry_out(self, request: Request, goes_on: bool) -> Steps:
        """Take a prompt, and follow the object from there; only on the worker's thread.

        All points of a plane are answered at once, as is usual with SAM on an image. With the embedded model a second
        point makes a Dice of .94 this way, and .25 as a correction of the first one's mask (.91).

        Until all of it is taken it can be ended as if it had never been begun.
        """
        before, predictor, num_changes = self.now, self.predictor(request.axis), 0
        history, predictors = self.history, self._predictors
        history.begun = before
        try:
            self._begin(request, goes_on)
            moves = request.is_fresh or before.axis not in (request.axis, None)
            if predictor.object_ids and (moves or not request.adds):
                # A prompt that asks the network nothing may have the object followed: that goes with it, too.
                predictor.reset() if moves else predictor.mark()
                num_changes += 1
            for prompts in request.adds:
                shown = self._image.padded(prompts, request.axis)
                slice_mask = predictor.add(*shown, object_id=THE_OBJECT, at_once=True)
                num_changes += 1
                self._take(slice_mask, request.exact)
                yield Urgency.PROMPT
        except BaseException:
            for _ in range(num_changes):
                predictor.undo()
            if num_changes:  # the predictor has forgotten what there was to redo, and would bring this back instead
                history.drop_future(predictors)
            history.begun = None
            self.go_to(before)
            raise
        history.add(Change(before, request.axis, num_changes), predictors, self.max_steps)
        with self.news:
            self.is_prompted = True
            self.news.notify_all()
        if goes_on and not self.is_complete:
            yield from self.follow()

    def follow(self) -> Steps:
        """Find what is missing, slice by slice; only on the worker's thread."""
        with self.news:
            self._fields = replace(self._fields, is_followed=True)
        predictor, z_range = self.predictor(self.axis), self._fields.z_range
        seen: set[int] = set()
        if predictor.object_ids:
            self.done, self.planned = 0, predictor.num_results(z_range)
            stop = AUTO if z_range is None else None  # a range says where it ends
            for slice_mask in predictor.steps(z_range, stop=stop):
                if slice_mask is not None:
                    seen.add(slice_mask.slice)
                    self.done = len(seen)
                    self._take(slice_mask, {})
                yield Urgency.AWAITED if self.is_awaited else Urgency.BACKGROUND
        self._complete(seen)

    def count_history(self) -> None:
        """Count memory that steps of undo and redo alone keep; only on the worker's thread."""
        self.history.count(dict(self._predictors), self.now, self.axis)

    def forget_oldest_step(self) -> None:
        """Forget the step of undo or redo that was taken first; only on the worker's thread."""
        history, predictors = self.history, self._predictors
        if history.steps:  # else it has been reset meanwhile
            history.forget_oldest(predictors)
        for axis in predictors.keys() - history.leads_to(self.axis_of) - {self.axis}:
            del predictors[axis]

    def step_back(self, is_undo: bool) -> bool:
        """Undo, from the past to the future, or redo; only on the worker's thread. Returns whether there was a step."""
        past, future = self.history.past, self.history.future
        steps_from, steps_to = (past, future) if is_undo else (future, past)
        if not steps_from:
            return False
        change = steps_from[-1]
        predictor = self.predictor(change.axis)
        for _ in range(change.num_changes):
            if is_undo:
                predictor.undo()
            else:
                predictor.redo()
        now = self.now
        steps_from.pop()
        steps_to.append(Change(now, change.axis, change.num_changes))
        self.go_to(change.other)
        return True

    def predictor(self, axis: int) -> VolumePredictor:
        """What follows this object across the planes of an axis."""
        if axis not in self._predictors:
            self._predictors[axis] = self._image.predictor(axis)
        return self._predictors[axis]

    def _begin(self, request: Request, is_followed: bool) -> None:
        """Be as a request wants it, before the network has been asked."""
        fields = self._fields
        moves = request.is_fresh or fields.axis not in (request.axis, None)
        prompted = frozenset(prompts[0].slice for prompts in request.adds)
        interactions = (request.interaction,)
        with self.news:
            self._fields = replace(
                fields,
                axis=request.axis,
                z_range=request.z_range,
                interactions=interactions
                if request.is_fresh
                else (*fields.interactions, *interactions),
                prompted=prompted if moves else fields.prompted | prompted,
                is_complete=fields.is_complete and not request.adds and not request.is_fresh,
                is_followed=is_followed,
                limit=self.now.limit_after(request.interaction.is_positive),
            )
            if moves:
                self._drawn, self._confidence = dict(request.exact), {}
                self._unshown, self._is_whole = {}, True

    def _take(self, slice_mask: SliceMask, exact: Mapping[int, Drawn]) -> None:
        """Draw what was found on a slice, if it is new."""
        before = self._drawn.get(slice_mask.slice, NOTHING)
        if before.source is slice_mask.segmented:
            return
        drawn = exact.get(slice_mask.slice)
        if drawn is None:
            y, x = plane_shape(self._image.shape, self.axis)
            drawn = within(self._fields.limit, slice_mask.slice, slice_mask.mask()[:y, :x])
        drawn = replace(drawn, source=slice_mask.segmented)
        with self.news:
            self._drawn[slice_mask.slice] = drawn
            self._confidence[slice_mask.slice] = slice_mask.confidence
            self._unshown[slice_mask.slice] = None
            is_awaited = self.is_awaited
            self.news.notify_all()
        if not is_awaited:
            boxes = [part.spans(slice_mask.slice, self.axis) for part in (before, drawn)]
            if (box := union(*boxes)) is not None:
                self._report(self, box)

    def _complete(self, seen: set[int]) -> None:
        """Nothing is left to be found: what was drawn elsewhere for earlier prompts goes."""
        with self.news:
            for index in self._drawn.keys() - seen:
                if self._drawn[index].num_pixels:
                    self._drawn[index] = NOTHING
                    self._unshown[index] = None
                self._confidence.pop(index, None)
            self._fields = replace(self._fields, is_complete=True)
            self.news.notify_all()
