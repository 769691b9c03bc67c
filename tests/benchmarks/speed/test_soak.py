"""Sessions of a soak against a server that computes nothing."""

from __future__ import annotations

import pytest

from benchmarks.speed.soak_session import ENDS, RELEASED, VERBS, live
from runtime.errors import Sam2Error
from runtime.serve.limits import Limits
from tests.runtime.serve.fakes import running

SHAPE = (3, 16, 16)


def test_sessions_ask_for_everything_and_end_in_every_way() -> None:
    with running(Limits(max_sessions=64)) as server:
        lived = [live(server.port, SHAPE, number) for number in range(40)]
        assert {one.end for one in lived} == {*ENDS}
        assert {verb for one in lived for verb in one.verbs} == {*VERBS}
        assert len(server.leases) == sum(one.end != RELEASED for one in lived)
        assert live(server.port, SHAPE, 3).verbs == lived[3].verbs


def test_an_answer_that_is_none_is_told() -> None:
    with (
        running(Limits(max_image_bytes=100)) as server,
        pytest.raises(Sam2Error, match="413 to /set_image"),
    ):
        live(server.port, SHAPE, 0)
