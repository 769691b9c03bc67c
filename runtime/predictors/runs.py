"""Runs by number, so that a cancel ends those that there are and none that is still to come."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock


@dataclass(slots=True, eq=False)
class Run:
    """One walk of a predictor over its slices.

    Attributes:
        number: of this run; later ones have larger numbers.
        is_complete: everything that was planned has been handed out.
        has_gaps: slices were left out, because their object was reset or its prompts were taken back meanwhile.
    """

    number: int
    _runs: Runs
    is_complete: bool = False
    has_gaps: bool = False

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has asked for its end since it was made."""
        return self.number <= self._runs.cancelled


@dataclass(slots=True, eq=False)
class Runs:
    """All runs of one predictor.

    `cancel` takes no lock: it may be called from any thread, also from a signal handler that interrupts `make`.
    """

    latest: int = 0
    cancelled: int = 0
    _lock: Lock = field(default_factory=Lock)

    def make(self) -> Run:
        """A new run, which only a later `cancel` ends."""
        with self._lock:
            self.latest += 1
            return Run(self.latest, self)

    def cancel(self) -> None:
        """End all runs made so far; those that have ended already are as they were."""
        self.cancelled = self.latest
