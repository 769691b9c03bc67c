"""Deadlines, background, pre-emption, cancelling and threads, on a model whose steps are let through one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Condition, Thread, current_thread, main_thread
from typing import Any

import numpy as np
import pytest

from runtime.errors import NoImage
from runtime.serve.planes import Box3
from runtime.serve.session import InteractiveSession
from runtime.serve.worker import Worker
from runtime.steps.encodings import Encodings
from tests.fakes import TELLING, fake_model

SHAPE = (11, 16, 12)
IMAGE = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
LONG_S = 30.0  # of a wait that a test would fail after


class Gate:
    """Lets memory attention through so many times; everything else passes."""

    def __init__(self) -> None:
        self.changed, self.left, self.passed = Condition(), 0, 0

    def open(self, times: int = 10**9) -> None:
        with self.changed:
            self.left += times
            self.changed.notify_all()

    def shut(self) -> None:
        with self.changed:
            self.left = 0

    def condition(self, inputs: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        with self.changed:
            assert self.changed.wait_for(lambda: self.left > 0, LONG_S)
            self.left -= 1
            self.passed += 1
            self.changed.notify_all()
        return TELLING["memory_attention"](inputs)

    def wait(self, passed: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.passed >= passed, LONG_S)


class Clock:
    """Seconds that pass only when it is said."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session(gate: Gate, clock: Clock) -> Iterator[InteractiveSession]:
    model, _ = fake_model({**TELLING, "memory_attention": gate.condition})
    made = InteractiveSession(model, clock=clock)
    made.set_image(IMAGE)
    yield made
    gate.open()
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def finished(session: InteractiveSession) -> np.ndarray:
    """What is drawn once everything has been found."""
    while not session.is_complete:
        session.predict()
    session.collect()
    return session.target_buffer.copy()


def alone(do: Callable[[InteractiveSession], object]) -> np.ndarray:
    """What is drawn by a session that nobody disturbs."""
    with InteractiveSession(fake_model(TELLING)[0]) as session:
        session.set_image(IMAGE)
        do(session)
        return finished(session)


def click(session: InteractiveSession) -> Box3 | None:
    return session.add_point_interaction((5, 6, 6), True)


def drawn(session: InteractiveSession) -> list[int]:
    return [int(i) for i in np.flatnonzero(session.target_buffer.any((1, 2)))]


def result(future: Future[Any]) -> Any:
    return future.result(LONG_S)


def let_through(gate: Gate, answer: Future[Any]) -> Any:
    """Step by step, until there is an answer: who clicks waits for a step that is under way."""
    while not answer.done():
        gate.open(1)
        with suppress(TimeoutError):
            answer.result(0.05)
    return answer.result()


def test_without_time_the_prompted_slice_is_the_answer(
    session: InteractiveSession, gate: Gate
) -> None:
    session.deadline_s = 0.0
    told = click(session)
    assert told is not None and told[0] == [5, 6] and drawn(session) == [5]
    assert session.progress.is_running and not session.is_complete
    gate.open(2)
    gate.wait(2)
    assert drawn(session) == [5]  # buffers change in calls alone
    gate.open()
    told = session.predict()
    while not session.is_complete:
        session.predict()
    session.collect()
    np.testing.assert_array_equal(session.target_buffer, alone(click))


def test_a_deadline_ends_the_wait_and_the_rest_comes_later(
    session: InteractiveSession, gate: Gate, clock: Clock, pool: ThreadPoolExecutor
) -> None:
    session.deadline_s = 20.0
    answer = pool.submit(click, session)
    gate.open(2)
    gate.wait(2)
    clock.now = 19.9
    gate.open(1)
    gate.wait(3)
    assert not answer.done()
    clock.now = 20.1
    gate.open(1)
    told = result(answer)
    assert {3, 4, 5, 6, 7} <= {*drawn(session)} and len(drawn(session)) < 11
    assert told is not None and told[0] == [min(drawn(session)), max(drawn(session)) + 1]
    gate.open()
    assert session._state.chosen().task.wait(LONG_S)
    later = session.collect()
    assert later is not None and session.is_complete
    np.testing.assert_array_equal(session.target_buffer, alone(click))
    assert session.collect() is None


