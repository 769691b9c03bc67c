"""What attempts come to: clicks and seconds by way and target, and what the order of a queue is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.annotation.attempt import Attempt, Effort, reached
from benchmarks.annotation.costs import Costs
from benchmarks.annotation.curve import at, curve, shuffled
from benchmarks.quality.bootstrap import interval

SCRATCH, MODEL, QUEUE = "from scratch", "with the model", "with the queue"
WAYS = (SCRATCH, MODEL, QUEUE)
BY_DOUBT, BY_TRUTH, RANDOM = "most doubtful first", "worst first (truth known)", "random order"
POINTS = 81  # of a curve
BAND = (0.1, 0.9)  # of random orders
HALF = 0.5

Attempts = Mapping[str, Sequence[Attempt]]
"""By way, of the same objects in the same order."""


def last(attempt: Attempt, target: float) -> Effort:
    """What an attempt has cost when the target was reached, or all of it."""
    return reached(attempt, target)[-1]


def summary(attempts: Attempts, groups: Sequence[str], target: float) -> dict[str, Any]:
    """Figures of each way for a target: means over objects, with intervals over the groups that these belong to."""
    whole = {way: [last(attempt, target) for attempt in attempts[way]] for way in WAYS}
    scratch_s = sum(effort.seconds for effort in whole[SCRATCH])
    told: dict[str, Any] = {}
    for way, efforts in whole.items():
        seconds = [effort.seconds for effort in efforts]
        span = interval(seconds, groups)
        undone = sum(effort.undone for effort in efforts)
        clicks = sum(max(effort.prompts - effort.undone - 1, 0) for effort in efforts)  # no boxes
        alone = [e.prompts for e in efforts if e.slices == 0 and e.dice >= target]
        told[way] = {
            "seconds": span.mean,
            "seconds_interval": [span.low, span.high],
            "waited_s": float(np.mean([effort.waited_s for effort in efforts])),
            "prompts": float(np.mean([effort.prompts for effort in efforts])),
            "clicks_taken_back": undone / clicks if clicks else None,
            "slices_by_hand": float(np.mean([effort.slices for effort in efforts])),
            "vertices_by_hand": float(np.mean([effort.vertices for effort in efforts])),
            "reached_without_hand": len(alone) / len(efforts),
            "prompts_where_reached_without_hand": float(np.median(alone)) if alone else None,
            "time_saved": 1 - sum(seconds) / scratch_s,
            "quicker_than_scratch": sum(
                a < b.seconds for a, b in zip(seconds, whole[SCRATCH], strict=True)
            ),
        }
    return told


def breakeven_vertex_s(attempts: Attempts, target: float, costs: Costs, way: str) -> float | None:
    """Seconds for each vertex at which a way takes as long as drawing all by hand; None if it saves no vertex."""
    sums = []
    for name in (way, SCRATCH):
        efforts = [last(attempt, target) for attempt in attempts[name]]
        vertices = sum(effort.vertices for effort in efforts)
        sums.append((sum(e.seconds for e in efforts) - costs.vertex_s * vertices, vertices))
    (other_s, vertices), (scratch_s, scratch_vertices) = sums
    saved = scratch_vertices - vertices
    return (other_s - scratch_s) / saved if saved > 0 else None


def orders(
    attempts: Attempts, queue: Sequence[int], groups: Sequence[str], count: int, seed: int
) -> dict[str, Any]:
    """Curves of mean Dice, and how soon half of what is to be gained is there.

    Args:
        attempts: to the highest target.
        queue: objects in the order of the review queue.
        groups: study of each object.
        count, seed: of random orders.

    Gives `curves`, by name, with seconds and mean Dice (and prompts, but for random orders, whose band is there), and
    `half_gain`: the share of the whole time after which half of the gain over the cohort's own masks has been made.
    """
    own = attempts[QUEUE]
    worst = sorted(range(len(own)), key=lambda index: own[index][0].dice)
    given = range(len(own))
    shown = {
        SCRATCH: curve(attempts[SCRATCH], given),
        MODEL: curve(attempts[MODEL], given),
        BY_DOUBT: curve(own, queue),
        BY_TRUTH: curve(own, worst),
    }
    curves = {}
    for name, (seconds, worth, prompts) in shown.items():
        grid = np.linspace(seconds[0], seconds[-1], POINTS)
        curves[name] = {
            "seconds": grid,
            "dice": at(grid, seconds, worth),
            "prompts": at(grid, seconds, prompts),
        }
    drawn = [curve(own, order) for order in shuffled(groups, count, seed)]
    grid = curves[BY_DOUBT]["seconds"]
    values = np.array([at(grid, seconds, worth) for seconds, worth, _ in drawn])
    low, high = np.quantile(values, BAND, axis=0)
    curves[RANDOM] = {
        "seconds": grid,
        "dice": values.mean(0),
        "low": low,
        "high": high,
    }
    halves = [half_gain(seconds, worth) for seconds, worth, _ in drawn]
    return {
        "curves": {name: rounded(parts) for name, parts in curves.items()},
        "half_gain": {
            BY_DOUBT: half_gain(*shown[BY_DOUBT][:2]),
            BY_TRUTH: half_gain(*shown[BY_TRUTH][:2]),
            RANDOM: float(np.mean(halves)),
            "random order, band": np.quantile(halves, BAND).tolist(),
        },
    }


def half_gain(seconds: np.ndarray, worth: np.ndarray) -> float:
    """The share of the time for review after which half of the gain of Dice has been made."""
    wanted = worth[0] + HALF * (worth[-1] - worth[0])
    index = int(np.argmax(worth >= wanted))
    return float((seconds[index] - seconds[0]) / max(seconds[-1] - seconds[0], 1e-9))


def rounded(parts: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Series as text, a line each, so that a file of results can be read."""
    return {name: " ".join(f"{value:.4g}" for value in values) for name, values in parts.items()}


def efforts_of(attempts: Attempts, index: int, targets: Sequence[float]) -> dict[str, Any]:
    """What one object has cost, by way and target."""
    return {
        way: {
            "dice_at_first": round(attempts[way][index][0].dice, 4),
            **{
                f"to {target:g}": {
                    name: round(value, 4)
                    for name, value in asdict(last(attempts[way][index], target)).items()
                }
                for target in targets
            },
        }
        for way in WAYS
    }
