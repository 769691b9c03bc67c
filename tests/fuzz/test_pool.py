from __future__ import annotations

import pytest

from benchmarks.fuzz import pool
from benchmarks.fuzz.pool import FAULTS, OUTCOMES, run_cases
from tests.fuzz.targets import TARGETS


def test_each_kind_of_fault_is_seen_and_the_next_case_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(pool, "LIMIT_S", 0.4)
    monkeypatch.setattr(pool, "START_S", 1.0)
    assert set(TARGETS) == set(OUTCOMES)
    cases = [(name, 0) for name in TARGETS]
    seen = []
    tally = run_cases(cases, 2, "tests.fuzz.targets:TARGETS", lambda t: seen.append(t.tried))
    assert {name: dict(counts) for name, counts in tally.counts.items()} == {
        name: {name: 1} for name in TARGETS
    }
    assert sorted(fault.outcome for fault in tally.faults) == sorted(FAULTS)
    assert seen == list(range(1, len(cases) + 1))


def test_a_healthy_file_that_is_refused_ends_it() -> None:
    with pytest.raises(RuntimeError, match="the healthy unreadable is refused"):
        run_cases([("unreadable", 0)], 1, "tests.fuzz.targets:UNREADABLE")
