"""What an object was like, to go back to and forth from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.serve.drawing import Drawn
from runtime.serve.planes import Position, Span, Spans

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
        return self.drawn if self.is_complete else self.limit


BLANK = Moment(None, None, (), frozenset(), {}, {}, True, False)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of undo or redo.

    Attributes:
        other: the object on the far side of the step.
        axis: of the predictor that the step used.
        num_changes: that it made there.
    """

    other: Moment
    axis: int
    num_changes: int
