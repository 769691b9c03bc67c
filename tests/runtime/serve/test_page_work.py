from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import OutOfMemory
from runtime.serve.info import ObjectInfo
from runtime.serve.leases import TooManyRequests
from runtime.serve.page_events import PageEvents
from runtime.serve.page_work import MOST_WAITING, PageWork
from tests.no_threads import no_more_threads


class ClosedMeanwhile:
    """A session that is closed between two looks at it."""

    on_slices = None
    objects: tuple[ObjectInfo, ...] = ()

    def select_object(self, object_id: int) -> None:
        pass


def test_a_session_that_is_closed_meanwhile_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    work = PageWork(ClosedMeanwhile(), PageEvents())  # type: ignore[arg-type]
    work.submit(1, lambda session: None, lambda object_id: {})
    thread = work._thread
    if thread is not None:
        thread.join(30)
    assert not work.is_busy and work._thread is None
    assert caplog.text == ""


def test_verbs_that_wait_have_a_number_and_their_bytes_are_counted() -> None:
    held: list[int] = []

    def hold(num_bytes: int) -> None:
        if num_bytes > 1000:
            raise OutOfMemory("too much")
        held.append(num_bytes)

    work = PageWork(Idle(), Heard(), hold)  # type: ignore[arg-type]
    with work.turn:
        for _ in range(4):
            work.submit(1, lambda session: None, lambda object_id: {}, 250)
        with pytest.raises(OutOfMemory):
            work.submit(1, lambda session: None, lambda object_id: {}, 1)
        assert work.is_busy and held == [250, 500, 750, 1000]
        with pytest.raises(TooManyRequests, match=str(MOST_WAITING)):
            for _ in range(MOST_WAITING + 1):
                work.submit(1, lambda session: None, lambda object_id: {})
    while work.is_busy or held[-1]:
        time.sleep(0.01)
    with work.turn:
        work.submit(1, lambda session: None, lambda object_id: {}, 10)
        while work._verbs:  # it has been taken, and waits for its turn
            time.sleep(0.01)
        work.submit(1, lambda session: None, lambda object_id: {}, 20)
        work.forget(1)
        assert held[-1] == 10
        work.submit(1, lambda session: None, lambda object_id: {}, 30)
        work.cancel()
        assert held[-1] == 10


def test_a_verb_whose_thread_could_not_be_started_is_not_done_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, done = [0], []
    work = PageWork(Idle(), Heard(), held.append)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        no_more_threads(patch)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            work.submit(1, lambda session: done.append("first"), lambda object_id: {}, 10)
    assert not work.is_busy and held[-1] == 0
    work.submit(1, lambda session: done.append("second"), lambda object_id: {}, 10)
    end_s = time.monotonic() + 60
    while (work.is_busy or held[-1]) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert done == ["second"] and held[-1] == 0


class Idle:
    """A session that has nothing to do."""

    on_slices = None
    objects = (SimpleNamespace(id=1, is_running=False, axis=0, done=0, planned=0),)

    def select_object(self, object_id: int) -> None:
        pass

    def cancel(self) -> None:
        pass


class Following:
    """A session that follows its one object for ever."""

    on_slices = None
    objects = (SimpleNamespace(id=1, is_running=True, done=1, planned=9),)

    def select_object(self, object_id: int) -> None:
        pass

    def collect(self) -> None:
        pass


class Heard:
    """What a page hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send(self, name: str, **data: Any) -> None:
        self.events.append((name, data))


def test_all_verbs_are_told_of_when_the_work_stops() -> None:
    heard = Heard()
    work = PageWork(Idle(), heard)  # type: ignore[arg-type]
    with (
        work.turn
    ):  # neither has run yet when the first is found to have a mask that cannot be told
        for _ in range(3):
            work.submit(1, lambda session: [[0, 1], [0, 1], [0, 1]], lambda object_id: {})
    while len(heard.events) < 4:
        time.sleep(0.01)
    failed = [data["seq"] for name, data in heard.events if name == "failed"]
    assert sorted(failed) == [1, 2, 3] and not work.is_busy


def test_verbs_of_an_object_that_is_removed_are_over() -> None:
    heard = Heard()
    work = PageWork(Following(), heard)  # type: ignore[arg-type]
    seq = work.submit(1, lambda session: None, lambda object_id: {"id": object_id})
    while "progress" not in [name for name, _ in heard.events]:
        time.sleep(0.01)
    with work.turn:
        work.forget(1)
    over = [data for name, data in heard.events if name == "done"]
    assert [(data["seq"], data["cancelled"]) for data in over] == [(seq, True)]
    assert not work.is_busy
