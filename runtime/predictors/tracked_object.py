"""One object as it is followed: its prompts, its conditioning frames, a chain in each direction, and how to go back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from runtime.memory import MemoryBank
from runtime.predictors.chain import Chain, Memorised, Plan, Prompted, SearchRegion, TrackedSlice
from runtime.predictors.prompted import PromptedSlice
from runtime.predictors.region import Region, widest
from runtime.predictors.stop import StopRule


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

    def results(self) -> dict[int, PromptedSlice | TrackedSlice]:
        """What is known by slice: of prompted ones what their prompts gave, of others what tracking found."""
        steps = (step for chain in self.chains.values() for step in chain.steps.items())
        results: dict[int, PromptedSlice | TrackedSlice] = {**dict(steps), **self.prompted}
        return dict(sorted(results.items()))

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
        for search in [region for region in self.memorised if region not in current]:
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
    return [answer.crop for answer in prompted.values() if not answer.is_empty]
