"""Which memory, zoom, smoothing and end of following suit a bundle: tried on labelled volumes, clean and with noise.

Every memory and zoom is run once on each object. Every stop rule and every smoothing is then tried on what these runs
have found: a rule takes slices away and changes none, and no memory sees what is smoothed. What is chosen has to be
better than SAM 2's own way by a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.damage import DAMAGES
from export.labelled import Case, draw_prompt
from runtime import MemoryRules, Model, VolumePredictor
from runtime.bundle.defaults import Defaults
from runtime.io.window import apply_window
from runtime.predictors.result import SliceMask
from runtime.predictors.stop import StopRule
from runtime.steps.encodings import Encodings

MEMORIES = (("fifo", "all"), ("confident_and_latest", "all"), ("confident_and_latest", "weighted"))
ZOOMED = MEMORIES[:2]
ZOOMS = (3.0, 4.0)
STOPS = tuple(
    StopRule(below=below, after=after)
    for below, after in product((0.0, 0.1, 0.2, 0.3, 0.5), (2, 3, 5))
)
SMOOTHS = (0.5, 0.7, 1.0)
SEEN_AS = ("clean", "noise")  # keys of DAMAGES
MIN_OBJECTS = 8  # fewer say nothing
MIN_GAIN = 0.005  # of mean Dice: what is chosen has to be worth it
MIN_SMOOTHED_GAIN = 0.002  # which costs no time, and makes contours less ragged besides
ENCODED_BYTES = 2**30  # held, so that candidates share encodings
MAX_LOSS = 0.002  # of mean Dice: what slices that are saved may cost


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of following an object."""

    policy: str
    pick_up: str
    zoom: float | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What one object's run was worth.

    Attributes:
        name: of the object.
        dice: 3-D, by stop rule; None is without.
        smoothed: 3-D Dice without a rule, by sigma of the smoothing.
        visited: share of the volume's slices that were visited, by stop rule.
    """

    name: str
    dice: Mapping[StopRule | None, float]
    visited: Mapping[StopRule | None, float]
    smoothed: Mapping[float, float] = field(default_factory=dict)


Trials = Mapping[Candidate, Sequence[Tried]]
PLAIN = Candidate("fifo", "all")


def candidates() -> list[Candidate]:
    """All that are tried; the first one is SAM 2's own."""
    zoomed = [Candidate(*memory, zoom) for zoom, memory in product(ZOOMS, ZOOMED)]
    return [*(Candidate(*memory) for memory in MEMORIES), *zoomed]


def num_runs(num_objects: int) -> int:
    """How often `try_all` follows an object."""
    return num_objects * len(SEEN_AS) * len(candidates())


def try_all(
    model: Model, cases: Iterable[Case], window: str, on_run: Callable[[], object] = lambda: None
) -> Trials:
    """Every candidate on every object, clean and with noise."""
    trials: dict[Candidate, list[Tried]] = {candidate: [] for candidate in candidates()}
    encodings = Encodings(model, ENCODED_BYTES)
    for case in cases:
        pixels, _ = apply_window(case.volume, window)
        for damage, (candidate, tried) in product(SEEN_AS, trials.items()):
            seen, _ = DAMAGES[damage].do(case, pixels)
            tried.append(try_one(model, case, seen, candidate, encodings))
            on_run()
    return trials


def try_one(
    model: Model,
    case: Case,
    pixels: NDArray[np.uint8],
    candidate: Candidate,
    encodings: Encodings,
) -> Tried:
    """One candidate on the pixels (z, y, x) of one object, under every stop rule."""
    rules = MemoryRules(policy=candidate.policy, pick_up=candidate.pick_up)
    predictor = VolumePredictor(model, rules, encodings=encodings, zoom=candidate.zoom, smooth=None)
    predictor.set_volume(pixels, "none")
    predictor.add(draw_prompt("box", case.truth, case.key))
    slice_masks = {mask.slice: mask for mask in predictor.stream(stop=None)}
    agreement = {i: counts(mask, case.truth[i]) for i, mask in slice_masks.items()}
    inside = int(case.truth.sum())
    smoothed = {
        sigma: dice_of(
            [counts(replace(m, smooth=sigma), case.truth[i]) for i, m in slice_masks.items()],
            inside,
        )
        for sigma in SMOOTHS
    }
    dice, visited = {}, {}
    for rule in (None, *STOPS):
        visited_slices = up_to_end(slice_masks, case.key, rule)
        dice[rule] = dice_of([agreement[i] for i in visited_slices], inside)
        visited[rule] = len(visited_slices) / len(pixels)
    return Tried(case.name, dice, visited, smoothed)