def test_what_the_background_found_comes_with_the_next_prompt(
    session: InteractiveSession, gate: Gate
) -> None:
    session.deadline_s = 0.0
    click(session)
    gate.open()
    assert session._state.chosen().task.wait(LONG_S)
    session.deadline_s = LONG_S
    before = session.target_buffer.copy()
    told = session.add_point_interaction((5, 2, 2), False)
    changed = np.argwhere(before != session.target_buffer)
    assert told is not None
    assert all(
        a <= lo and hi < b
        for (a, b), lo, hi in zip(told, changed.min(0), changed.max(0), strict=True)
    )
    wanted = alone(lambda s: (click(s), s.add_point_interaction((5, 2, 2), False)))
    np.testing.assert_array_equal(finished(session), wanted)


def test_a_new_prompt_ends_the_wait_for_the_one_before(
    session: InteractiveSession, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    first = pool.submit(click, session)
    gate.open(1)
    gate.wait(1)
    second = pool.submit(session.add_point_interaction, (5, 2, 2), False)
    gate.open(1)  # the step under way is ended by nobody
    result(first)
    gate.open()
    result(second)
    assert len(session.objects[0].interactions) == 2
    assert session.is_complete
    wanted = alone(lambda s: (click(s), s.add_point_interaction((5, 2, 2), False)))
    np.testing.assert_array_equal(session.target_buffer, wanted)


def test_cancel_ends_a_wait_soon_and_nothing_goes_on(
    session: InteractiveSession, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    session.cancel()
    answer = pool.submit(click, session)
    gate.open(1)
    gate.wait(1)
    session.cancel()
    gate.open(1)
    told = result(answer)
    assert told is not None and 5 in drawn(session)
    assert not session.progress.is_running and not session.is_complete
    passed = gate.passed
    gate.open()
    assert passed == gate.passed
    assert session.can_undo
    np.testing.assert_array_equal(finished(session), alone(click))


def test_undo_during_a_prediction_takes_all_of_it_back(
    session: InteractiveSession, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    gate.open()
    click(session)
    before = session.target_buffer.copy()
    gate.shut()
    answer = pool.submit(session.add_point_interaction, (5, 2, 2), False)
    gate.open(2)
    gate.wait(7)
    back = pool.submit(session.undo)
    gate.open()
    result(answer)
    result(back)
    np.testing.assert_array_equal(session.target_buffer, before)
    np.testing.assert_array_equal(finished(session), before)
    session.redo()
    wanted = alone(lambda s: (click(s), s.add_point_interaction((5, 2, 2), False)))
    np.testing.assert_array_equal(finished(session), wanted)


def test_slices_are_told_in_the_calling_thread_once_written_and_by_the_worker_before(
    session: InteractiveSession, gate: Gate, clock: Clock
) -> None:
    told: list[tuple[str, int, Box3, bool]] = []

    def on_slices(object_id: int, box: Box3) -> None:
        is_caller = current_thread() is main_thread()
        part = session.mask_of(1)[tuple(slice(*span) for span in box)]
        told.append(("caller" if is_caller else "worker", object_id, box, bool(part.any())))
        raise ValueError("of somebody else")

    session.on_slices = on_slices
    session.deadline_s = 0.0
    click(session)
    assert told == [("caller", 1, told[0][2], True)] and told[0][2][0] == [5, 6]
    gate.open()
    assert session._state.chosen().task.wait(LONG_S)
    later = told[1:]
    assert {who for who, *_ in later} == {"worker"} and not any(was for *_, was in later)
    assert {k for *_, box, _ in later for k in range(*box[0])} == {*range(11)} - {5}
    box = session.collect()
    assert box is not None and box[0] == [0, 11]


def test_other_objects_go_on_in_the_background(
    session: InteractiveSession, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    session.deadline_s = 0.0
    click(session)
    session.select_object(session.add_object())
    answer = pool.submit(click, session)
    let_through(gate, answer)
    assert drawn(session) == [5]
    gate.open()
    for each in session._state.objects or ():
        assert each.task is not None and each.task.wait(LONG_S)
    wanted = alone(click)
    for object_id in (1, 2):
        session.select_object(object_id)
        session.collect()
        np.testing.assert_array_equal(session.target_buffer, wanted)


def test_a_failing_network_is_told_and_is_no_step(
    session: InteractiveSession, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.open()
    click(session)
    before = session.target_buffer.copy()
    predictor = session._state.chosen().predictor(0)
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "add", lambda *prompts, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.add_point_interaction((5, 2, 2), False)
    np.testing.assert_array_equal(session.target_buffer, before)
    assert len(session.objects[0].interactions) == 1
    session.undo()
    assert not session.can_undo and not session.target_buffer.any()


def test_sessions_share_a_worker_and_encodings_and_none_waits_for_anothers_prediction(
    gate: Gate, pool: ThreadPoolExecutor
) -> None:
    model, backend = fake_model({**TELLING, "memory_attention": gate.condition})
    worker, encodings = Worker(), Encodings(model)
    sessions = [InteractiveSession(model, encodings, worker, deadline_s=0.0) for _ in range(3)]
    for each in sessions:
        each.set_image(IMAGE.copy())
    assert click(sessions[0]) is not None
    for each in sessions[1:]:
        answer = pool.submit(click, each)
        assert let_through(gate, answer) is not None and drawn(each) == [5]
    gate.open()
    wanted = alone(click)
    for each in sessions:
        np.testing.assert_array_equal(finished(each), wanted)
    assert [call.graph for call in backend.calls].count("image_encoder") == SHAPE[0]
    for each in sessions:
        each.close()
    assert worker.call("still", lambda: True)
    worker.close()


def test_any_thread_may_call_anything_at_any_time() -> None:
    """What many threads have done in some order leaves a session that answers like an undisturbed one."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        model, _ = fake_model(TELLING)
        with InteractiveSession(model, deadline_s=0.01) as session:
            session.set_image(IMAGE)
            box = [[4, 5], [2, 9], [2, 9]]
            verbs: list[Callable[[], object]] = [
                lambda: click(session),
                lambda: session.add_bbox_interaction(box, True),
                lambda: session.add_point_interaction((5, 2, 2), False, run_prediction=False),
                session.undo, session.redo, session.predict, session.collect, session.cancel,
                session.reset_interactions,
                lambda: [session.objects, session.progress, session.confidence, session.can_undo],
                lambda: session.add_initial_seg_interaction(IMAGE > 128, run_prediction=True),
            ]  # fmt: skip
            errors: list[BaseException] = []

            def work(seed: int) -> None:
                rng = np.random.default_rng(seed)
                try:
                    for _ in range(25):
                        verbs[rng.integers(len(verbs))]()
                except BaseException as error:
                    errors.append(error)

            threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG_S)
            assert not errors and not any(thread.is_alive() for thread in threads)
            session.reset_interactions()
            click(session)
            np.testing.assert_array_equal(finished(session), alone(click))
    finally:
        sys.setswitchinterval(before)


def test_who_only_looks_never_finds_half_of_anything() -> None:
    """While another thread changes images and objects: answers, or that there is no image."""
    with InteractiveSession(fake_model(TELLING)[0], deadline_s=0.0) as session:
        session.set_image(IMAGE)
        errors: list[BaseException] = []
        done: list[bool] = []

        def look() -> None:
            try:
                while not done:
                    assert isinstance(session.can_undo, bool) and isinstance(session.objects, list)
                    with suppress(NoImage):
                        assert session.progress.done >= 0 and len(session.confidence) > 0
            except BaseException as error:
                errors.append(error)

        looking = [Thread(target=look) for _ in range(2)]
        for thread in looking:
            thread.start()
        for _ in range(8):
            session.set_image(IMAGE[:5])
            session.select_object(session.add_object())
            session.add_point_interaction((2, 6, 6), True)
            session.remove_object(session.selected)
            session.remove_object(session.selected)
        done.append(True)
        for thread in looking:
            thread.join(LONG_S)
        assert not errors


def test_closing_ends_a_wait(
    session: InteractiveSession, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    answer = pool.submit(click, session)
    gate.open(1)
    gate.wait(1)
    closing = pool.submit(session.close)
    gate.open()
    result(closing)
    result(answer)
