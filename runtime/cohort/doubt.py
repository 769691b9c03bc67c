"""How much a mask should be looked at: one number from 0 to 1 for each object, by which the review queue is sorted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

LEAST_SURE = 3  # slices: one unsure slice may be chance, three are a stretch on which the mask has gone astray
CERTAIN_FAULTS = ("empty_object", "not_followed", "prompt_on_nothing")
"""Warnings that leave nothing to doubt: codes of `runtime.jobs.notices`."""


def confidence_of(entry: Mapping[str, Any]) -> float:
    """Mean confidence of an object on the slices where it was found, 0 where it was found on none.

    `entry` is one of a report's `objects`.
    """
    found = [row["confidence"] for row in entry["slices"] if row["voxels"]]
    return float(np.mean(found)) if found else 0.0


def doubt_of(entry: Mapping[str, Any], warnings: Collection[str]) -> float:
    """0 where nothing speaks for a look, 1 where somebody has to have one.

    Confidence estimates how much of mask and truth overlap, so that 1 less of it is the share that is wrong. It is the
    mean over the `LEAST_SURE` least confident slices on which the object was found.

    Args:
        entry: one of a report's `objects`.
        warnings: codes of the report's warnings about it.
    """
    found = sorted(row["confidence"] for row in entry["slices"] if row["voxels"])
    if not found or set(warnings) & set(CERTAIN_FAULTS):
        return 1.0
    return float(np.clip(1.0 - np.mean(found[:LEAST_SURE]), 0.0, 1.0))


def doubtful_slice(entry: Mapping[str, Any]) -> int | None:
    """The slice to look at first: the least confident one on which the object was found, else a prompted one."""
    found = [(row["confidence"], row["slice"]) for row in entry["slices"] if row["voxels"]]
    prompted = [(0.0, row["slice"]) for row in entry["slices"] if row["is_prompted"]]
    return min(found or prompted, default=(0.0, None))[1]
