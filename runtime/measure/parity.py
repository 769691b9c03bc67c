"""Does one model compute what another one computes? The comparison that certificates rest on.

Twice over the same propagations. First in lockstep: every run of every graph gets the reference's own tensors, so that
each error is one graph's and none is magnified. Then freely, where errors feed back through memory and one pixel of a
binarised mask that falls on the other side of zero is magnified from slice to slice; there the decisions and masks must
be the reference's, and each run that can be watched is compared with the reference on the candidate's own tensors. So
no run of a graph is unseen. Errors and tolerances are relative to the largest magnitude of the tensor they judge.

What is not finite fails, whoever computed it. Comparisons are written so that NaN loses, which is neither above nor
below anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.backends import BACKENDS, Buffer
from runtime.backends.strict import StrictBackend
from runtime.bundle.bundle import Bundle
from runtime.measure.lockstep import Lockstep, compare_tensors
from runtime.measure.phantom import Phantom, make_phantom
from runtime.measure.single_tasks import SingleRunner, num_single_masks, single_tasks
from runtime.measure.tasks import TaskRunner, Track, depth_of, num_masks, tasks
from runtime.model import Model
from runtime.track import Segmented

LOGIT_TOLERANCE = (
    1e-3  # nearer to zero than this share of the largest logit, a pixel is too close to call
)
DEFAULT_SLICES = 24


TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "mixed": 1e-2, "bf16": 6e-2, "int8": 0.12}
"""Of one pass through one graph, by what it is computed in; bfloat16 rounds by 2**-9, through some ten layers. Eight
bits put the trained encoder of the embedded model off by 0.05, SAM 2.1 tiny's with random weights by 0.09."""
# Of a free propagation, in fp32 and in anything less.
LOWEST_DICE, LOWEST_DICE_REDUCED = 0.999, 0.99


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a candidate has to reach.

    Attributes:
        tolerances: of one pass through each graph.
        lowest_dice: of any object's masks over a whole free propagation; None where a free propagation shows
            nothing: random weights draw masks of noise, which anything but fp32 draws otherwise.
        decides_alike: no decision of a free propagation may differ.
    """

    tolerances: Mapping[str, float]
    lowest_dice: float | None
    decides_alike: bool


def criteria_of(bundle: Bundle, backend: str) -> Criteria:
    """What a back end has to reach with a bundle."""
    precision = BACKENDS[backend].precision
    tolerances = dict.fromkeys(bundle.model.graphs, TOLERANCES[precision])
    if precision == "int8":
        others = [graph for graph in tolerances if graph not in bundle.int8_graphs]
        tolerances |= dict.fromkeys(others, TOLERANCES["fp32"])
    if precision == "fp32":
        return Criteria(tolerances, LOWEST_DICE, decides_alike=True)
    is_random = bundle.weights["kind"] == "random"
    return Criteria(tolerances, None if is_random else LOWEST_DICE_REDUCED, decides_alike=False)


Progress = Callable[[], object]


def compare_tracks(
    candidate: Track, truth: Track, criteria: Criteria, reason: str | None = None
) -> dict[str, Any]:
    """Logits, scores and masks of a whole propagation, slice by slice.

    Args:
        found, truth: the candidate's and the reference's.
        criteria: what the candidate has to reach.
        reason: why a propagation was not finished, if it was not; then it has failed.
    """
    error: float = 0.0
    lowest, first = 1.0, None
    overlap: dict[int, list[int]] = {}
    for key in [key for key in truth if key in candidate]:
        a, b = candidate[key].segmented, truth[key].segmented
        result = compare_tensors(a.logits, b.logits, LOGIT_TOLERANCE)
        error = max(error, math.inf if "reason" in result else result["relative_error"])
        called = np.where(_is_clear(b.logits), a.logits > 0, b.logits > 0)
        counts = _counts(called, b.logits > 0)
        lowest = min(lowest, _dice(*counts))
        of_object = overlap.setdefault(key[0], [0, 0])
        of_object[0] += counts[0]
        of_object[1] += counts[1]
        if reason is None and not _is_finite(a, b):
            reason = f"object {key[0]}, slice {key[1]}: logits or scores are NaN or infinite"
        if first is None and (
            what := _decision(a.object_score, b.object_score, a.logits, b.logits)
        ):
            first = {"object": key[0], "slice": key[1], "what": what}
    if reason is None and (not truth or candidate.keys() != truth.keys()):
        reason = f"{len(candidate)} slice masks, the reference has {len(truth)}"
    if reason is not None:
        lowest = dice = 0.0
    else:
        dice = min(_dice(*counts) for counts in overlap.values())
    return {
        "slices": len(truth),
        "worst_relative_error": error if math.isfinite(error) else None,
        "lowest_slice_dice": lowest,
        "lowest_dice": dice,
        "lowest_dice_wanted": criteria.lowest_dice,
        "first_different_decision": first,
        "passed": reason is None
        and dice >= (criteria.lowest_dice or 0)
        and (first is None or not criteria.decides_alike),
        **({} if reason is None else {"reason": reason}),
    }


def _is_finite(*masks: Segmented) -> bool:
    """Whether logits and scores are numbers."""
    return all(
        math.isfinite(mask.iou)
        and math.isfinite(mask.object_score)
        and bool(np.isfinite(mask.logits).all())
        for mask in masks
    )


def _counts(a: Buffer, b: Buffer) -> tuple[int, int]:
    """Pixels in both masks, and pixels of each added up."""
    return int(np.logical_and(a, b).sum()), int(a.sum() + b.sum())


def _dice(both: int, total: int) -> float:
    return 2 * both / total if total else 1.0


def _decision(score: float, true_score: float, logits: Buffer, true_logits: Buffer) -> str | None:
    """What was decided otherwise, pixels too close to zero to call aside."""
    if (score > 0) != (true_score > 0):
        return f"object present: score {score:.6g}, reference {true_score:.6g}"
    differ = np.greater(logits, 0) != np.greater(true_logits, 0)
    count = int((differ & _is_clear(true_logits)).sum())
    return f"{count} pixels on the other side of zero" if count else None


def compare_models(
    reference: Model,
    candidate: Model,
    criteria: Criteria,
    num_slices: int,
    progress: Progress = lambda: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare in lockstep and freely over every task.

    Args:
        reference, candidate: of the same numbers.
        criteria: what the candidate has to reach.
        num_slices: of each propagation, or of the phantom whose middle a model of single images is shown.
        progress: called `num_steps(num_slices, reference)` times.
        seed: of the phantom.

    Returns `passed`, and `graphs` and `propagation` with what was found and wanted, as JSON-able data; where the
    candidate changed memory that is not its own, `faults` says what.
    """
    size = reference.numbers.image_size
    depth = num_slices if reference.numbers.kind == "image" else depth_of(num_slices)
    phantom = make_phantom((depth, size, size), seed)
    strict = StrictBackend(candidate.backend, candidate.engine)
    held = candidate.on(strict)
    lockstep = Lockstep(reference, held, criteria.tolerances)
    free = candidate
    if (
        candidate.steps.unreplayed() is candidate.steps
    ):  # else it would no longer run as it does for users
        free = held.observed(lockstep.watch_candidate)
    tracks = [
        _tracks(model, phantom, num_slices, progress)
        for model in (reference.observed(lockstep.watch_reference), free)
    ]
    propagation = {}
    for name in tracks[0]:
        (truth, reference_reason), (candidate_track, reason) = (of[name] for of in tracks)
        if reference_reason:
            reason = f"the reference's {reference_reason}"
        propagation[name] = compare_tracks(candidate_track, truth, criteria, reason)
    is_same = lockstep.has_passed() and all(task["passed"] for task in propagation.values())
    faults = list(dict.fromkeys(strict.faults))
    return {
        "passed": is_same and not faults,
        "graphs": lockstep.graphs,
        "propagation": propagation,
        **({"faults": faults} if faults else {}),
    }


def _tracks(
    model: Model, phantom: Phantom, num_slices: int, progress: Progress
) -> dict[str, tuple[Track, str | None]]:
    """What a model makes of every task, and why it did not finish one."""
    if model.numbers.kind == "image":
        still = SingleRunner(model, phantom)
        asked = single_tasks(phantom, model).items()
        return {name: still.run(task, progress) for name, task in asked}
    runner = TaskRunner(model, phantom)
    asked_of = tasks(phantom, num_slices).items()
    return {name: runner.run(task, progress) for name, task in asked_of}


def num_steps(num_slices: int, model: Model) -> int:
    """Slice masks that `compare_models` makes."""
    if model.numbers.kind == "image":
        size = model.numbers.image_size
        return 2 * num_single_masks(make_phantom((num_slices, size, size)), model)
    return 2 * num_masks(num_slices)


def _is_clear(logits: Buffer) -> Buffer:
    magnitude = np.abs(logits)
    return np.asarray(magnitude > LOGIT_TOLERANCE * magnitude.max())
