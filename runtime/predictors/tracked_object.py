"""One object as it is followed: its prompts, its conditioning frames, a chain in each direction, and how to go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest

from runtime.memory import ConditioningFrames, MemoryBank
from runtime.predictors.prompted import PromptedSlice
from runtime.predictors.region import Region, Shape, widest
from runtime.predictors.stop import StopRule
from runtime.predictors.zoom import SURE, Zoom
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
        because: the slice on which the one before had become too tight, or None.
    """

    crop: Region | None = None
    seeds: Prompted = field(default_factory=dict)
    because: int | None = None


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
        found = {index: step.segmented for index, step in self.steps.items()}
        return rule.cut(frames, found, self.direction, prompted)

    def close(self) -> None:
        """Give the memory back; steps stay."""
        if self.bank is not None:
            self.bank.close()
        self.lose_memory()

    def lose_memory(self) -> None:
        """Be without memory, whatever has become of it; steps stay."""
        before = takewhile(lambda step: step.search is not self.search, self.steps.values())
        self.bank, self.num_remembered = None, len(list(before))

    def outgrows(self, frame: int, segmented: Segmented, zoom: Zoom, shape: Shape) -> bool:
        """Whether a new mask comes so near to the edge of its crop that there may be more of it outside.

        The chain goes on in a wider one then, seeded with its last sure mask, and the slice is to be segmented again.
        """
        if (
            self.search.crop is None or frame in self.steps
        ):  # one that is made again stays as it was
            return False
        wider = zoom.outgrown(segmented.unfilled, self.search.crop, shape)
        if wider == self.search.crop:
            return False
        sure = [i for i, step in self.steps.items() if step.segmented.confidence >= SURE]
        seeds = {
            i: PromptedSlice((), self.steps[i].segmented, crop=self.steps[i].crop)
            for i in sure[-1:]
        }
        self.close()
        self.search, self.num_remembered = SearchRegion(wider, seeds, frame), len(self.steps)
        return True


Way = tuple[int, Chain, list[int]]
"""An object's id, one of its chains, and the slices to which that is still to come."""


@dataclass(frozen=True, slots=True)
class State:
    """What undo goes back to: prompts, and what runs had found by then.

    Attributes:
        prompted: slice to its prompts and result.
        read: as in `TrackedObject`.
        chains: each with the steps that it had made.
    """

    prompted: Prompted
    read: Prompted
    chains: tuple[tuple[Chain, dict[int, TrackedSlice]], ...]


@dataclass(slots=True)
class TrackedObject:
    """What is known about one object.

    Attributes:
        is_ordered: False for images of a set, which chains see whole: what is large on one may be small on another.
        search: that of new chains.
        memorised: memories of prompted slices, by search region.
        prompted: slice to its prompts and result.
        read: the prompted slices that the chains' memories agree with: their own memories of these are dropped.
        chains: by direction.
    """

    is_ordered: bool = True
    search: SearchRegion = field(default_factory=SearchRegion)
    memorised: dict[SearchRegion, Memorised] = field(default_factory=dict)
    prompted: Prompted = field(default_factory=dict)
    read: Prompted = field(default_factory=dict)
    chains: dict[int, Chain] = field(default_factory=dict)

    @property
    def crop(self) -> Region | None:
        """The part of slices in which the object is seen, where it is prompted."""
        return widest(crops_of(self.prompted))

    def step(self, index: int) -> tuple[Chain, TrackedSlice] | None:
        """What tracking found on a slice, and on which way, if it came there."""
        steps = ((chain, chain.steps.get(index)) for chain in self.chains.values())
        return next(((chain, step) for chain, step in steps if step), None)

    def found(self) -> dict[int, PromptedSlice | TrackedSlice]:
        """What is known by slice: of prompted ones what their prompts gave, of others what tracking found."""
        steps = (step for chain in self.chains.values() for step in chain.steps.items())
        found: dict[int, PromptedSlice | TrackedSlice] = {**dict(steps), **self.prompted}
        return dict(sorted(found.items()))

    def can_go_on(self, plan: Plan) -> bool:
        """Whether what the chains have found is what this plan would find, as far as it goes."""
        return all(
            all(step.prompted == self.prompted for step in chain.steps.values())
            and all(a == b for a, b in zip(chain.steps, plan.get(way, ()), strict=False))
            for way, chain in self.chains.items()
        )

    def agree(self) -> None:
        """Let the chains' memories agree with the prompts: a slice is remembered as prompted or as tracked."""
        if self.read == self.prompted:
            return
        self.read = self.prompted
        for chain in self.chains.values():
            for index in self.prompted:
                if chain.bank is not None:
                    chain.bank.drop(index)

    def set_out(
        self, plan: Plan, stop: StopRule | None, bank: Callable[[int, SearchRegion], MemoryBank]
    ) -> list[tuple[Chain, list[int]]]:
        """Chains and the slices that are planned for each; those that cannot go on begin anew.

        Args:
            plan: of a run.
            stop: its rule.
            bank: makes an empty memory for a direction, of what is seen in a region.
        """
        if not self.can_go_on(plan):
            self.start_anew()
        if (crop := self.crop if self.is_ordered else None) != self.search.crop:
            self.search = SearchRegion(crop)
        self.tidy()
        self.agree()
        ways = []
        for direction, frames in plan.items():
            chain = self.chains.setdefault(direction, Chain(direction, self.search))
            chain.bank = chain.bank or bank(direction, chain.search)
            ways.append((chain, chain.up_to_end(frames, stop, self.prompted)))
        return ways

    def start_anew(self) -> None:
        """Forget what the chains hold and found; prompted slices stay memorised."""
        for chain in self.chains.values():
            chain.close()
        self.chains = {}

    def tidy(self) -> None:
        """Give back memories in search regions that no chain has any more, nor will a new one."""
        current = [self.search, *(chain.search for chain in self.chains.values())]
        for search in [each for each in self.memorised if each not in current]:
            self.memorised.pop(search).conditioning.clear()

    def forget(self) -> None:
        """Give back everything."""
        self.start_anew()
        for memorised in self.memorised.values():
            memorised.conditioning.clear()
        self.memorised = {}

    def state(self) -> State:
        """What there is now, to go back to."""
        chains = tuple((chain, dict(chain.steps)) for chain in self.chains.values())
        return State(self.prompted, self.read, chains)

    def go_back(self, state: State) -> None:
        """Be as one was. Chains that have not moved since go on; those that have keep what they had found by then.

        A chain that has moved has read what is taken back, and its memory with it.
        """
        chains = [(chain, len(chain.steps)) for chain in self.chains.values()]
        had = [(chain, len(steps)) for chain, steps in state.chains]
        if self.read != state.read or chains != had:
            self.start_anew()
            self.chains = {
                chain.direction: Chain.of(chain.direction, steps, self.search)
                for chain, steps in state.chains
            }
        self.prompted, self.read = state.prompted, state.read


def in_turn(ways: Sequence[Sequence[int]]) -> list[int]:
    """Numbers in the order in which chains that advance together come to them, each once."""
    rounds = zip_longest(*ways)
    return list(dict.fromkeys(i for frames in rounds for i in frames if i is not None))


def crops_of(prompted: Prompted) -> list[Region | None]:
    """In which an object was prompted; where it was said to be absent nothing was seen of it."""
    return [each.crop for each in prompted.values() if not each.is_empty]
