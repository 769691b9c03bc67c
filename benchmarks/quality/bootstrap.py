"""Means with intervals: what another draw of phantoms could have said.

Objects of one phantom are alike, so phantoms are drawn anew and not objects. Two settings are compared by the
differences on the same objects, since objects differ by far more than settings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

DRAWS, LEVEL, SEED = 2000, 0.95, 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it may be; NaN where there is nothing, or too little, to take it of."""

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if isnan(self.mean):
            return ""
        return f"{self.mean:.3f}" + (
            "" if isnan(self.low) else f" ({self.low:.2f}, {self.high:.2f})"
        )


def interval(values: Sequence[float], groups: Sequence[str]) -> Interval:
    """Mean of values that are numbers, and its interval over the groups that they belong to, drawn with replacement."""
    pairs = zip(groups, values, strict=True)
    finite = [(group, value) for group, value in pairs if not isnan(value)]
    if not finite:
        return Interval(nan, nan, nan)
    names = sorted({group for group, _ in finite})
    sums = np.array([sum(v for g, v in finite if g == name) for name in names])
    counts = np.array([sum(1 for g, _ in finite if g == name) for name in names])
    mean = float(sums.sum() / counts.sum())
    if len(names) == 1:
        return Interval(mean, nan, nan)
    drawn = np.random.default_rng(SEED).integers(len(names), size=(DRAWS, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))
