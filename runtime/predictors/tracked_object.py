"""One object as it is followed: its prompts, its conditioning frames, a chain in each direction, and how to go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from runtime.memory import ConditioningFrames, MemoryBank
from runtime.predictors.prompted import PromptedSlice
from runtime.predictors.stop import StopRule
from runtime.track import Segmented

Plan = Mapping[int, Sequence[int]]
"""Direction to the slices to visit, in order."""

Prompted = Mapping[int, PromptedSlice]
"""Slice to its prompts and result; never changed, but replaced by another one."""


@dataclass(frozen=True, slots=True)
class TrackedSlice:
    """What tracking found on a slice, and the prompted slices that it read for it."""

    segmented: Segmented
    prompted: Prompted


@dataclass(slots=True, eq=False)
class Chain:
    """An object on its way in one direction.

    Attributes:
        direction: +1 or -1; +1 for images of a set.
        bank: its memory; None while it has none.
        steps: by slice, in the order in which they were made.
        num_remembered: steps that the memory has been through; those behind have to be made again before it goes on.
    """

    direction: int
    bank: MemoryBank | None = None
    steps: dict[int, TrackedSlice] = field(default_factory=dict)
    num_remembered: int = 0

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
        self.bank, self.num_remembered = None, 0


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
        conditioning: memories of prompted slices, and `memorised`, which results they were made of.
        prompted: slice to its prompts and result.
        read: the prompted slices that the chains' memories agree with: their own memories of these are dropped.
        chains: by direction.
    """

    conditioning: ConditioningFrames
    memorised: dict[int, PromptedSlice] = field(default_factory=dict)
    prompted: Prompted = field(default_factory=dict)
    read: Prompted = field(default_factory=dict)
    chains: dict[int, Chain] = field(default_factory=dict)

    def step(self, index: int) -> tuple[Chain, TrackedSlice] | None:
        """What tracking found on a slice, and on which way, if it came there."""
        steps = ((chain, chain.steps.get(index)) for chain in self.chains.values())
        return next(((chain, step) for chain, step in steps if step), None)

    def found(self) -> dict[int, Segmented]:
        """What is known by slice: of prompted ones what their prompts gave, of others what tracking found."""
        steps = (step for chain in self.chains.values() for step in chain.steps.items())
        found = {index: step.segmented for index, step in steps}
        found |= {index: prompted.segmented for index, prompted in self.prompted.items()}
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
        self, plan: Plan, stop: StopRule | None, bank: Callable[[int], MemoryBank]
    ) -> list[tuple[Chain, list[int]]]:
        """Chains and the slices that are planned for each; those that cannot go on begin anew.

        Args:
            plan: of a run.
            stop: its rule.
            bank: makes an empty memory for a direction.
        """
        if not self.can_go_on(plan):
            self.start_anew()
        self.agree()
        ways = []
        for direction, frames in plan.items():
            chain = self.chains.setdefault(direction, Chain(direction))
            chain.bank = chain.bank or bank(direction)
            ways.append((chain, chain.up_to_end(frames, stop, self.prompted)))
        return ways

    def start_anew(self) -> None:
        """Forget what the chains hold and found; prompted slices stay memorised."""
        for chain in self.chains.values():
            chain.close()
        self.chains = {}

    def forget(self) -> None:
        """Give back everything."""
        self.start_anew()
        self.conditioning.clear()
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
                chain.direction: Chain(chain.direction, steps=steps)
                for chain, steps in state.chains
            }
        self.prompted, self.read = state.prompted, state.read


def in_turn(ways: Sequence[Way]) -> list[int]:
    """Slices in the order in which chains that advance together come to them, each once."""
    rounds = zip_longest(*(frames for *_, frames in ways))
    return list(dict.fromkeys(i for frames in rounds for i in frames if i is not None))
