"""One object, segmented by somebody who knows the truth: by hand, or with a network, and by hand where that fails."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from benchmarks.annotation.costs import Costs
from benchmarks.annotation.outline import drawn_by_hand
from benchmarks.quality.overlap import Mask, dice

Voxel = tuple[int, int, int]
Clock = Callable[[], float]


class Tool(Protocol):
    """What somebody segments an object with: a session of the server, or a fake."""

    @property
    def mask(self) -> Mask:
        """What is on the screen, (z, y, x); it does not change any more."""

    def box(self, key: int, y: tuple[int, int], x: tuple[int, int]) -> None:
        """Draw a half-open box on a slice, and wait for the whole answer."""

    def click(self, at: Voxel, is_inside: bool) -> None:
        """Click on a voxel, likewise."""

    def undo(self) -> None:
        """Take the last click back."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How far somebody has come with an object, and what it took so far.

    Attributes:
        dice: 3-D, of the mask on the screen.
        prompts: boxes, clicks and steps back.
        slices, vertices: drawn by hand.
        human_s: by `Costs`.
        waited_s: for the network, as the clock says.
        undone: clicks that were taken back.
    """

    dice: float
    prompts: int = 0
    slices: int = 0
    vertices: int = 0
    human_s: float = 0.0
    waited_s: float = 0.0
    undone: int = 0

    @property
    def seconds(self) -> float:
        """All that it took."""
        return self.human_s + self.waited_s


Attempt = tuple[Effort, ...]
"""From the mask that is there at first to the last stroke; the first one's costs were paid before anybody looks."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How an annotator goes about it.

    Attributes:
        costs: of actions.
        target: 3-D Dice at which a mask is accepted.
        clicks: on one object at the most, before it is finished by hand.
        patience: answers in a row that made the mask no better, after which it is finished by hand.
    """

    costs: Costs
    target: float
    clicks: int
    patience: int


def reached(attempt: Attempt, target: float) -> Attempt:
    """The attempt of somebody whom a lower target satisfies: up to the first effort that is good enough.

    The first one is no effort yet: nobody has looked.
    """
    for index, effort in enumerate(attempt):
        if index and effort.dice >= target:
            return attempt[: index + 1]
    return attempt


def from_scratch(truth: Mask, habits: Habits) -> Attempt:
    """Polygons on one slice after the other, the largest first, until the target is reached."""
    empty = np.zeros_like(truth)
    return by_hand(empty, truth, (Effort(0.0),), habits)


def with_network(tool: Tool, truth: Mask, key: int, habits: Habits, clock: Clock) -> Attempt:
    """A box on slice `key`, then clicks, then by hand."""
    rows, columns = np.nonzero(truth[key])
    y, x = ((int(v.min()), int(v.max()) + 1) for v in (rows, columns))
    began_s = clock()
    tool.box(key, y, x)
    waited_s = clock() - began_s
    costs = habits.costs
    human_s = costs.box_s + costs.look_s * extent(tool.mask, truth)
    shown = Effort(dice(tool.mask, truth), 1, 0, 0, human_s, waited_s)
    return corrected(tool, truth, (Effort(0.0), shown), habits, clock)


def reviewed(tool: Tool, truth: Mask, habits: Habits, clock: Clock) -> Attempt:
    """A mask that a cohort has made of a box is looked at, then clicks, then by hand; the box was drawn before."""
    costs = habits.costs
    before = Effort(dice(tool.mask, truth), prompts=1, human_s=costs.box_s)
    human_s = costs.box_s + costs.look_s * extent(tool.mask, truth)
    return corrected(tool, truth, (before, replace(before, human_s=human_s)), habits, clock)


def corrected(tool: Tool, truth: Mask, attempt: Attempt, habits: Habits, clock: Clock) -> Attempt:
    """A click each time where the error is deepest, taken back if the mask is no better for it; the rest by hand."""
    costs, efforts, failed = habits.costs, [*attempt], []
    failures = 0
    for _ in range(habits.clicks):
        effort = efforts[-1]
        if effort.dice >= habits.target or failures >= habits.patience:
            break
        if (at := deepest_error(tool.mask, truth, failed)) is None:
            break
        began_s = clock()
        tool.click(at, bool(truth[at]))
        found, num_slices = dice(tool.mask, truth), extent(tool.mask, truth)
        if is_better := found > effort.dice:
            failures, failed = 0, []
        else:
            tool.undo()
            failures += 1
            failed.append(at)
        waited_s = clock() - began_s
        human_s = costs.click_s + costs.look_s * num_slices + (0 if is_better else costs.undo_s)
        efforts.append(
            replace(
                effort,
                dice=found if is_better else effort.dice,
                prompts=effort.prompts + (1 if is_better else 2),
                human_s=effort.human_s + human_s,
                waited_s=effort.waited_s + waited_s,
                undone=effort.undone + (0 if is_better else 1),
            )
        )
    return by_hand(tool.mask, truth, tuple(efforts), habits)


def by_hand(mask: Mask, truth: Mask, attempt: Attempt, habits: Habits) -> Attempt:
    """Slices are drawn anew, the one with the most wrong voxels first, until the target is reached or none is wrong."""
    mask, efforts, costs = mask.copy(), [*attempt], habits.costs
    wrong = (mask != truth).sum((1, 2))
    while efforts[-1].dice < habits.target and wrong.any():
        index = int(wrong.argmax())
        mask[index], vertices = drawn_by_hand(truth[index])
        wrong[index] = 0  # it is as good as it gets
        effort = efforts[-1]
        efforts.append(
            replace(
                effort,
                dice=dice(mask, truth),
                slices=effort.slices + 1,
                vertices=effort.vertices + vertices,
                human_s=effort.human_s + costs.slice_s + costs.vertex_s * vertices,
            )
        )
    return tuple(efforts)


def deepest_error(mask: Mask, truth: Mask, besides: Collection[Voxel] = ()) -> Voxel | None:
    """The voxel that lies deepest within what is wrong on its slice, over all slices; None if nothing is wrong.

    Depth is taken within slices, since slices are what somebody looks at: of an end of the object that is missing, the
    largest slice. Slices where a click has failed, `besides`, come after all others.
    """
    from scipy.ndimage import distance_transform_edt

    wrong = mask != truth
    depths = np.zeros(wrong.shape[0])
    places: dict[int, tuple[int, int]] = {}
    for index in map(int, np.flatnonzero(wrong.any((1, 2)))):
        depth = distance_transform_edt(np.pad(wrong[index], 1))[1:-1, 1:-1]
        for k, j, i in besides:
            if k == index:
                depth[j, i] = 0
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        depths[index], places[index] = depth[y, x], (int(y), int(x))
    fresh = depths.copy()
    fresh[[k for k, _, _ in besides]] = 0
    chosen = fresh if fresh.any() else depths
    if not chosen.any():
        return None
    best = int(chosen.argmax())
    return best, *places[best]


def extent(mask: Mask, truth: Mask) -> int:
    """How many slices somebody looks at: those that hold the object or the mask."""
    return int((mask | truth).any((1, 2)).sum())
