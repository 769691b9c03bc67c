from __future__ import annotations

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
