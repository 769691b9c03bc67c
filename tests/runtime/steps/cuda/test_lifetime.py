"""What a long run, another thread, or a late reader may rely on, on a device made of host memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from runtime import Box, Point, VideoPredictor, VolumePredictor
from runtime.bundle.tensors import LowResMask
from runtime.measure.phantom import make_phantom
from runtime.model import Model, load
from runtime.predictors.result import SliceMask
from runtime.steps.cuda import features as device_features
from runtime.steps.cuda.readback import MOST_PENDING
from runtime.steps.cuda.steps import CudaSteps
from tests.cuda import cuda_of, on_device
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 16, 16), np.uint8)
BOX = Box(slice=0, y=(2, 9), x=(3, 12))


def follow(model: Model) -> list[SliceMask]:
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS, "none")
    predictor.add(BOX)
    return list(predictor.stream())


def used(device: HostDevice, steps: CudaSteps) -> tuple[int, ...]:
    """Everything that could grow."""
    steps.synchronize()
    pinned = [each for each in device.pinned_memory if each() is not None]
    return (
        device.memory_bytes[0],
        len(pinned),
        steps._readback.num_free,
        len(steps._replays.steps),
        len(steps._readback._pending),
        device.captures,
    )


def test_a_long_video_takes_no_more_than_a_short_one() -> None:
    model, device = on_device(fake_model(TELLING)[0])
    steps = cuda_of(model)[1]
    video = VideoPredictor(model)
    states = []
    for number in range(120):
        masks = video.push(PIXELS[number % 24])
        if number == 0:
            for object_id in range(1, 11):
                video.add(BOX, object_id=object_id)
        _ = [mask.segmented.logits for mask in masks.values()]
        if number % 40 == 39:
            states.append(used(device, steps))
    assert states[0] == states[1] == states[2]


def test_a_predictor_may_be_used_in_another_thread() -> None:
    model, _ = on_device(fake_model(TELLING)[0])
    truth = [found.segmented.logits for found in follow(model)]
    found: list[SliceMask] = []
    read: list[np.ndarray] = []

    def run_in_thread(work: object) -> None:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]
        thread.start()
        thread.join()

    run_in_thread(lambda: found.extend(follow(model)))
    run_in_thread(lambda: read.extend(mask.segmented.logits for mask in found))
    np.testing.assert_array_equal(read, truth)


def test_a_video_may_go_on_in_another_thread() -> None:
    model, _ = on_device(fake_model(TELLING)[0])
    video = VideoPredictor(model)
    video.push(PIXELS[0])
    video.add(BOX)
    video.push(PIXELS[1])
    found: list[dict[int, SliceMask]] = []
    thread = threading.Thread(target=lambda: found.append(video.push(PIXELS[2])))
    thread.start()
    thread.join()
    assert found[0][1].segmented.logits.shape == (FAKE_NUMBERS.low_res,) * 2


def test_two_threads_may_look_at_one_mask() -> None:
    def slowly() -> np.ndarray:
        time.sleep(0.02)
        return np.ones((4, 4), np.float32)

    mask, seen = LowResMask(slowly), []
    threads = [threading.Thread(target=lambda: seen.append(mask.unfilled)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4 and all(each is seen[0] for each in seen)


def test_masks_that_nobody_reads_leave_pinned_memory() -> None:
    model, device = on_device(fake_model(TELLING)[0])
    kept = [follow(model) for _ in range(6)]
    assert len(kept) * len(PIXELS) > MOST_PENDING + 32
    before = sum(each() is not None for each in device.pinned_memory)
    kept += [follow(model) for _ in range(3)]
    assert sum(each() is not None for each in device.pinned_memory) <= before
    np.testing.assert_array_equal(*([m.segmented.logits for m in kept[i]] for i in (0, -1)))


def test_a_correction_reads_its_own_slice_where_few_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_features, "FEWEST_SLOTS", 9)
    monkeypatch.setattr(device_features, "AHEAD", 2)
    phantom = make_phantom((13, 64, 64))
    host = load(None, "ort", 1).plain()
    found = []
    for model in (on_device(host)[0], host):
        predictor = VolumePredictor(model, max_feature_bytes=1)
        predictor.set_volume(phantom.pixels, "none")
        predictor.add(Box(slice=0, y=(20, 40), x=(20, 40)))
        predictor.propagate()
        correction = predictor.add(Point(slice=12, y=30, x=30))  # on memories of all before it
        found.append(correction.segmented.logits)
    assert np.abs(found[0] - found[1]).max() <= 1e-3 * np.abs(found[1]).max()
