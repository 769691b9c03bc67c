"""What an object was like, to go back to and forth from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from runtime.predictors import VolumePredictor
from runtime.predictors.footprint import Footprint
from runtime.serve.drawing import Drawn
from runtime.serve.planes import Position, Span, Spans

Predictors = Mapping[int, VolumePredictor]
"""Of one object, by the axis across whose planes each follows it."""
Kind = Literal["point", "bbox", "scribble", "lasso", "seed"]


@dataclass(frozen=True, slots=True)
class Interaction:
    """A prompt as a viewer gave it.

    Attributes:
        kind: of nnInteractive's.
        is_positive: it includes what it marks.
        spans: the tight box about it, in voxels.
        axis: across whose planes it was drawn; None for what has no plane.
        points: of a point or scribble, what the network was given.
    """

    kind: Kind
    is_positive: bool
    spans: Spans
    axis: int | None = None
    points: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """An object at one time.

    Attributes:
        axis: across whose planes it is followed; None before the first prompt.
        z_range: half-open range of these planes to stay within; None is all.
        interactions: in their order.
        prompted: planes that have prompts.
        drawn: by plane.
        confidence: by plane.
        is_complete: nothing is left to be computed for these prompts.
        is_followed: a prediction was asked for with the last of them, or since.
        limit: by plane, what the network's masks are cut to; None is no limit.
    """

    axis: int | None
    z_range: Span | None
    interactions: tuple[Interaction, ...]
    prompted: frozenset[int]
    drawn: Mapping[int, Drawn]
    confidence: Mapping[int, float]
    is_complete: bool
    is_followed: bool
    limit: Mapping[int, Drawn] | None = None

    def limit_after(self, is_positive: bool) -> Mapping[int, Drawn] | None:
        """The limit that a prompt brings.

        Who says what is too much expects that something goes, here and on other planes, and nowhere that something
        comes. While masks are still being found it is not known yet what they are to be cut to.
        """
        if is_positive:
            return None
        if not self.is_complete:
            return self.limit
        # Its masks alone: what they were drawn from is not to be kept for as long as the limit is.
        return {index: replace(drawn, source=None) for index, drawn in self.drawn.items()}

    @property
    def footprint(self) -> Footprint:
        """What its masks keep in memory, and what they were drawn from, by identity."""
        sizes: Footprint = {}
        for drawn in (*self.drawn.values(), *(self.limit or {}).values()):
            sizes[id(drawn.bits)] = drawn.bits.nbytes
            if drawn.source is not None and id(drawn.source) not in sizes:
                sizes[id(drawn.source)] = drawn.source.nbytes
        return sizes


BLANK = Moment(None, None, (), frozenset(), {}, {}, True, False)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of undo or redo.

    Attributes:
        other: the object on the far side of the step.
        axis: of the predictor that the step used.
        num_changes: that it made there.
        number: larger than those of all steps that were taken before.
    """

    other: Moment
    axis: int
    num_changes: int
    number: int = field(default_factory=count(1).__next__)


@dataclass(slots=True, eq=False)
class ObjectHistory:
    """An object's steps of undo and redo; in both lists the one to be taken next is the last.

    Attributes:
        past: to be undone.
        future: to be redone; a new prompt empties it.
        num_forgotten, num_forgotten_redo: steps beyond the first of each list, which nobody can take any more.
        begun: where a prompt that is just being taken leads back to.
        num_bytes: that these steps alone keep, as they were counted last.
    """

    past: list[Change] = field(default_factory=list)
    future: list[Change] = field(default_factory=list)
    num_forgotten: int = 0
    num_forgotten_redo: int = 0
    begun: Moment | None = None
    num_bytes: int = 0

    @property
    def steps(self) -> list[Change]:
        """All of them."""
        return [*self.past, *self.future]

    def leads_to(self, axis_of: Callable[[Moment], int]) -> set[int]:
        """Axes across whose planes the object is followed on the far sides, as `axis_of` says, or by a step."""
        moments = [step.other for step in self.steps]
        moments += [] if self.begun is None else [self.begun]
        return {step.axis for step in self.steps} | {axis_of(moment) for moment in moments}

    def add(self, change: Change, predictors: Predictors, max_steps: int) -> None:
        """A prompt was taken; of more than `max_steps` that can be taken back the oldest are forgotten."""
        self.past.append(change)
        self.begun = None
        self.drop_future(predictors)
        while len(self.past) > max_steps:
            self.forget_oldest(predictors, is_past=True)

    def drop_future(self, predictors: Predictors) -> None:
        """Nothing can be redone any more, by any predictor."""
        self.future, self.num_forgotten_redo = [], 0
        for predictor in predictors.values():
            predictor.forget_redo()

    def forget_oldest(self, predictors: Predictors, is_past: bool | None = None) -> None:
        """Forget the step that was taken first, of undo (`is_past`), of redo, or of both, and what predictors keep."""
        past, future = self.past, self.future
        if is_past is None:  # what was taken later lies later in both
            is_past = bool(past) and (not future or past[0].number < future[0].number)
        gone = (past if is_past else future).pop(0)
        self.num_forgotten += is_past
        self.num_forgotten_redo += not is_past
        if (predictor := predictors.get(gone.axis)) and gone.num_changes:
            forget = predictor.forget_oldest if is_past else predictor.forget_redo
            forget(gone.num_changes)

    def count(self, predictors: Predictors, now: Moment, axis: int) -> None:
        """Count bytes that these steps alone keep: the object itself, followed across an axis, holds none of them."""
        present, kept = now.footprint, _union(step.other.footprint for step in self.steps)
        for across, predictor in predictors.items():
            its_present, its_kept = predictor.footprints()
            kept |= its_kept
            # Across another axis there is something only for a step to come back to.
            (present if across == axis else kept).update(its_present)
        self.num_bytes = sum(size for held, size in kept.items() if held not in present)


def _union(footprints: Iterable[Footprint]) -> Footprint:
    union: Footprint = {}
    for each in footprints:
        union |= each
    return union
