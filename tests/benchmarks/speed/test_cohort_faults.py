"""What the trial of a cohort's promises makes of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.cohort_faults import FAULTS, judged
from benchmarks.speed.cohort_studies import write_studies
from runtime.cohort.find import find_studies
from runtime.io import Volume, write_mask

LABELS = np.zeros((3, 8, 8), np.uint8)
LABELS[1, 2:4, 2:4], LABELS[2, 5:7, 5:7] = 1, 2
CODES = {"good": 0, "bad": 3}
GOOD: list[dict[str, Any]] = [
    {
        "study": "good",
        "object": i,
        "exit_code": 0,
        "state": "done",
        "mask": "good.nii.gz",
        "voxels": 4,
    }
    for i in (1, 2)
]
BAD: dict[str, Any] = {"study": "bad", "object": None, "exit_code": 3, "state": "failed"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "good.npz", imgs=LABELS, gts=LABELS)
    write_mask(tmp_path / "good.nii.gz", LABELS, Volume(LABELS, (1.0, 1.0, 1.0)))
    return tmp_path


def test_a_cohort_that_kept_its_promises_has_no_fault(folder: Path) -> None:
    told = judged([*GOOD, BAD], CODES, folder, folder)
    assert not any(told.get(name) for name in FAULTS)
    assert told["mean_dice"] == 1.0


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (GOOD, "without_row"),
        ([*GOOD, BAD, BAD | {"study": "other"}], "of_no_study"),
        ([*GOOD, GOOD[0], BAD], "twice"),
        ([*GOOD, BAD, BAD], "twice"),
        ([*GOOD, BAD | {"exit_code": None, "state": "waiting"}], "waiting"),
        ([*GOOD, BAD | {"exit_code": 1}], "wrong_code"),
        ([GOOD[0], GOOD[1] | {"voxels": 3}, BAD], "wrong_mask"),
        ([GOOD[0], GOOD[1] | {"voxels": 9}, BAD], "wrong_mask"),
        ([GOOD[0], BAD], "wrong_mask"),
    ],
)
def test_every_fault_is_found(rows: list[dict[str, Any]], fault: str, folder: Path) -> None:
    assert judged(rows, CODES, folder, folder)[fault]


def test_studies_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    codes = write_studies(tmp_path / "studies", 2, None)
    assert {study.name for study in find_studies(tmp_path / "studies")} == codes.keys()
    assert list(codes.values()).count(0) == 2
