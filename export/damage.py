"""What goes wrong with real volumes, done to clean ones: noise, motion, lost slices, other contrast, look-alikes.

Each damage is a function of a case alone, so that every setting meets the same. What is damaged lies beyond the
prompted slice, which stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.labelled import Case

DAMAGED_AT = 3  # slices from the prompted one, to either side
# Grey levels of 255; nothing else is left of a slice of noise.
NOISE_MEAN, NOISE = 128.0, 60.0
GHOST_SHARE = (
    10  # of a slice's height: how far the patient has moved by the middle of its acquisition
)
CONTRAST_POWER, CONTRAST_GAIN = 1.8, 0.8
NUM_DISTRACTORS = 2
CLEARANCE = 1.25  # extents of the object between it and a look-alike

Pixels = NDArray[np.uint8]
Damaged = tuple[Pixels, list[int]]
"""Pixels (z, y, x), and the single slices on which the object can hardly be seen."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A row of the table.

    Attributes:
        what: for people.
        do: a case and its pixels (z, y, x) to what becomes of them, which is a copy.
    """

    what: str
    do: Callable[[Case, Pixels], Damaged]


def none(case: Case, pixels: Pixels) -> Damaged:
    """Nothing."""
    return pixels, []


def noise(case: Case, pixels: Pixels) -> Damaged:
    """Nothing but noise on one slice to either side."""
    slices = _beside(case, pixels, 1)
    drawn = np.random.default_rng(case.key).normal(
        NOISE_MEAN, NOISE, (len(slices), *pixels.shape[1:])
    )
    return _with(pixels, slices, drawn), slices


def motion(case: Case, pixels: Pixels) -> Damaged:
    """One slice to either side that was half acquired before the patient moved, half after: a ghost of itself."""
    slices = _beside(case, pixels, 1)
    here = pixels[slices].astype(np.float32)
    moved = np.roll(here, max(pixels.shape[1] // GHOST_SHARE, 1), 1)
    return _with(pixels, slices, 0.5 * (here + moved)), slices


def missing(case: Case, pixels: Pixels) -> Damaged:
    """Two slices to either side that got lost and are black."""
    slices = _beside(case, pixels, 2)
    return _with(pixels, slices, np.zeros((len(slices), *pixels.shape[1:]))), slices


def contrast(case: Case, pixels: Pixels) -> Damaged:
    """Other contrast from some slices away on, as where two scans were joined or a contrast agent came in."""
    away = np.abs(np.arange(len(pixels)) - case.key) >= DAMAGED_AT
    slices = [int(i) for i in np.flatnonzero(away)]
    changed = 255 * CONTRAST_GAIN * (pixels[slices] / 255.0) ** CONTRAST_POWER
    return _with(pixels, slices, changed), []


def distractors(case: Case, pixels: Pixels) -> Damaged:
    """Copies of the object near it, on every slice but the prompted one, where they cover none of it."""
    damaged, truth = pixels.copy(), case.truth
    extent = _extent(truth[case.key])
    step = int(np.ceil(CLEARANCE * max(extent)))
    moves = [(0, step), (0, -step), (step, 0), (-step, 0)]
    for move in moves[:: len(moves) // NUM_DISTRACTORS]:
        for index in np.flatnonzero(truth.any((1, 2))):
            if index != case.key:
                _copy(damaged[index], pixels[index], truth[index], move)
    return damaged, []


def _copy(damaged: Pixels, pixels: Pixels, truth: NDArray[np.bool_], move: tuple[int, int]) -> None:
    """Draw what a slice (y, x) shows of the object once more, as far as it lies within and not on the object."""
    rows, columns = np.nonzero(truth)
    to = rows + move[0], columns + move[1]
    fits = (to[0] >= 0) & (to[0] < len(damaged)) & (to[1] >= 0) & (to[1] < damaged.shape[1])
    rows, columns, to = rows[fits], columns[fits], (to[0][fits], to[1][fits])
    free = ~truth[to]
    damaged[to[0][free], to[1][free]] = pixels[rows[free], columns[free]]


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int]:
    rows, columns = np.nonzero(mask)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def _beside(case: Case, pixels: Pixels, count: int) -> list[int]:
    """Slices to either side of the prompted one, `count` of them each, as far as there are any."""
    away = range(DAMAGED_AT, DAMAGED_AT + count)
    both = sorted(case.key + sign * d for sign in (-1, 1) for d in away)
    return [i for i in both if 0 <= i < len(pixels)]


def _with(pixels: Pixels, slices: list[int], changed: NDArray[np.floating]) -> Pixels:
    damaged = pixels.copy()
    damaged[slices] = changed.round().clip(0, 255).astype(np.uint8)
    return damaged


DAMAGES = {
    "clean": Damage("as it is", none),
    "noise": Damage("one slice of noise to either side", noise),
    "motion": Damage("one slice to either side moved while it was acquired", motion),
    "missing": Damage("two slices to either side black", missing),
    "contrast": Damage("other contrast from the third slice on", contrast),
    "distractors": Damage("two copies of the object near it", distractors),
}
