"""What states of objects keep in memory: each answer once, however many states hold it."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.predictors.chain import Prompted
from runtime.predictors.prompted import PromptedSlice
from runtime.predictors.tracked_object import State
from runtime.prompts.prompts import Mask
from runtime.track import Segmented

Footprint = dict[int, int]
"""What is held, by its identity, to its bytes; true for as long as it is held."""


def footprint(states: Iterable[State]) -> Footprint:
    """What some states hold: logits and pointers, and of prompts their masks and conditioned features."""
    found = _Found()
    for state in states:
        found.take_prompted(state.prompted.values())
        found.take_prompted(state.read.values())
        for chain, steps in state.chains:
            for made in (steps, chain.steps) if len(chain.steps) != len(steps) else (steps,):
                for step in made.values():
                    found.take_segmented(step.segmented)
                    found.take_shared(step.prompted, step.search.seeds)
    return found.sizes


class _Found:
    """What was come across so far."""

    def __init__(self) -> None:
        self.sizes: Footprint = {}
        self._shared: set[int] = set()

    def take_segmented(self, segmented: Segmented) -> None:
        if id(segmented) not in self.sizes:
            self.sizes[id(segmented)] = segmented.nbytes

    def take_prompted(self, answers: Iterable[PromptedSlice]) -> None:
        for answer in answers:
            if id(answer) not in self.sizes:
                self.sizes[id(answer)] = _own_bytes(answer)
                self.take_segmented(answer.segmented)

    def take_shared(self, *several: Prompted) -> None:
        """What many steps have read, which is looked through once."""
        for answers in several:
            if id(answers) not in self._shared:
                self._shared.add(id(answers))
                self.take_prompted(answers.values())


def _own_bytes(answer: PromptedSlice) -> int:
    masks = sum(prompt.mask.nbytes for prompt in answer.prompts if isinstance(prompt, Mask))
    return masks + (0 if answer.conditioned is None else answer.conditioned.nbytes)
