"""Who does the work: workers that are given one study at a time, and may be lost while they have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.cohort.outcome import StudyOutcome, StudyTask


@dataclass(frozen=True, slots=True)
class Finished:
    """A study is done, or has failed in an orderly way."""

    outcome: StudyOutcome


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone, and with it what it did for a study.

    Attributes:
        number: of the task.
        reason: as far as anybody knows it.
        is_memory: it was ended because memory ran out.
    """

    number: int
    reason: str
    is_memory: bool = False


Event = Finished | Lost


class Executor(Protocol):
    """Some workers. Those that are lost are replaced."""

    @property
    def num_workers(self) -> int:
        """How many there are, idle or not."""

    @property
    def num_idle(self) -> int:
        """How many could take a task now."""

    def submit(self, task: StudyTask) -> None:
        """Give a task to an idle worker."""

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened since, or does within some seconds; at once if a worker becomes idle.

        Raises Sam2Error where no worker can be had.
        """

    def abandon(self, number: int) -> None:
        """End the worker that has a task; nothing will be heard of the task any more."""

    def close(self) -> None:
        """End all workers."""
