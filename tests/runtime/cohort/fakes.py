"""A cohort without files, models and workers: studies that take seconds of a clock that nobody waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.cohort.executor import Event, Finished, Lost
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome, StudyTask
from runtime.cohort.settings import Settings
from runtime.cohort.study import Study, StudyPrompts
from runtime.jobs.job import Job
from runtime.memory import MemoryRules

Happens = Callable[[StudyTask, int], Event | None]
"""What becomes of a task at its nth attempt, from 1; None if nothing is heard of it."""

SETTINGS = Settings(Job(Path("in"), Path("out"), [], MemoryRules()), "f" * 64)
OBJECT = {
    "id": 1,
    "prompt": "[]",
    "voxels": 10,
    "volume_ml": 0.5,
    "extent": [1, 3],
    "confidence": 0.8,
    "doubt": 0.25,
    "slice": 2,
    "warnings": [],
}


def told(doubt: float = 0.25, mask_bytes: int = 4) -> dict[str, object]:
    """What a row holds of a study with one object."""
    return {
        "num_slices": 5,
        "shape": [8, 8],
        "spacing_mm": [2.0, 1.0, 1.0],
        "modality": "CT",
        "window": "abdomen",
        "model": "fake",
        "backend": "fake",
        "versions": {"medsam2-runtime": "0"},
        "num_encodings": 5,
        "ms": {"read": 1.0, "total": 2.0},
        "warnings": [],
        "mask_bytes": mask_bytes,
        "ended_s": 1000.5,
        "worker": "here:1",
        "objects": [OBJECT | {"doubt": doubt}],
    }


def done(task: StudyTask, doubt: float = 0.25) -> Finished:
    """A study that went well."""
    return Finished(StudyOutcome(task.number, key=f"key of {task.name}", told=told(doubt)))


class FakeExecutor:
    """Workers that take no time, and of which any may be lost.

    Args:
        happens: decides what becomes of each task.
        num_workers: how many.
    """

    def __init__(self, happens: Happens, num_workers: int = 2) -> None:
        self.num_workers = num_workers
        self._happens = happens
        self._held: deque[StudyTask] = deque()
        self.attempts: list[str] = []
        self.together: list[tuple[str, ...]] = []
        self.abandoned: list[int] = []

    @property
    def num_idle(self) -> int:
        return self.num_workers - len(self._held)

    def submit(self, task: StudyTask) -> None:
        assert self.num_idle > 0
        self.attempts.append(task.name)
        self._held.append(task)
        self.together.append(tuple(held.name for held in self._held))

    def wait(self, timeout_s: float) -> list[Event]:
        for task in list(self._held):
            event = self._happens(task, self.attempts.count(task.name))
            if event is not None:
                self._held.remove(task)
                return [event]
        return []

    def abandon(self, number: int) -> None:
        self.abandoned.append(number)
        self._held = deque(task for task in self._held if task.number != number)

    def close(self) -> None:
        self._held.clear()


class Unwatched:
    """Nobody looks."""

    def found(self, count: int, is_all: bool) -> None: ...

    def started(self, size_bytes: int) -> None: ...

    def ended(self, size_bytes: int, seconds: float, is_done: bool) -> None: ...

    def back(self, size_bytes: int) -> None: ...


class Clock:
    """Goes on by so many seconds each time somebody looks."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._now = step_s, 0.0

    def __call__(self) -> float:
        self._now += self._step_s
        return self._now


def study(name: str, size_bytes: int = 100, stamp: str = "s") -> Study:
    """A study that lies nowhere."""
    return Study(name, Path("in") / name, StudyPrompts("rows", "[]"), size_bytes, stamp)


def ledger_of(folder: Path, studies: Iterable[Study]) -> Ledger:
    """A ledger in which they wait."""
    ledger = Ledger(folder)
    ledger.meet(studies, SETTINGS.key, retries=False)
    return ledger


def states(ledger: Ledger) -> dict[str, tuple[str, int | None, str]]:
    """State, exit code and error by study."""
    return {row["name"]: (row["state"], row["exit_code"], row["error"]) for row in ledger.rows()}


def lost(task: StudyTask, is_memory: bool = False) -> Lost:
    """The worker that had it is gone."""
    return Lost(task.number, "it was killed", is_memory)
