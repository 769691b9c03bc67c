"""Studies that are done while others are still being searched for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cohort.driver import CohortDriver
from runtime.cohort.executor import Event
from runtime.cohort.feed import Feed
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyTask
from runtime.cohort.study import Study
from runtime.errors import Sam2Error
from tests.runtime.cohort.fakes import SETTINGS, FakeExecutor, Unwatched, done, states, study

PAGE = 4


class Server:
    """Pages of studies.

    Attributes:
        asked: how many pages anybody has asked for.
    """

    def __init__(self, num_pages: int, breaks_at: int | None = None) -> None:
        self._num_pages, self._breaks_at, self.asked = num_pages, breaks_at, 0

    def pages(self) -> Iterator[list[Study]]:
        for page in range(self._num_pages):
            self.asked += 1
            if page == self._breaks_at:
                raise Sam2Error("it does not answer")
            yield [study(f"{page}-{i}") for i in range(PAGE)]


class Told(Unwatched):
    """Keeps what it is told of a search."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.is_all = False

    def found(self, count: int, is_all: bool) -> None:
        assert not self.is_all
        self.counts.append(count)
        self.is_all = is_all


def run(
    folder: Path, server: Server, happens_before: object = None
) -> tuple[Ledger, Told, list[int]]:
    """A cohort over all pages; also how many pages were asked for when each study was done."""
    ledger, asked, told = Ledger(folder), [], Told()
    feed = Feed(server.pages(), ledger, SETTINGS.key, retries=False)

    def happens(task: StudyTask, attempt: int) -> Event:
        asked.append(server.asked)
        return done(task)

    CohortDriver(ledger, FakeExecutor(happens), SETTINGS, told, feed=feed).run()
    return ledger, told, asked


def test_all_pages_are_done_and_none_is_asked_for_long_before(tmp_path: Path) -> None:
    ledger, told, asked = run(tmp_path, Server(10))
    assert len(states(ledger)) == 10 * PAGE == sum(told.counts)
    assert told.is_all
    for number_done, pages in enumerate(asked):
        # In hand are two at the most; a page waits in the ledger, one for who takes it, one in the thread.
        assert pages <= (number_done + 2) // PAGE + 4


def test_what_is_done_is_not_found_again(tmp_path: Path) -> None:
    ledger, _, _ = run(tmp_path, Server(3))
    ledger.close()
    ledger, told, asked = run(tmp_path, Server(4))
    assert len(asked) == PAGE == sum(told.counts)
    assert len(states(ledger)) == 4 * PAGE


def test_a_search_that_breaks_off_ends_the_run_once_the_rest_is_done(tmp_path: Path) -> None:
    with pytest.raises(Sam2Error, match="does not answer"):
        run(tmp_path, Server(5, breaks_at=2))
    assert [state for state, _, _ in states(Ledger(tmp_path)).values()] == ["done"] * 2 * PAGE


def test_nobody_searches_on_for_who_has_left(tmp_path: Path) -> None:
    server = Server(100)
    feed = Feed(server.pages(), Ledger(tmp_path), SETTINGS.key, retries=False)
    assert feed.take_in(60) == PAGE
    feed.close()
    feed._thread.join(60)
    assert not feed._thread.is_alive()
    assert server.asked <= 4
