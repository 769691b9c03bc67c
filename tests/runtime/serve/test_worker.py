"""One thread for all: the urgent first, owners in turn, and nobody is left waiting when something ends or fails."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread, current_thread

import pytest

from runtime.errors import SessionClosed
from runtime.serve.worker import Steps, Urgency, Worker
from tests.no_threads import no_more_threads


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def held(worker: Worker) -> Event:
    """Keep the worker busy until the event is set."""
    free, is_busy = Event(), Event()

    def wait() -> Steps:
        is_busy.set()
        free.wait()
        return
        yield Urgency.PROMPT

    worker.submit("holder", wait(), Urgency.PROMPT)
    is_busy.wait()
    return free


def steps(log: list[str], name: str, *urgencies: Urgency) -> Steps:
    for urgency in urgencies:
        log.append(name)
        yield urgency
    log.append(name)


def test_the_urgent_comes_first_and_owners_take_turns(worker: Worker) -> None:
    log: list[str] = []
    free = held(worker)
    later, soon = Urgency.BACKGROUND, Urgency.AWAITED
    tasks = [
        worker.submit("A", steps(log, "a1", later), later),
        worker.submit("A", steps(log, "a2", later), later),
        worker.submit("B", steps(log, "b", later, later), later),
        worker.submit("C", steps(log, "c", soon, later), soon),
        worker.submit("D", steps(log, "d"), Urgency.AHEAD),
    ]
    free.set()
    for task in tasks:
        assert task.wait(10)
    assert log[:2] == ["c", "c"]
    assert log[-1] == "d"
    assert log[2:7] == ["a1", "b", "c", "a2", "b"]
    assert sorted(log) == sorted(["a1", "a1", "a2", "a2", "b", "b", "b", "c", "c", "c", "d"])


def test_work_is_done_on_one_thread_and_its_answer_and_errors_come_back(worker: Worker) -> None:
    threads = {worker.call("A", lambda: current_thread().name) for _ in range(3)}
    assert threads == {"inference"}
    with pytest.raises(ZeroDivisionError):
        worker.call("A", lambda: 1 // 0)
    assert worker.call("B", lambda: 7) == 7


def test_what_is_ended_does_no_further_step_and_puts_away_on_the_workers_thread(
    worker: Worker,
) -> None:
    log: list[str] = []

    def endless() -> Steps:
        try:
            while True:
                yield Urgency.BACKGROUND
        finally:
            log.append(current_thread().name)

    task = worker.submit("A", endless(), Urgency.BACKGROUND, lambda task: log.append("over"))
    worker.call("B", lambda: None)
    task.end()
    assert task.is_over and task.error is None
    task.end()
    worker.call("B", lambda: None)
    assert log in (["inference", "over"], ["over"])


def test_a_thread_that_could_not_be_started_is_tried_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_more_threads(patch)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            worker.call("A", lambda: 1)
    task = worker.submit("A", steps([], "a"), Urgency.PROMPT)
    assert task.wait(10)


def test_what_never_began_is_over_too(worker: Worker) -> None:
    log: list[str] = []
    free = held(worker)
    task = worker.submit("A", steps(log, "a"), Urgency.PROMPT, lambda task: log.append("over"))
    ender = Thread(target=task.end)
    ender.start()
    free.set()
    ender.join(10)
    assert task.wait(10)
    worker.call("B", lambda: None)
    assert log == ["over"]


def test_a_step_that_fails_ends_its_own_task_alone(worker: Worker) -> None:
    def fails() -> Steps:
        yield Urgency.PROMPT
        raise ValueError("broken")

    task = worker.submit("A", fails(), Urgency.PROMPT)
    assert task.wait(10)
    assert isinstance(task.error, ValueError)
    assert worker.call("A", lambda: 1) == 1


def test_closing_ends_what_waits_and_refuses_more() -> None:
    worker = Worker()
    free = held(worker)
    waiting = worker.submit("A", steps([], "a"), Urgency.BACKGROUND)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            worker.call("A", lambda: None, Urgency.AHEAD)
        except SessionClosed as error:
            errors.append(error)

    caller = Thread(target=call)
    caller.start()
    closer = Thread(target=worker.close)
    closer.start()
    free.set()
    for thread in (caller, closer):
        thread.join(10)
    assert waiting.is_over
    assert len(errors) <= 1  # it was done before, or says that it was not
    with pytest.raises(SessionClosed):
        worker.submit("A", steps([], "a"), Urgency.PROMPT)
    worker.close()
