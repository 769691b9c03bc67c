"""One predictor used from several threads at once: they take turns, and nothing that is found is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Thread

import numpy as np
import pytest

from runtime.errors import InputError, PromptError
from runtime.predictors import FlowPredictor, VolumePredictor
from runtime.predictors.result import Result
from runtime.predictors.video import VideoPredictor
from runtime.prompts.prompts import Box, Point
from tests.fakes import TELLING, fake_model

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 64, 64)).astype(np.uint8)
BOX, CLICK = Box(slice=4, y=(10, 40), x=(10, 40)), Point(slice=4, y=20, x=20)
TIMES = 12


@pytest.fixture(autouse=True)
def threads_that_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def volume() -> VolumePredictor:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_volume(PIXELS)
    return predictor


def images() -> FlowPredictor:
    predictor = FlowPredictor(fake_model(TELLING)[0])
    predictor.set_images([*PIXELS])
    return predictor


def logits(result: Result) -> dict[tuple[int, int], bytes]:
    return {
        (object_id, index): mask.segmented.logits.tobytes()
        for object_id, masks in result.slices.items()
        for index, mask in masks.items()
    }


@pytest.mark.parametrize("make", [volume, images])
def test_runs_at_once_are_right_or_refused_and_spoil_no_later_one(
    make: Callable[[], VolumePredictor | FlowPredictor],
) -> None:
    def run(predictor: VolumePredictor | FlowPredictor) -> Result | None:
        try:
            return predictor.propagate()
        except InputError as error:
            assert "another run" in str(error)
            return None

    alone = make()
    alone.add(BOX)
    wanted = logits(alone.propagate())
    with ThreadPoolExecutor(3) as pool:
        for _ in range(TIMES):
            predictor = make()
            predictor.add(BOX)
            found = [*pool.map(run, [predictor] * 3)]
            assert any(found), "the last one to begin is not refused"
            assert all(logits(each) == wanted for each in found if each)
            assert logits(predictor.propagate()) == wanted


def test_prompts_from_another_thread_during_a_run_are_counted_once_each() -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(TIMES):
            predictor = volume()
            predictor.add(BOX)
            run = pool.submit(predictor.propagate)
            added = [pool.submit(predictor.add, CLICK, object_id=i) for i in (2, 3)]
            assert run.result().is_complete
            assert all(each.result().mask().any() for each in added)
            at_once = logits(predictor.propagate())
            alone = volume()
            alone.add(BOX)
            for i in (2, 3):
                alone.add(CLICK, object_id=i)
            assert at_once == logits(alone.propagate())
            for _ in range(3):
                predictor.undo()
            arena = predictor._tracker._arena  # type: ignore[union-attr]
            assert arena.memories.in_use == arena.pointers.in_use == 0


def test_frames_and_prompts_of_a_video_take_turns() -> None:
    with ThreadPoolExecutor(3) as pool:
        for _ in range(TIMES):
            video = VideoPredictor(fake_model(TELLING)[0])
            video.push(PIXELS[0])
            frames = [pool.submit(video.push, frame) for frame in PIXELS[1:]]
            prompts = [pool.submit(video.add, BOX, object_id=i) for i in (1, 2, 3)]
            for each in (*frames, *prompts):
                each.result()
            assert video.index == len(PIXELS) - 1
            assert set(video.push(PIXELS[0])) == {1, 2, 3}
            video.reset()
            assert video._arena.memories.in_use == video._arena.pointers.in_use == 0


def test_who_only_looks_may_do_so_at_any_time() -> None:
    """Masks by now, prompts and objects, asked for by one thread while others add, run, undo and redo."""
    predictor = volume()
    wanted = logits(predictor_alone())
    is_over = Event()
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not is_over.is_set():
                for object_id in predictor.object_ids:
                    with suppress(PromptError):  # taken back meanwhile
                        assert set(predictor.prompts(object_id)) <= {4}
                found = logits(predictor.current())
                assert all(wanted[key] == mask for key, mask in found.items())
        except BaseException as error:
            errors.append(error)

    looking = [Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    for _ in range(TIMES):
        predictor.add(BOX)
        predictor.propagate()
        assert predictor.current().is_complete
        predictor.undo()
        predictor.redo()
        predictor.undo()
    is_over.set()
    for thread in looking:
        thread.join()
    assert not errors


def test_objects_come_and_go_while_a_run_is_planned() -> None:
    predictor = volume()
    for i in range(1, 9):
        predictor.add(BOX, object_id=i)
    tracker = predictor._tracker
    assert tracker is not None
    is_over = Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            with tracker.lock:
                tracker.objects[9] = tracker.objects[8]
            with tracker.lock:
                del tracker.objects[9]

    coming = Thread(target=come_and_go)
    coming.start()
    try:
        for _ in range(300):
            assert 8 * 9 <= predictor.num_results() <= 9 * 9
            predictor.stream()
            predictor.cancel()
            run = predictor._runs.make()
            predictor.cancel()
            found = predictor._collected(tracker, run, dict)
            assert set(found.slices) - {9} == set(range(1, 9))
    finally:
        is_over.set()
        coming.join()


def predictor_alone() -> Result:
    predictor = volume()
    predictor.add(BOX)
    return predictor.propagate()
