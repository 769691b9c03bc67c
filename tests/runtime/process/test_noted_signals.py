"""Signals that come while a library calls back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.process.noted_signals import noted_signals


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Numbers that came to the handler of this process."""
    numbers: list[int] = []

    def handle(number: int, frame: object) -> None:
        numbers.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_the_first_is_noted_and_handed_on_at_the_end(handled: list[int]) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), noted_signals() as came:
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        reached = came == [signal.SIGTERM] and handled == []
    assert reached and handled == [signal.SIGTERM]


def test_it_counts_for_more_than_what_the_library_makes_of_it(handled: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), noted_signals():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("it was stopped")
    assert handled == [signal.SIGTERM]


def test_a_second_one_is_handled_at_once(handled: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), noted_signals():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert len(handled) == 2


def test_without_one_everything_is_as_it_was(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with noted_signals() as came:
        pass
    assert came == handled == [] and signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with noted_signals() as came:
        signal.raise_signal(signal.SIGTERM)
    assert came == [] and signal.signal(signal.SIGTERM, before) is signal.SIG_IGN


def test_other_threads_change_no_handler(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> object:
        with noted_signals():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(inside).result() is before
