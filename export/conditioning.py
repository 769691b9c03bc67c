"""How much of a difference is the network's own: some weights magnify rounding, whoever rounds.

No two ways of computing in fp32 agree better than they agree with exact arithmetic, and a tolerance that knows nothing
of that is a tolerance fitted to one machine. So a back end that is farther from PyTorch than certificates allow is
held against the model in float64 instead, beside PyTorch's own fp32 on the same inputs: where that is as far off, by
the same order, the weights are to blame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.measure.lockstep import error_of
from runtime.measure.parity import LOGIT_TOLERANCE
from runtime.measure.parting import parted_by_little

AIR = 8.0
"""Times PyTorch's own distance from float64 that a back end may have: its worst number of millions, where others add up
in another order and the bfloat16 of a memory falls on another side."""


def weighed(candidate: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison of a back end in fp32 with float64, judged by PyTorch's fp32.

    Args:
        candidate: of the back end, as `runtime.commands.certify.compare` gives it.
        own: of PyTorch in fp32.

    Each output of a graph, and each free propagation, gets `own_error`, which is PyTorch's, and passes if its error is
    within its tolerance or `AIR` times that. In a propagation whose own error is beyond `LOGIT_TOLERANCE` a decision
    may differ; Dice may not fall below what is wanted, or what PyTorch's own fp32 reaches.
    """
    graphs = {
        graph: {name: _output(row, own["graphs"][graph][name]) for name, row in outputs.items()}
        for graph, outputs in candidate["graphs"].items()
    }
    propagation = {
        name: _propagation(task, own["propagation"][name])
        for name, task in candidate["propagation"].items()
    }
    rows = [
        *(row for outputs in graphs.values() for row in outputs.values()),
        *propagation.values(),
    ]
    was_seen = all(graphs.values())
    return {
        **candidate,
        "graphs": graphs,
        "propagation": propagation,
        "passed": was_seen and all(row["passed"] for row in rows) and "faults" not in candidate,
    }


def parted(judged: Mapping[str, Any]) -> list[str]:
    """Propagations that are to be asked on another phantom: all that failed, or none.

    Args:
        judged: what `weighed` gave.

    They have `parted_by_little`, and PyTorch's own fp32 parts from float64 by more than `LOGIT_TOLERANCE` in some
    propagation, whichever it is.
    """
    return parted_by_little(judged) if _largest_own(judged) > LOGIT_TOLERANCE else []


def settled(judged: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """What was judged, with the propagations that had `parted` judged by another phantom.

    Args:
        judged: what `weighed` gave.
        again: the back end compared with float64 on that phantom.

    Each of them gets `another_phantom`, and passes if decisions are alike there and its error is within `AIR` times the
    largest that PyTorch's own fp32 has in any propagation. Graphs have to pass there too.
    """
    allowed, propagation = AIR * _largest_own(judged), dict(judged["propagation"])
    for name in parted(judged):
        row = again["propagation"][name]
        error = row["worst_relative_error"]
        passed = row["passed"] and error is not None and error <= allowed
        propagation[name] = {**propagation[name], "another_phantom": dict(row), "passed": passed}
    graphs_pass = all(
        error_of(row) <= max(row["tolerance"], AIR * judged["graphs"][graph][name]["own_error"])
        for graph, outputs in again["graphs"].items()
        for name, row in outputs.items()
    )
    is_whole = graphs_pass and all(again["graphs"].values()) and "faults" not in {*judged, *again}
    passed = is_whole and all(row["passed"] for row in propagation.values())
    return {**judged, "propagation": propagation, "passed": passed}


def _largest_own(judged: Mapping[str, Any]) -> float:
    """PyTorch's distance from float64 in the propagation where it is largest; 0 where one of them is no number."""
    errors = [row["own_error"] for row in judged["propagation"].values()]
    return 0.0 if None in errors else max(errors, default=0.0)


def _output(row: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    allowed = max(row["tolerance"], AIR * error_of(own))
    is_near = math.isfinite(allowed) and error_of(row) <= allowed
    return {**row, "own_error": error_of(own), "passed": is_near}


def _propagation(task: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    found, theirs = task["worst_relative_error"], own["worst_relative_error"]
    is_whole = "reason" not in {*task, *own} and None not in (found, theirs)
    is_near = is_whole and found <= max(LOGIT_TOLERANCE, AIR * theirs)
    wanted = min(task["lowest_dice_wanted"] or 0.0, own["lowest_dice"])
    is_excused = is_whole and theirs > LOGIT_TOLERANCE
    decides_alike = task["first_different_decision"] is None
    passed = is_near and task["lowest_dice"] >= wanted and (decides_alike or is_excused)
    return {**task, "own_error": theirs, "passed": passed}
