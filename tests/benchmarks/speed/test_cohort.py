"""What the benchmark of cohorts makes of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed.cohort import DriverLook, figures, overhead, write_studies


def test_what_a_study_costs_beside_its_own_time() -> None:
    begin = datetime(2026, 1, 1)
    since_s = begin.replace(tzinfo=UTC).timestamp()
    rows = [
        {
            "study": f"{i}",
            "state": "done",
            "ms_total": 800.0,
            "ms_read": 100.0,
            "ms_cpu": 700.0,
            "ended": begin + timedelta(seconds=i // 2),  # two workers, each one study a second
            "worker": f"{i % 2}",
        }
        for i in range(10)
    ]
    looks = [DriverLook(since_s - 3 + t / 2, 100.0 + (t == 14), t / 10) for t in range(20)]
    told = figures(2, 10.0, looks, [*rows, rows[0], {**rows[0], "study": "x", "state": "failed"}])
    assert told["studies"] == 10
    assert told["studies_per_hour"] == 7200
    assert (told["start_s"], told["per_study_ms"]) == (6.0, 800.0)
    assert told["beside_ms"] == pytest.approx((4 * 2 - 9 * 0.8) / 9 * 1000, abs=0.1)
    assert told["worker_ms"] == 1000.0
    assert told["stages_ms"] == {"read": 100.0}
    assert told["cpu_ms"] == 700.0
    assert told["driver_cpu_ms"] == pytest.approx(600 / 7.2, abs=0.1)
    assert told["driver_mib"] == {"settled": 100.0, "end": 101.0}


def test_an_overhead_is_over_the_same_work_alone() -> None:
    beside = [{"per_study_ms": 900.0, "cpu_ms": 790.0}, {"per_study_ms": 1100.0, "cpu_ms": 810.0}]
    told = overhead({"worker_ms": 1000.0, "cpu_ms": 804.0}, beside)
    assert (told["overhead_percent"], told["overhead_cpu_percent"]) == (0.0, 0.5)
    told = overhead({"worker_ms": 1200.0, "cpu_ms": 800.0}, beside)
    assert told["overhead_percent"] == 20.0


def test_studies_differ_and_are_labelled(tmp_path: Path) -> None:
    write_studies(tmp_path, 2, (3, 64, 64), num_objects=1)
    first, second = (np.load(path) for path in sorted(tmp_path.iterdir()))
    assert {*np.unique(first["gts"])} == {0, 1}
    assert (first["imgs"] != second["imgs"]).any()
