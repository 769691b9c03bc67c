"""Nothing lost, nothing done twice, no study without a row, whatever happens to workers, disks and the driver."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.cohort.driver import MOST_LOSSES, CohortDriver
from runtime.cohort.executor import Event, Finished
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome, StudyTask, failure
from runtime.commands.cohort import main
from runtime.errors import InputError, PromptError, Sam2Error
from tests.runtime.cohort.fakes import (
    SETTINGS,
    Clock,
    FakeExecutor,
    Happens,
    Unwatched,
    done,
    ledger_of,
    lost,
    states,
    study,
)

DONE = ("done", 0, "")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Four studies, of which b is the largest."""
    sizes = {"a": 10, "b": 40, "c": 20, "d": 30}
    return ledger_of(tmp_path, (study(name, size) for name, size in sizes.items()))


def run(
    ledger: Ledger,
    happens: Happens,
    num_workers: int = 2,
    limit_s: float | None = None,
    clock: Callable[[], float] | None = None,
) -> FakeExecutor:
    executor = FakeExecutor(happens, num_workers)
    CohortDriver(ledger, executor, SETTINGS, Unwatched(), limit_s, clock or Clock(0)).run()
    return executor


def test_all_are_done_the_largest_first(ledger: Ledger) -> None:
    executor = run(ledger, lambda task, attempt: done(task))
    assert executor.attempts == ["b", "d", "c", "a"]
    assert states(ledger) == dict.fromkeys("abcd", DONE)
    assert run(ledger, lambda task, attempt: done(task)).attempts == []


def test_no_more_are_in_hand_than_there_are_workers(ledger: Ledger) -> None:
    executor = run(ledger, lambda task, attempt: done(task), num_workers=3)
    assert max(map(len, executor.together)) == 3


