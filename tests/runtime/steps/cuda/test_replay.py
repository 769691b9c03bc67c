"""Steps that are captured and launched again, on a device made of host memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest

from runtime import Box, VolumePredictor
from runtime.bundle.tensors import Decoded
from runtime.devices.cuda.recorder import BufferRecorder
from runtime.memory import MemoryRead
from runtime.memory.batch import Batch, pack
from runtime.memory.records import TargetSlots
from runtime.model import Model
from runtime.predictors.result import SliceMask
from runtime.steps.cuda import replay
from runtime.steps.cuda.control import ALIGNMENT
from tests.cuda import cuda_of, on_device
from tests.fakes import TELLING, fake_model
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16, 16), np.uint8)


def begin(model: Model, box: Box | None = None) -> Iterator[SliceMask]:
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS, "none")
    predictor.add(box or Box(slice=0, y=(2, 9), x=(3, 12)))
    return predictor.stream()


@pytest.fixture
def model() -> Model:
    return on_device(fake_model(TELLING)[0])[0]


def device_of(model: Model) -> HostDevice:
    device = cuda_of(model)[0].device
    assert isinstance(device, HostDevice)
    return device


def logits(stream: Iterator[SliceMask]) -> list[np.ndarray]:
    return [found.segmented.logits for found in stream]


def test_a_capture_that_fails_is_begun_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = logits(begin(fake_model(TELLING)[0]))
    enqueue, count = HostDevice.enqueue, iter(range(1000))

    def fails(self: HostDevice, *arguments: object, **named: object) -> None:
        if self.capturing is not None and next(count) == 4:
            raise RuntimeError("nothing more can be enqueued")
        enqueue(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(HostDevice, "enqueue", fails)
    stream = begin(model)
    next(stream), next(stream)
    with pytest.raises(RuntimeError, match="nothing more"):
        next(stream)
    np.testing.assert_array_equal(logits(begin(model)), truth)
    assert device_of(model).launches > 5


def test_garbage_is_not_collected_while_a_step_is_captured(model: Model) -> None:
    for found in begin(model):
        cycle: list[object] = [found]  # with a mask that has not been read back
        cycle += [cycle, model.device_memory.empty((4,), "float32")]
    assert device_of(model).captures == 1


def test_steps_unused_for_longest_are_forgotten(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MOST_REPLAYS", 2)
    one, two, three = (begin(model) for _ in range(3))  # each with slots, and so steps, of its own
    for stream in (one, two, three):
        for _ in range(4):
            next(stream)
    device, (_, steps) = device_of(model), cuda_of(model)
    assert device.captures == 3 and len(steps._replays.steps) == 2
    next(three), next(two)
    assert device.captures == 3
    next(one), next(one)
    assert device.captures == 4
    next(two), next(two)
    assert device.captures == 4, "the third was the one forgotten"


def test_runs_that_take_turns_do_not_mix(model: Model) -> None:
    boxes = [Box(slice=0, y=(2, 9), x=(3, 12)), Box(slice=0, y=(1, 5), x=(1, 15))]
    right = [logits(begin(fake_model(TELLING)[0], box)) for box in boxes]
    found = [list(each) for each in zip(*(begin(model, box) for box in boxes), strict=True)]
    for row, masks in enumerate(zip(*found, strict=True)):
        np.testing.assert_array_equal(logits(iter(masks)), right[row])
    assert np.abs(right[0][5] - right[1][5]).max() > 1e-3


def test_a_batch_is_not_overwritten_on_its_way(model: Model) -> None:
    first, second = (
        pack(
            [MemoryRead((i,), (i,), (1.0,), (0,), (i,), (0.5,), (1.0,))],
            [i],
            [TargetSlots(i, i, None)],
        )
        for i in (3, 5)
    )
    memory, steps = cuda_of(model)
    seen = []
    for batch in (first, second):  # neither waits for the device
        sent = steps.send(batch)
        seen.append(memory.empty(sent.slices.shape, "int64"))
        memory.copy(sent.slices, seen[-1])
        assert all(getattr(sent, part.name).address % ALIGNMENT == 0 for part in fields(Batch))
    assert [int(memory.get(each)[0]) for each in seen] == [3, 5]


def test_steps_follow_encodings_that_have_moved() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (48, 16, 16), np.uint8)
    found = []
    for model in (on_device(fake_model(TELLING)[0])[0], fake_model(TELLING)[0]):
        predictor = VolumePredictor(model)
        predictor.set_volume(pixels, "none")
        predictor.add(Box(slice=0, y=(2, 9), x=(3, 12)))
        list(predictor.stream(z_range=(0, 12)))  # captured on slots that are too few for all
        found.append(logits(predictor.stream()))
    np.testing.assert_array_equal(*found)


def test_a_second_pass_is_the_first_or_refused() -> None:
    def begun() -> tuple[BufferRecorder, np.ndarray]:
        recorder, array = BufferRecorder(), np.arange(3)
        assert recorder.empty((2,), "float32", lambda: "a") == "a"
        assert recorder.constant(array, lambda: "b") == "b"
        recorder.rewind()
        return recorder, array

    def never() -> None:
        raise AssertionError("made in a second pass")

    recorder, array = begun()
    assert [recorder.empty((2,), "float32", never), recorder.constant(np.arange(3), never)] == [
        "a",
        "b",
    ]
    with pytest.raises(RuntimeError, match="more than 2"):
        recorder.empty((2,), "float32", never)
    recorder.rewind()
    with pytest.raises(RuntimeError, match="took 0 buffers of 2"):
        recorder.rewind()
    for shape, dtype in (((3,), "float32"), ((2,), "uint8")):
        with pytest.raises(RuntimeError, match="where the first asked"):
            begun()[0].empty(shape, dtype, never)
    recorder, array = begun()
    array[0] = 7  # what was noted is what it was then
    recorder.empty((2,), "float32", never)
    with pytest.raises(RuntimeError, match="where the first asked"):
        recorder.constant(array, never)


def test_wherever_something_has_moved_it_is_another_step(model: Model) -> None:
    memory, steps = cuda_of(model)
    read = MemoryRead((0,), (0,), (1.0,), (0,), (0.0,), (1.0,), (0,))
    batch = steps.send(pack([read], [0], [TargetSlots(0, 0, None)]))

    def compute() -> Decoded:
        return Decoded(
            *(memory.empty(shape, "float32") for shape in ((1, 1, 4, 4), (1,), (1,), (1, 8)))
        )

    tensors = [memory.empty((4,), "float32") for _ in range(6)]
    steps.replayed(batch, tensors[:5], compute)
    for moved in range(5):
        held = [*tensors[:moved], tensors[5], *tensors[moved + 1 : 5]]
        steps.replayed(batch, held, compute)
    assert len(steps._replays.steps) == 6 and device_of(model).captures == 0
