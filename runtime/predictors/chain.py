"""A chain: an object on its way in one direction, what it has found, and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from runtime.memory import ConditioningFrames, MemoryBank
from runtime.predictors.prompted import PromptedSlice
from runtime.predictors.region import Region
from runtime.predictors.stop import StopRule
from runtime.predictors.zoom import SURE
from runtime.track import Segmented

Plan = Mapping[int, Sequence[int]]
"""Direction to the slices to visit, in order."""

Prompted = Mapping[int, PromptedSlice]
"""Slice to its prompts and result; never changed, but replaced by another one."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchRegion:
    """What a chain sees of its slices. Memories are positions in it, so that it never changes; another one may follow.

    Attributes:
        crop: of every slice; None is all of it.
        seeds: what another one had surely found before this one began, read like a prompted slice.
    """

    crop: Region | None = None
    seeds: Prompted = field(default_factory=dict)


@dataclass(slots=True)
class Memorised:
    """Memories of prompted slices in one search region, and which results they were made of."""

    conditioning: ConditioningFrames
    of: dict[int, PromptedSlice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrackedSlice:
    """What tracking found on a slice, the prompted slices that it read for it, and where it was searched for."""

    segmented: Segmented
    prompted: Prompted
    search: SearchRegion

    @property
    def crop(self) -> Region | None:
        """The part of the slice that the network was shown."""
        return self.search.crop


@dataclass(slots=True, eq=False)
class Chain:
    """An object on its way in one direction.

    Attributes:
        direction: +1 or -1; +1 for images of a set.
        search: the region in which the next step is made.
        bank: its memory; None while it has none.
        steps: by slice, in the order in which they were made.
        num_remembered: steps that the memory has been through, or that were made in regions before; those behind have
            to be made again before it goes on.
    """

    direction: int
    search: SearchRegion
    bank: MemoryBank | None = None
    steps: dict[int, TrackedSlice] = field(default_factory=dict)
    num_remembered: int = 0

    @classmethod
    def of(cls, direction: int, steps: dict[int, TrackedSlice], search: SearchRegion) -> Chain:
        """A chain without memory that has made these steps; `search` is its region if there are none."""
        chain = cls(direction, [*steps.values()][-1].search if steps else search, steps=steps)
        chain.lose_memory()
        return chain

    @property
    def behind(self) -> list[int]:
        """Slices of the steps that the memory has not been through."""
        return list(self.steps)[self.num_remembered :]

    def ends(self, rule: StopRule | None, prompted: Prompted) -> bool:
        """Whether the latest step is the last one under a rule."""
        latest = ((index, step.segmented) for index, step in reversed(self.steps.items()))
        return rule is not None and rule.is_over(latest, self.direction, prompted)

    def up_to_end(
        self, frames: Sequence[int], rule: StopRule | None, prompted: Prompted
    ) -> list[int]:
        """Planned slices up to where the chain is known to end under a rule."""
        if rule is None:
            return list(frames)
        segmented = {index: step.segmented for index, step in self.steps.items()}
        return rule.cut(frames, segmented, self.direction, prompted)

    def widen(self, crop: Region | None) -> None:
        """Go on in a wider crop, without memory, but for the last sure mask."""
        sure = [i for i, step in self.steps.items() if step.segmented.confidence >= SURE]
        last = {i: self.steps[i] for i in sure[-1:]}
        seeds = {i: PromptedSlice((), step.segmented, crop=step.crop) for i, step in last.items()}
        self.close()
        self.search, self.num_remembered = SearchRegion(crop, seeds), len(self.steps)

    def close(self) -> None:
        """Give the memory back; steps stay."""
        if self.bank is not None:
            self.bank.close()
        self.lose_memory()

    def lose_memory(self) -> None:
        """Be without memory, whatever has become of it; steps stay."""
        before = takewhile(lambda step: step.search is not self.search, self.steps.values())
        self.bank, self.num_remembered = None, len(list(before))


Way = tuple[int, Chain, list[int]]
"""An object's id, one of its chains, and the slices to which that is still to come."""