def test_no_worker_waits_for_what_is_written_down(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = FakeExecutor(lambda task, attempt: done(task), num_workers=1)
    settle, begun = ledger.settle, []

    def settle_later(outcome: StudyOutcome, mask: str) -> None:
        begun.append(len(executor.attempts))
        settle(outcome, mask)

    monkeypatch.setattr(ledger, "settle", settle_later)
    CohortDriver(ledger, executor, SETTINGS, Unwatched(), clock=Clock(0)).run()
    assert begun == [2, 3, 4, 4]


def test_a_study_that_fails_is_a_row_and_no_end(ledger: Ledger) -> None:
    def happens(task: StudyTask, attempt: int) -> Event:
        if task.name == "d":
            return Finished(failure(task.number, PromptError("there is no slice 9")))
        return done(task)

    executor = run(ledger, happens)
    assert len(executor.attempts) == 4
    assert states(ledger) == dict.fromkeys("abc", DONE) | {"d": ("failed", 3, "PromptError")}


def test_a_lost_worker_costs_an_attempt_and_nothing_else(ledger: Ledger) -> None:
    executor = run(ledger, lambda t, n: lost(t) if (t.name, n) == ("b", 1) else done(t))
    assert executor.attempts == ["b", "d", "c", "a", "b"]  # last, lest it takes others along
    assert states(ledger) == dict.fromkeys("abcd", DONE)


@pytest.mark.parametrize(
    ("is_memory", "told"),
    [(False, ("failed", 1, "WorkerLost")), (True, ("failed", 6, "OutOfMemory"))],
)
def test_what_costs_every_worker_fails_in_the_end(
    ledger: Ledger, is_memory: bool, told: tuple[str, int, str]
) -> None:
    executor = run(ledger, lambda t, n: lost(t, is_memory) if t.name == "b" else done(t))
    assert executor.attempts.count("b") == MOST_LOSSES
    assert states(ledger) == dict.fromkeys("acd", DONE) | {"b": told}


def test_what_has_cost_two_workers_is_done_alone(ledger: Ledger) -> None:
    executor = run(ledger, lambda t, n: lost(t) if t.name in "bc" and n < 3 else done(t))
    assert states(ledger) == dict.fromkeys("abcd", DONE)
    last = [names for names in executor.together if executor.attempts.count(names[-1]) == 3][-2:]
    assert [names for names in last if len(names) > 1] == []


def test_all_workers_may_be_lost_at_once(ledger: Ledger) -> None:
    executor = run(ledger, lambda t, n: lost(t) if n == 1 else done(t), num_workers=4)
    assert len(executor.attempts) == 8
    assert states(ledger) == dict.fromkeys("abcd", DONE)


def test_a_study_that_hangs_is_ended(ledger: Ledger) -> None:
    executor = run(
        ledger, lambda t, n: None if t.name == "d" else done(t), limit_s=5, clock=Clock(0.5)
    )
    (number,) = executor.abandoned
    rows = {row["name"]: row for row in ledger.rows()}
    assert rows["d"]["number"] == number
    assert states(ledger) == dict.fromkeys("abc", DONE) | {"d": ("failed", 1, "TimeLimit")}
    assert "--time-limit 5 s" in rows["d"]["message"]


def test_a_full_disk_ends_the_run_and_blames_no_study(ledger: Ledger) -> None:
    full = Sam2Error("mask could not be written")
    full.__cause__ = OSError(28, "No space left on device")

    def happens(task: StudyTask, attempt: int) -> Event:
        return Finished(failure(task.number, full)) if task.name == "c" else done(task)

    with pytest.raises(Sam2Error, match="make room"):
        run(ledger, happens, num_workers=1)
    waiting = ("waiting", None, "")
    assert states(ledger) == {"a": waiting, "b": DONE, "c": waiting, "d": DONE}
    assert run(ledger, lambda task, attempt: done(task)).attempts == ["c", "a"]


def test_a_driver_that_is_killed_goes_on(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, (study(name) for name in "abcd"))

    def happens(task: StudyTask, attempt: int) -> Event:
        if task.name == "c":
            raise KeyboardInterrupt
        return done(task)

    with pytest.raises(KeyboardInterrupt):
        run(ledger, happens, num_workers=1)
    again = ledger_of(tmp_path, (study(name) for name in "abcd"))
    assert run(again, lambda task, attempt: done(task)).attempts == ["c", "d"]
    assert states(again) == dict.fromkeys("abcd", DONE)


def test_a_result_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [study("a"), study("b")])
    run(ledger, lambda task, attempt: done(task))
    for name in "ab":
        mask = tmp_path / SETTINGS.mask_of(name)
        mask.parent.mkdir(exist_ok=True)
        mask.write_bytes(b"mask")
    assert ledger.check_masks() == 0
    ledger.meet([study("a", stamp="touched"), study("b")], SETTINGS.key, retries=False)
    known: list[str | None] = []

    def happens(task: StudyTask, attempt: int) -> Event:
        known.append(task.known_key)
        return Finished(StudyOutcome(task.number, key="key of a", is_unchanged=True))

    assert run(ledger, happens).attempts == ["a"]
    assert known == ["key of a"]
    assert states(ledger) == dict.fromkeys("ab", DONE)
    assert [row["key"] for row in ledger.rows()] == ["key of a", "key of b"]


def test_the_drivers_memory_does_not_grow_with_the_cohort(tmp_path: Path) -> None:
    def peak(count: int, attempt: int) -> int:
        folder = tmp_path / f"{count}-{attempt}"
        folder.mkdir()
        ledger = ledger_of(folder, (study(f"study{i}", i) for i in range(count)))
        tracemalloc.start()
        CohortDriver(ledger, CheapExecutor(), SETTINGS, Unwatched(), clock=Clock(0)).run()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert ledger.counts().done == count
        return most

    def least_peak(count: int) -> int:
        """Of several, since what other threads of the process take is counted too."""
        return min(peak(count, attempt) for attempt in range(3))

    peak(10, 0)
    assert least_peak(200) < 1.2 * least_peak(50)


class CheapExecutor(FakeExecutor):
    """One that remembers nothing."""

    def __init__(self) -> None:
        super().__init__(lambda task, attempt: done(task), 4)

    def submit(self, task: StudyTask) -> None:
        self._held.append(task)


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(InputError, match="no ledger"):
        Ledger(tmp_path)


def test_a_ledger_that_is_damaged_behind_its_schema_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source, out = tmp_path / "in", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    Ledger(out).close()
    whole = (out / "cohort.sqlite").read_bytes()
    (out / "cohort.sqlite").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(InputError, match="no ledger"):
        main(["-i", str(source), "-o", str(out)])


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "cohort.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(InputError, match="upgrade"):
        Ledger(tmp_path)
