"""When an object has ended: a chain goes no further once it was absent or unsure for some slices in a row.

SAM 2 has no such rule, and goes on drawing what it saw in the middle. Slices beyond an end are neither encoded nor
handed out, as if they lay outside a z-range; a later run without the rule goes on from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from numbers import Real
from typing import TYPE_CHECKING

from runtime.errors import InputError
from runtime.prompts.prompts import is_whole, shown

if TYPE_CHECKING:
    from runtime.track import Segmented

STOP_AFTER = 3  # slices in a row: an object may be hidden on one or two and come back


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """When to stop following an object.

    Only slices beyond the last prompted one of their direction count: who prompts an object there says that it goes on.

    Attributes:
        below: 0 to 1; a slice counts where the object is absent, or its mask is of less confidence. 0 counts absence
            alone.
        after: how many slices in a row have to count; 2 or more let an object vanish and come back.

    Raises InputError for values out of range.
    """

    below: float
    after: int = STOP_AFTER

    def __post_init__(self) -> None:
        is_number = isinstance(self.below, Real) and not isinstance(self.below, bool)
        if not (is_number and 0 <= self.below <= 1):
            raise InputError(
                f"stop_below is {shown(self.below)}; wanted a confidence from 0 to 1, or no rule at all"
            )
        if not (is_whole(self.after) and self.after >= 1):
            raise InputError(f"stop_after is {shown(self.after)}; wanted a whole number from 1")

    def counts(self, scored: Segmented) -> bool:
        """Whether the object is absent or unsure; also where the scores are no numbers."""
        is_there = scored.is_finite and scored.object_score > 0
        return not (is_there and scored.confidence >= self.below)

    def is_over(
        self, latest: Iterable[tuple[int, Segmented]], direction: int, prompted: Collection[int]
    ) -> bool:
        """Whether a chain ends here: slices that it has come to with what was found there, the latest one first."""
        last = _last_prompted(direction, prompted)
        in_a_row = takewhile(
            lambda step: (step[0] - last) * direction > 0 and self.counts(step[1]), latest
        )
        return sum(1 for _ in islice(in_a_row, self.after)) == self.after

    def cut(
        self,
        frames: Sequence[int],
        steps: Mapping[int, Segmented],
        direction: int,
        prompted: Collection[int],
    ) -> list[int]:
        """Planned slices up to where the chain ends by what is known of them, all of them if it does not."""
        last, in_a_row = _last_prompted(direction, prompted), 0
        for number, index in enumerate(frames):
            if index not in steps:
                break
            is_open = (index - last) * direction > 0
            in_a_row = in_a_row + 1 if is_open and self.counts(steps[index]) else 0
            if in_a_row == self.after:
                return list(frames[: number + 1])
        return list(frames)


def _last_prompted(direction: int, prompted: Collection[int]) -> int:
    return max(prompted) if direction > 0 else min(prompted)


@dataclass(frozen=True, slots=True)
class End:
    """Where following an object ended in one direction.

    Attributes:
        direction: +1 or -1.
        slice: the last one that it was looked for on.
        reason: "absent" or "unsure", on the last slices in a row; "range", the z-range ends there; "input", the
            volume or video does; "cancelled", the run was ended before.
    """

    direction: int
    slice: int
    reason: str


def reason_of(counted: Sequence[Segmented]) -> str:
    """Why a chain ended, by the slices in a row that counted."""
    is_absent = all(scored.is_finite and scored.object_score <= 0 for scored in counted)
    return "absent" if is_absent else "unsure"


def ends(
    scored: Mapping[int, Segmented],
    prompted: Collection[int],
    rule: StopRule | None,
    z_range: tuple[int, int] | None,
    num_slices: int,
) -> list[End]:
    """Where and why each direction of one object ended, by what it was found to be on each slice.

    Args:
        scored: slice to answer, of a run in both directions.
        prompted: slices with prompts.
        rule: of the run.
        z_range: of the run, half-open.
        num_slices: of the volume.
    """
    start, stop = z_range or (0, num_slices)
    ways = ((1, stop - 1, num_slices - 1), (-1, start, 0))
    return [_end(scored, prompted, rule, *way) for way in ways] if scored else []


def _end(
    scored: Mapping[int, Segmented],
    prompted: Collection[int],
    rule: StopRule | None,
    direction: int,
    planned: int,
    outermost: int,
) -> End:
    last = max(scored) if direction > 0 else min(scored)
    latest = [(i, scored[i]) for i in sorted(scored, reverse=direction > 0) if i not in prompted]
    if rule and rule.is_over(latest, direction, prompted):
        reason = reason_of([one for _, one in latest[: rule.after]])
    elif last == planned:
        reason = "input" if planned == outermost else "range"
    else:
        reason = "cancelled"
    return End(direction, last, reason)
