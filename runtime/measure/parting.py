"""Propagations that part by the rounding of a pixel, told from faults by another phantom.

A pixel of a memory that lies within rounding of zero falls on either side of it, whoever rounds, and weights may
magnify that until pixels of later masks do so too. Which phantom has such a pixel is chance, with random weights that
of a coin for eight objects at 512 pixels; a fault comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OTHER_PHANTOMS = (1, 2, 3)  # their seeds


def parted_by_little(comparison: Mapping[str, Any]) -> list[str]:
    """Propagations that have failed by logits or pixels alone: all that failed, or none.

    Args:
        comparison: what `runtime.measure.parity.compare_models` gave, or that judged otherwise.

    They ran to their end, Dice holds, every graph passes in lockstep, and nothing else is at fault.
    """
    failed = {name: row for name, row in comparison["propagation"].items() if not row["passed"]}
    by_little = all(
        "reason" not in row
        and row["worst_relative_error"] is not None
        and row["lowest_dice"] >= (row["lowest_dice_wanted"] or 0.0)
        for row in failed.values()
    )
    return list(failed) if by_little and _graphs_pass(comparison) else []


def asked_again(comparison: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with the propagations that `parted_by_little` judged by another phantom.

    Args:
        comparison: as in `parted_by_little`.
        again: the same two models, compared on that phantom.

    Each of them gets `another_phantom` and passes if it does there, where graphs have to pass too.
    """
    propagation = dict(comparison["propagation"])
    for name in parted_by_little(comparison):
        row = again["propagation"][name]
        propagation[name] = {**propagation[name], "another_phantom": row, "passed": row["passed"]}
    passed = _graphs_pass(again) and all(row["passed"] for row in propagation.values())
    return {**comparison, "propagation": propagation, "passed": passed}


def _graphs_pass(comparison: Mapping[str, Any]) -> bool:
    """Whether each graph was seen and passed, and nobody wrote where nothing is theirs."""
    graphs = comparison["graphs"].values()
    are_right = all(of and all(row["passed"] for row in of.values()) for of in graphs)
    return are_right and "faults" not in comparison
