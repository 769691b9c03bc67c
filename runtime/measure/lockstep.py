"""Two models on the same tensors: each error is one graph's, and none is magnified."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.backends import Buffer
from runtime.bundle.contract import graph_specs
from runtime.model import Model

RMS_SHARE = 0.5
"""Of a tolerance, for errors over a whole tensor. The largest of a hundred thousand errors is a matter of the order in
which a processor adds up, and twice as large on one as on another; their mean square is not."""

ERRORS = ("max_abs_error", "largest_magnitude", "relative_error", "relative_rms_error")


def compare_tensors(tensor: Buffer, truth: Buffer, tolerance: float) -> dict[str, Any]:
    """Errors of a tensor, and whether the tolerance given passes them: the largest, relative to the largest magnitude,
    and the root of the mean square, relative to the tensor's own, since beside one large number anything is small. That
    one may be `RMS_SHARE` of the tolerance.

    Where there is no error to speak of, because shapes differ or something is not finite, it is None and `reason`
    says why.
    """
    if reason := _incomparable(tensor, truth):
        none = dict.fromkeys(ERRORS)
        return {**none, "tolerance": tolerance, "passed": False, "reason": reason}
    magnitude = float(np.abs(truth).max(initial=0))
    size = _root_mean_square(truth)
    if truth.ndim == 1:  # scores: where all are near zero, that is nothing to be relative to
        magnitude, size = max(magnitude, 1.0), max(size, 1.0)
    difference = tensor.astype(np.float64) - truth.astype(np.float64)
    error, spread = float(np.abs(difference).max(initial=0)), _root_mean_square(difference)
    relative = error / magnitude if magnitude else error
    relative_rms = spread / size if size else spread
    return {
        "max_abs_error": error,
        "largest_magnitude": magnitude,
        "relative_error": relative,
        "relative_rms_error": relative_rms,
        "tolerance": tolerance,
        "passed": relative <= tolerance and relative_rms <= RMS_SHARE * tolerance,
    }


def _root_mean_square(tensor: Buffer) -> float:
    squares = np.square(tensor, dtype=np.float64)
    return math.sqrt(squares.mean()) if tensor.size else 0.0


def _incomparable(candidate: Buffer, truth: Buffer) -> str | None:
    if candidate.shape != truth.shape:
        return f"found {candidate.shape}, the reference has {truth.shape}"
    for whose, tensor in (("the reference's", truth), ("the candidate's", candidate)):
        count = int(tensor.size - np.isfinite(tensor).sum())
        if count:
            return f"{count} of {whose} {tensor.size} numbers are NaN or infinite"
    return None


def error_of(comparison: Mapping[str, Any]) -> float:
    """What tolerance a comparison would have passed; infinite where there is none to speak of."""
    largest, spread = comparison["relative_error"], comparison["relative_rms_error"]
    return math.inf if None in (largest, spread) else float(max(largest, spread / RMS_SHARE))


class Lockstep:
    """Runs two models on the same tensors and keeps the worst comparison of each output of each graph."""

    def __init__(self, reference: Model, candidate: Model, tolerances: Mapping[str, float]) -> None:
        self._reference, self._candidate = reference, candidate
        self._tolerances = tolerances
        self.graphs: dict[str, dict[str, Any]] = {graph: {} for graph in reference.numbers.graphs}

    def watch_reference(
        self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], ms: float
    ) -> None:
        """An observer of the reference: the candidate repeats each run."""
        get = self._candidate.device_memory.get
        computed = self._candidate.compute(graph, dict(inputs))
        self._compare(graph, {name: get(x) for name, x in computed.items()}, outputs)

    def watch_candidate(
        self, graph: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], ms: float
    ) -> None:
        """An observer of a candidate on the host: the reference repeats each run."""
        self._compare(graph, outputs, self._reference.compute(graph, dict(inputs)))

    def _compare(
        self, graph: str, candidate: Mapping[str, Buffer], truth: Mapping[str, Buffer]
    ) -> None:
        worst = self.graphs[graph]
        for name, right in truth.items():
            result = compare_tensors(candidate[name], right, self._tolerances[graph])
            before = worst.get(name)
            runs = before["runs"] + 1 if before else 1
            if before is None or error_of(result) > error_of(before):
                worst[name] = result
            worst[name]["runs"] = runs

    def has_passed(self) -> bool:
        """Whether every output of every graph was seen and near enough each time."""
        specs = graph_specs(self._reference.numbers)
        return all(
            self.graphs[graph].keys() == specs[graph].outputs.keys()
            and all(output["passed"] for output in self.graphs[graph].values())
            for graph in self.graphs
        )