def dice_of(agreement: Sequence[tuple[int, int]], inside: int) -> float:
    """3-D Dice of slices' `counts`, where the object has so many voxels."""
    both, drawn = np.sum(agreement, 0)
    return float(2 * both / (drawn + inside))


def counts(mask: SliceMask, truth: NDArray[np.bool_]) -> tuple[int, int]:
    """Pixels of a mask that are right, and all of them."""
    drawn = mask.mask()
    return int((drawn & truth).sum()), int(drawn.sum())


def up_to_end(slice_masks: Mapping[int, SliceMask], key: int, rule: StopRule | None) -> list[int]:
    """The slices that a run from slice `key` would have visited under a rule."""
    if rule is None:
        return sorted(slice_masks)
    steps = {i: mask.segmented for i, mask in slice_masks.items()}
    visited_slices = [key]
    for way in (1, -1):
        frames = sorted((i for i in slice_masks if (i - key) * way > 0), key=lambda i: i * way)
        visited_slices += rule.cut(frames, steps, way, {key})
    return sorted(visited_slices)


def choose(trials: Trials) -> Defaults:
    """The best memory and zoom if it is worth it, the rule that saves most and costs nothing, and the best smoothing.

    The smoothing, too, has to be worth it.
    """
    means = {c: mean(tried, None) for c, tried in trials.items()}
    best = max(means, key=lambda c: means[c])
    chosen = best if means[best] >= means[PLAIN] + MIN_GAIN else PLAIN
    tried = trials[chosen]
    free = [rule for rule in STOPS if mean(tried, rule) >= means[chosen] - MAX_LOSS]
    stop = min(free, key=lambda r: (visited(tried, r), -mean(tried, r)), default=None)
    smoothed = {sigma: mean_smoothed(tried, sigma) for sigma in tried[0].smoothed}
    smooth = max(smoothed, key=lambda sigma: smoothed[sigma], default=0.0)
    is_smoother = smoothed.get(smooth, 0.0) >= means[chosen] + MIN_SMOOTHED_GAIN
    return Defaults(
        memory={} if chosen == PLAIN else {"policy": chosen.policy, "pick_up": chosen.pick_up},
        stop=None if stop is None else {"below": stop.below, "after": stop.after},
        zoom=chosen.zoom,
        smooth=smooth if is_smoother else 0.0,
        measured={
            "objects": len({trial.name for trial in tried}),
            "seen_as": list(SEEN_AS),
            "dice": round(mean(tried, stop), 4),
            "dice_without": round(means[PLAIN], 4),
            **(
                {"dice_gained_by_smoothing": round(smoothed[smooth] - means[chosen], 4)}
                if is_smoother
                else {}
            ),
            "visited": round(visited(tried, stop), 4),
        },
    )


def mean(tried: Sequence[Tried], rule: StopRule | None) -> float:
    """Mean Dice under a rule."""
    return float(np.mean([trial.dice[rule] for trial in tried]))


def mean_smoothed(tried: Sequence[Tried], sigma: float) -> float:
    """Mean Dice without a rule, smoothed."""
    return float(np.mean([trial.smoothed[sigma] for trial in tried]))


def visited(tried: Sequence[Tried], rule: StopRule | None) -> float:
    """Mean share of slices visited under a rule."""
    return float(np.mean([trial.visited[rule] for trial in tried]))


def summary(trials: Trials) -> list[dict[str, Any]]:
    """Figures of every candidate under every rule, for a report."""
    by_rule = [
        {
            **asdict(candidate),
            "smooth": 0.0,
            "stop": rule and asdict(rule),
            "dice": round(mean(tried, rule), 4),
            "visited": round(visited(tried, rule), 4),
        }
        for candidate, tried in trials.items()
        for rule in (None, *STOPS)
    ]
    smoothed = [
        {
            **asdict(candidate),
            "smooth": sigma,
            "stop": None,
            "dice": round(mean_smoothed(tried, sigma), 4),
            "visited": round(visited(tried, None), 4),
        }
        for candidate, tried in trials.items()
        for sigma in tried[0].smoothed
    ]
    return [*by_rule, *smoothed]
