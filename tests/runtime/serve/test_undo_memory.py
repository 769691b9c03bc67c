"""Steps of undo and redo take no more memory than there is room for: the oldest go, the latest stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from runtime.errors import Sam2Error
from runtime.serve.info import ObjectInfo
from runtime.serve.session import InteractiveSession
from runtime.serve.undo_memory import UndoMemory
from runtime.serve.worker import Urgency, Worker
from tests.fakes import TELLING, fake_model

SHAPE = (9, 16, 12)
IMAGE = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
CLICKS = [(4, 5, 5), (2, 6, 6), (7, 4, 4), (5, 9, 3), (1, 3, 8)]


class Room:
    """An undo memory of so many bytes."""

    def __init__(self) -> None:
        self.num_bytes = 2**30
        self.memory = UndoMemory(lambda: self.num_bytes)
        self.worker = Worker()

    @contextmanager
    def session(self) -> Iterator[InteractiveSession]:
        model, _ = fake_model(TELLING)
        with InteractiveSession(model, worker=self.worker, undo_memory=self.memory) as session:
            session.set_image(IMAGE)
            yield session

    def narrow(self, num_bytes: int) -> None:
        """Leave so many bytes from now on."""
        self.num_bytes = num_bytes
        self.worker.submit(self, self.memory.settling(), Urgency.PROMPT).wait()


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.worker.close()


def seen(session: InteractiveSession) -> tuple[bytes, object]:
    """What is drawn of the selected object, and for which prompts."""
    (info,) = [each for each in session.objects if each.id == session.selected]
    return session.target_buffer.tobytes(), info.interactions


def click(session: InteractiveSession, count: int, first: int = 0) -> list[tuple[bytes, object]]:
    """What is seen after each of some clicks."""
    drawn = []
    for at in CLICKS[first : first + count]:
        session.add_point_interaction(at, True)
        drawn.append(seen(session))
    return drawn


def only(session: InteractiveSession) -> ObjectInfo:
    (info,) = session.objects
    return info


def step_bytes(room: Room, session: InteractiveSession) -> int:
    """What a step takes that found all slices anew, after two clicks."""
    click(session, 2)
    return room.memory.held_bytes


def test_what_a_step_keeps_is_what_was_found_before_it(room: Room) -> None:
    with room.session() as session:
        side = session._state.model.numbers.low_res
        logits = (SHAPE[0] - 1) * side * side * 4  # the first click's own slice stays as it is
        click(session, 1)
        assert room.memory.held_bytes == 0  # there was nothing before
        click(session, 1, first=1)
        assert logits <= room.memory.held_bytes < 2 * logits
        one = room.memory.held_bytes
        session.undo()
        assert logits <= room.memory.held_bytes < 2 * logits
        session.redo()
        assert room.memory.held_bytes == one
        session.add_point_interaction(CLICKS[2], True, run_prediction=False)
        few = room.memory.held_bytes - one
        assert few < logits  # slices that are as they were are shared
        session.reset_interactions()
        click(session, 1)
        assert room.memory.held_bytes == 0
    assert room.memory.held_bytes == 0


def test_the_oldest_steps_go_first_and_are_told_of(room: Room) -> None:
    with room.session() as session:
        room.num_bytes = int(2.5 * step_bytes(room, session))
        session.reset_interactions()
        drawn = click(session, 5)
        assert room.memory.held_bytes <= room.num_bytes
        assert only(session).num_forgotten == 2 and only(session).num_forgotten_redo == 0
        for before in (drawn[3], drawn[2], drawn[1]):
            assert session.can_undo
            session.undo()
            assert seen(session) == before
        assert not session.can_undo and only(session).num_forgotten == 2
        for after in drawn[2:]:
            session.redo()
            assert seen(session) == after
        session.reset_interactions()
        assert only(session).num_forgotten == 0


def test_the_latest_step_is_kept_whatever_it_takes(room: Room) -> None:
    room.num_bytes = 0
    with room.session() as session:
        _, second, third = click(session, 3)
        assert only(session).num_forgotten == 2
        session.undo()
        assert seen(session) == second and not session.can_undo
        session.redo()
        assert seen(session) == third and not session.can_redo


def test_redo_is_forgotten_from_its_far_end(room: Room) -> None:
    with room.session() as session:
        one = step_bytes(room, session)
        session.reset_interactions()
        drawn = click(session, 4)
        for _ in range(4):
            session.undo()
        room.narrow(int(2.5 * one))
        assert room.memory.held_bytes <= room.num_bytes
        info = only(session)
        assert info.num_forgotten_redo == 2 and info.num_forgotten == 0
        for after in drawn[:2]:
            session.redo()
            assert seen(session) == after
        assert not session.can_redo
        session.add_point_interaction(CLICKS[4], True)
        assert only(session).num_forgotten_redo == 0  # nobody can want these any more
        session.undo()
        assert seen(session) == drawn[1]


def test_the_oldest_step_may_be_another_objects(room: Room) -> None:
    with room.session() as session:
        one = step_bytes(room, session)
        session.reset_interactions()
        click(session, 3)
        session.select_object(session.add_object())
        drawn = click(session, 3)
        room.narrow(int(2.5 * one))
        old, new = session.objects
        assert (old.num_forgotten, old.can_undo) == (3, False)
        assert (new.num_forgotten, new.can_undo) == (0, True)
        session.undo()
        assert seen(session) == drawn[1]


def test_the_session_that_has_most_gives_way(room: Room) -> None:
    with room.session() as large, room.session() as small:
        one = step_bytes(room, large)
        click(large, 3, first=2)
        click(small, 2)
        room.narrow(int(2.5 * one))
        assert only(small).num_forgotten == 0
        assert only(large).num_forgotten >= 3 and only(large).can_undo
        assert room.memory.held_bytes <= room.num_bytes
        room.narrow(0)
        assert only(small).can_undo and only(large).can_undo
    assert room.memory.held_bytes == 0


def test_what_no_step_leads_to_any_more_is_given_back(room: Room) -> None:
    with room.session() as session:
        click(session, 2)
        across = [[2, 9], [4, 5], [3, 8]]
        session.add_bbox_interaction(across, True)
        chosen = session._state.chosen()
        assert chosen._predictors.keys() == {0, 1}
        session.undo()
        session.redo()
        click(session, 2, first=2)
        room.narrow(0)
        assert chosen._predictors.keys() == {1}
        session.undo()
        assert session.axis == 1 and not session.can_undo


def test_a_limit_does_not_keep_what_it_was_drawn_from(room: Room) -> None:
    with room.session() as session:
        click(session, 1)
        session.add_point_interaction((4, 9, 9), False)
        limit = session._state.chosen().now.limit
        assert limit is not None and all(drawn.source is None for drawn in limit.values())


def test_a_prompt_that_failed_is_not_brought_back_by_redo(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with room.session() as session:
        _, second = click(session, 2)
        session.undo()
        first = seen(session)
        chosen = session._state.chosen()

        def fail(*_: object) -> None:
            raise Sam2Error("the network failed")

        monkeypatch.setattr(chosen, "_take", fail)
        with pytest.raises(Sam2Error, match="the network failed"):
            session.add_point_interaction((8, 8, 8), True)
        monkeypatch.undo()
        assert not session.can_redo
        session.redo()
        assert seen(session) == first != second
        click(session, 1, first=1)
        assert seen(session) == second
