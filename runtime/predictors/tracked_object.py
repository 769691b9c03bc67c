"""One object as it is followed: its prompts, its templates, and a chain in each direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.memory import MemoryBank, Templates
from runtime.predictors.prompted import PromptedSlice
from runtime.track import Segmented

Plan = Mapping[int, Sequence[int]]
"""Direction to the slices to visit, in order."""


@dataclass(slots=True)
class Chain:
    """An object on its way in one direction: its memory, and the slices it has been through, in order."""

    bank: MemoryBank
    done: list[int] = field(default_factory=list)


@dataclass(slots=True)
class TrackedObject:
    """What is known about one object.

    Attributes:
        prompted: slice to its prompts and result.
        templates: memories of prompted slices, and `memorised`, which results they were made of.
        tracked: slice to what the chains have found.
        chains: by direction.
        based_on: the prompted slices that everything in `tracked` rests on; None if they changed on the way.
    """

    templates: Templates
    prompted: dict[int, PromptedSlice] = field(default_factory=dict)
    memorised: dict[int, PromptedSlice] = field(default_factory=dict)
    tracked: dict[int, Segmented] = field(default_factory=dict)
    chains: dict[int, Chain] = field(default_factory=dict)
    based_on: dict[int, PromptedSlice] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether chains have set out from other prompts than there are now."""
        return bool(self.chains) and self.based_on != self.prompted

    def went_elsewhere(self, plan: Plan) -> bool:
        """Whether a chain has visited slices in another order than planned."""
        return any(
            done != frame
            for way, chain in self.chains.items()
            for done, frame in zip(chain.done, plan.get(way, ()), strict=False)
        )

    def start_anew(self) -> None:
        """Give back what the chains hold; prompted slices stay memorised."""
        for chain in self.chains.values():
            chain.bank.close()
        self.chains, self.tracked, self.based_on = {}, {}, None

    def forget(self) -> None:
        """Give back everything."""
        self.start_anew()
        self.templates.clear()
        self.memorised = {}
