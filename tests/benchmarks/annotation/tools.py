"""A tool of an annotator that computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.annotation.attempt import Voxel
from benchmarks.quality.overlap import Mask


@dataclass
class FakeTool:
    """Shows one mask after the other, whatever it is asked; writes down what it was asked.

    Attributes:
        masks: the first is there at first.
        seconds: that each answer takes, of `clock`.
    """

    masks: Sequence[Mask]
    seconds: float = 0.0
    asked: list[tuple[object, ...]] = field(default_factory=list)
    now_s: float = 0.0
    _shown: list[int] = field(default_factory=lambda: [0])

    @property
    def mask(self) -> Mask:
        return self.masks[self._shown[-1]]

    def box(self, key: int, y: tuple[int, int], x: tuple[int, int]) -> None:
        self._answer("box", key, y, x)

    def click(self, at: Voxel, is_inside: bool) -> None:
        self._answer("click", at, is_inside)

    def undo(self) -> None:
        self.asked.append(("undo",))
        self._shown.pop()

    def clock(self) -> float:
        return self.now_s

    def _answer(self, *words: object) -> None:
        self.asked.append(words)
        self.now_s += self.seconds
        self._shown.append(sum(word[0] != "undo" for word in self.asked))


def block(depth: int, *spans: tuple[int, int]) -> Mask:
    """A mask (depth, 16, 16) with one half-open square a slice, from the first slice on; (0, 0) is none."""
    mask = np.zeros((depth, 16, 16), bool)
    for index, (start, stop) in enumerate(spans):
        mask[index, start:stop, start:stop] = True
    return mask
