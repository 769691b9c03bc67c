"""The driver: hands out studies and writes down what becomes of them; it never holds more than the workers have."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runtime.cohort.executor import Executor, Finished, Lost
from runtime.cohort.feed import Feed
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome, StudyTask
from runtime.cohort.settings import Settings
from runtime.errors import OutOfMemory, Sam2Error, TimeLimit, WorkerLost

log = logging.getLogger("runtime")

MOST_LOSSES = 3
"""Workers that one study may cost before it has failed. What cost one is done again after all others, what cost two
alone, without neighbours that might have taken its memory."""
PATIENCE_S = 1.0  # between looks at the clock


class Watch(Protocol):
    """Who is told how far it is."""

    def found(self, count: int, is_all: bool) -> None:
        """So many more wait; whether these are all that a search finds."""

    def started(self, size_bytes: int) -> None:
        """A study was handed out."""

    def ended(self, size_bytes: int, seconds: float, is_done: bool) -> None:
        """It is settled, after so long on its worker."""

    def back(self, size_bytes: int) -> None:
        """It waits again, since its worker was lost."""


@dataclass(frozen=True, slots=True)
class _InHand:
    task: StudyTask
    size_bytes: int
    losses: int
    since_s: float


class CohortDriver:
    """Runs a cohort to its end.

    Args:
        ledger: of the cohort.
        executor: does the work.
        settings: what is done to each study.
        watch: is told of progress.
        limit_s: a study that takes longer has failed, and its worker is ended; None is no limit.
        clock: seconds.
        feed: of studies that are still being found; a page is taken in when no other study waits.
    """

    def __init__(
        self,
        ledger: Ledger,
        executor: Executor,
        settings: Settings,
        watch: Watch,
        limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        feed: Feed | None = None,
    ) -> None:
        self._ledger, self._executor, self._settings, self._feed = ledger, executor, settings, feed
        self._watch, self._limit_s, self._clock = watch, limit_s, clock
        self._in_hand: dict[int, _InHand] = {}

    def run(self) -> None:
        """Do every study that waits.

        Raises Sam2Error where nothing can be written any more, or no worker can be had; studies then wait as before.
        So does a search that ended early, once all that it had found is done.
        """
        while True:
            self._take_in()
            self._hand_out()
            is_searched = self._feed is None or self._feed.is_over
            if is_searched and not self._in_hand and self._ledger.next(()) is None:
                break
            events = self._executor.wait(PATIENCE_S)
            self._hand_out()  # before anything is written down, for which no worker has to wait
            for event in events:
                if isinstance(event, Finished):
                    self._settle(event.outcome)
                else:
                    self._lost(event)
            self._end_late_ones()
        if self._feed:
            self._feed.check()

    def _take_in(self) -> None:
        """Let more studies wait once all are in hand, and only then: a search is no faster than the work."""
        feed = self._feed
        if feed is None or feed.is_over or self._ledger.next(self._in_hand):
            return
        count = feed.take_in(0 if self._in_hand else PATIENCE_S)
        if count or feed.is_over:
            self._watch.found(count, feed.is_over)

    def _hand_out(self) -> None:
        while self._executor.num_idle and (found := self._ledger.next(self._in_hand)):
            task, losses, size_bytes = found
            is_alone = losses >= MOST_LOSSES - 1
            if self._in_hand and (
                is_alone or any(self._is_alone(h) for h in self._in_hand.values())
            ):
                return
            self._executor.submit(task)
            self._in_hand[task.number] = _InHand(task, size_bytes, losses, self._clock())
            self._watch.started(size_bytes)

    def _is_alone(self, held: _InHand) -> bool:
        return held.losses >= MOST_LOSSES - 1

    def _settle(self, outcome: StudyOutcome) -> None:
        held = self._in_hand.pop(outcome.number)
        if outcome.is_halting:
            raise Sam2Error(
                f"{outcome.message}; {held.task.name} and all after it wait; make room, then repeat the command"
            )
        self._ledger.settle(outcome, self._settings.mask_of(held.task.name))
        if outcome.exit_code:
            log.warning("%s: failed (%d): %s", held.task.name, outcome.exit_code, outcome.message)
        seconds = self._clock() - held.since_s
        self._watch.ended(held.size_bytes, seconds, outcome.exit_code == 0)

    def _lost(self, event: Lost) -> None:
        held = self._in_hand.pop(event.number)
        self._ledger.lose(event.number)
        if held.losses + 1 < MOST_LOSSES:
            log.warning(
                "%s: its worker was lost and it waits again: %s", held.task.name, event.reason
            )
            self._watch.back(held.size_bytes)
            return
        self._in_hand[event.number] = held
        kind = OutOfMemory if event.is_memory else WorkerLost
        message = f"{MOST_LOSSES} workers were lost while they had it, the last one: {event.reason}"
        self._settle(StudyOutcome(event.number, kind.exit_code, kind.__name__, message))

    def _end_late_ones(self) -> None:
        if self._limit_s is None:
            return
        now = self._clock()
        for number, held in list(self._in_hand.items()):
            if now - held.since_s > self._limit_s:
                self._executor.abandon(number)
                message = (
                    f"it took longer than --time-limit {self._limit_s:g} s; its worker was ended"
                )
                self._settle(StudyOutcome(number, TimeLimit.exit_code, TimeLimit.__name__, message))
