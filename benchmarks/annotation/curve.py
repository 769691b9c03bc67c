"""What a cohort's masks are worth after so many seconds, by the order in which somebody works on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.annotation.attempt import Attempt
from runtime.errors import InputError

Series = NDArray[np.floating]


def curve(attempts: Sequence[Attempt], order: Sequence[int]) -> tuple[Series, Series, Series]:
    """Seconds so far, mean Dice of all objects, and prompts so far: after every effort, in an order of objects.

    What was paid before anybody looks is paid for all objects at once, at the start. Raises InputError where the order
    is not one of these objects.
    """
    if sorted(order) != list(range(len(attempts))):
        raise InputError(f"found the order {list(order)}; wanted each of {len(attempts)} once")
    worth = np.array([attempt[0].dice for attempt in attempts])
    seconds = sum(attempt[0].seconds for attempt in attempts)
    prompts = sum(attempt[0].prompts for attempt in attempts)
    rows = [(seconds, worth.mean(), prompts)]
    for index in order:
        before = attempts[index][0]
        for effort in attempts[index][1:]:
            seconds += effort.seconds - before.seconds
            prompts += effort.prompts - before.prompts
            worth[index], before = effort.dice, effort
            rows.append((seconds, worth.mean(), prompts))
    return tuple(np.array(column, float) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def at(grid: Series, seconds: Series, worth: Series) -> Series:
    """The latest value at each point of a grid; NaN before there is one."""
    index = np.searchsorted(seconds, grid, side="right") - 1
    return np.where(index < 0, np.nan, worth[index.clip(0)])


def shuffled(groups: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Random orders of objects: their groups, studies, in random order, objects of one group as they stand."""
    rng, names = np.random.default_rng(seed), list(dict.fromkeys(groups))
    orders = []
    for _ in range(count):
        chosen = [names[i] for i in rng.permutation(len(names))]
        orders.append([i for name in chosen for i, group in enumerate(groups) if group == name])
    return orders
