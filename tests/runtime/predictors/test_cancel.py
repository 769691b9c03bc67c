"""A cancel ends what is under way when it is asked for, begun or not, and nothing that comes later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime.predictors import FlowPredictor, VolumePredictor
from runtime.predictors.result import Result
from runtime.predictors.runs import Runs
from runtime.prompts.prompts import Box
from tests.fakes import TELLING, Inputs, fake_model

DEPTH, SIDE = 9, 16
PIXELS = np.broadcast_to(20 * np.arange(DEPTH, dtype=np.uint8)[:, None, None], (DEPTH, SIDE, SIDE))
BOX = Box(slice=4, y=(2, 12), x=(2, 12))


def volume(**answers: Any) -> VolumePredictor:
    predictor = VolumePredictor(fake_model({**TELLING, **answers})[0])
    predictor.set_volume(PIXELS)
    predictor.add(BOX)
    return predictor


def images(**answers: Any) -> FlowPredictor:
    predictor = FlowPredictor(fake_model({**TELLING, **answers})[0])
    predictor.set_images(list(PIXELS))
    predictor.add(BOX)
    return predictor


both = pytest.mark.parametrize("make", [volume, images])
Make = Callable[..., Any]


def is_whole(result: Result) -> bool:
    return result.is_complete and sorted(result.slices[1]) == list(range(DEPTH))


@both
def test_a_cancel_before_the_first_step_ends_the_run(make: Make) -> None:
    predictor = make()
    stream = predictor.stream()
    predictor.cancel()
    assert list(stream) == []
    assert is_whole(predictor.propagate())


@both
def test_a_cancel_with_nothing_under_way_does_nothing(make: Make) -> None:
    predictor = make()
    predictor.cancel()
    assert is_whole(predictor.propagate())
    predictor.cancel()
    assert is_whole(predictor.propagate())
    predictor.cancel()
    assert len(list(predictor.stream())) == DEPTH


@both
def test_a_cancel_ends_all_that_is_under_way_and_nothing_later(make: Make) -> None:
    predictor = make()
    begun, waiting = predictor.stream(), predictor.stream()
    next(begun)
    predictor.cancel()
    later = predictor.stream()
    assert list(waiting) == []
    assert len(list(later)) == DEPTH
    assert list(begun) == [], "it was cancelled, which is no error though another one has begun"


@both
def test_a_cancel_among_masks_that_are_known_ends_the_run_too(make: Make) -> None:
    predictor = make()
    predictor.propagate()
    stream = predictor.stream()
    next(stream), next(stream)
    predictor.cancel()
    assert list(stream) == []


@both
def test_a_cancel_after_the_last_mask_leaves_the_result_complete(make: Make) -> None:
    predictor: Any = None

    def cancel_at_last(inputs: Inputs) -> Inputs:
        steps.append(1)
        if len(steps) == most:
            predictor.cancel()
        return TELLING["memory_encoder"](inputs)

    steps: list[int] = []
    most = 10**6
    predictor = make(memory_encoder=cancel_at_last)
    assert is_whole(predictor.propagate())
    most, steps = len(steps), []
    predictor.reset()
    predictor.add(BOX)
    assert is_whole(predictor.propagate()), "all was handed out"


@both
def test_a_cancel_reaches_the_run_of_the_slices_before(make: Make) -> None:
    predictor = make()
    stream = predictor.stream()
    next(stream)
    if make is volume:
        predictor.set_volume(PIXELS)
    else:
        predictor.set_images(list(PIXELS))
    predictor.cancel()
    assert list(stream) == []


def test_a_cancel_is_heard_while_images_are_put_in_order() -> None:
    predictor: Any = None
    encoded: list[int] = []

    def encode(inputs: Inputs) -> Inputs:
        encoded.append(1)
        if len(encoded) == 3:
            predictor.cancel()
        return TELLING["image_encoder"](inputs)

    predictor = images(image_encoder=encode)
    result = predictor.propagate("similar")
    assert len(encoded) == 3
    assert not result.is_complete
    assert result.slices == {1: {}}
    assert is_whole(predictor.propagate("similar"))


@both
def test_what_does_not_fit_is_said_when_the_stream_is_made(make: Make) -> None:
    predictor = make()
    predictor.reset()
    with pytest.raises(ValueError, match="no prompt yet"):
        predictor.stream()


@both
def test_a_stream_made_in_one_thread_and_run_in_another_can_be_cancelled_at_any_time(
    make: Make,
) -> None:
    """Before the other thread has come to it, in the middle of a step, and after its end."""
    computing, may_go_on = threading.Event(), threading.Event()

    def wait(inputs: Inputs) -> Inputs:
        computing.set()
        assert may_go_on.wait(10)
        return TELLING["memory_attention"](inputs)

    predictor = make(memory_attention=wait)

    def run(stream: Iterator[Any]) -> tuple[threading.Thread, list[int]]:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(mask.slice for mask in stream))
        return thread, found

    thread, found = run(predictor.stream())
    predictor.cancel()
    thread.start()
    thread.join(10)
    assert found == []

    thread, found = run(predictor.stream())
    thread.start()
    assert computing.wait(10)
    predictor.cancel()
    may_go_on.set()
    thread.join(10)
    assert 4 in found and 1 < len(found) < DEPTH, "the step it was at is handed out"

    thread, found = run(predictor.stream())
    thread.start()
    thread.join(10)
    predictor.cancel()
    assert sorted(found) == list(range(DEPTH))


def test_a_signal_handler_may_cancel_while_a_run_is_being_made() -> None:
    runs = Runs()
    runs._lock.acquire()  # where `make` would be interrupted
    before = signal.signal(signal.SIGUSR1, lambda *_: runs.cancel())
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
        runs._lock.release()
    assert not runs.make().is_cancelled


def test_a_result_tells_that_an_object_was_reset_meanwhile() -> None:
    predictor: Any = None

    def reset(inputs: Inputs) -> Inputs:
        if 1 in predictor._tracker.objects and len(predictor._tracker.objects) == 2:
            predictor.reset(1)
        return TELLING["memory_attention"](inputs)

    predictor = volume(memory_attention=reset)
    predictor.add(BOX, object_id=2)
    result = predictor.propagate()
    assert sorted(result.slices[2]) == list(range(DEPTH))
    assert len(result.slices[1]) < DEPTH
    assert not result.is_complete
