from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.serve.info import ObjectInfo
from runtime.serve.page_events import PageEvents
from runtime.serve.page_work import PageWork


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
