"""Everything around a GPU's engines, on a device made of host memory: it must find what the host finds."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from runtime import Box, FlowPredictor, Mask, MemoryRules, Point, VideoPredictor, VolumePredictor
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.cuda.slot_pool import SlotPool
from runtime.errors import InputError
from runtime.measure.phantom import Phantom, make_phantom
from runtime.model import Model, load
from runtime.predictors import ImagePredictor
from tests.cuda import cuda_of, on_device
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

NUM_SLICES = 13
TOLERANCE = 1e-3  # of the largest logit: lengths are padded and batches are larger, so that sums round otherwise


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((NUM_SLICES, 64, 64))


@pytest.fixture(scope="module")
def host() -> Model:
    return load(None, "ort", 1).plain()


Logits = dict[tuple[int, int], np.ndarray]


@pytest.fixture(scope="module")
def truth(host: Model, phantom: Phantom) -> Logits:
    """What the host finds in the phantom by the plain rules of memory."""
    return volume(host, phantom)


def volume(model: Model, phantom: Phantom, rules: MemoryRules | None = None) -> Logits:
    predictor = VolumePredictor(model, rules)
    predictor.set_volume(phantom.pixels, "none")
    middle = NUM_SLICES // 2
    predictor.add(phantom.box(middle, 1), object_id=1)
    predictor.add(phantom.box(middle - 2, 2), object_id=2)
    result = predictor.propagate()
    return {(i, k): m.segmented.logits for i, of in result.slices.items() for k, m in of.items()}


def assert_equal(found: Logits, truth: Logits) -> None:
    assert found.keys() == truth.keys()
    for key, right in truth.items():
        assert np.abs(found[key] - right).max() <= TOLERANCE * np.abs(right).max(), key


@pytest.mark.parametrize("replays", [True, False])
def test_a_volume_on_the_device_is_the_hosts(
    host: Model, phantom: Phantom, truth: Logits, replays: bool
) -> None:
    model, device = on_device(host, replays=replays)
    assert_equal(volume(model, phantom), truth)
    assert (device.captures > 0) == replays


@pytest.mark.parametrize(
    "rules",
    [
        MemoryRules(policy="self_sorting", pick_up="weighted"),
        MemoryRules(policy="confidence", pick_up="resample", confidence="foreground"),
    ],
    ids=["self_sorting", "confidence"],
)
def test_policies_that_look_at_tensors_find_the_same(
    host: Model, phantom: Phantom, rules: MemoryRules
) -> None:
    model, _ = on_device(host)
    assert_equal(volume(model, phantom, rules), volume(host, phantom, rules))


def test_steps_of_one_shape_are_captured_once_and_launched_from_then_on(
    host: Model, phantom: Phantom
) -> None:
    model, device = on_device(host)
    volume(model, phantom)
    shapes = {key[0] for key in cuda_of(model)[1]._replays.steps}
    # Both objects both ways, then fewer as ends are reached: each shape has run as it was, once.
    assert {rows for rows, *_ in shapes} <= {1, 2, 3, 4}
    assert {rest for _, *rest in [(s[0], s[1:]) for s in shapes] for rest in rest} == {(7, 16, 0)}
    assert device.captures <= len(shapes)
    assert device.launches >= NUM_SLICES // 2 - len(shapes)
    assert (cuda_of(model)[1].launches_per_step or 0) > 8


def test_nothing_is_allocated_once_a_shape_is_known(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(Box(slice=0, y=(10, 30), x=(10, 30)))
    allocations = [device.allocations for _ in predictor.stream(directions=(1,))]
    assert len(set(allocations[-8:])) <= 2, "but for the slots' numbers of a batch of encodings"


def test_masks_come_when_they_are_asked_for_and_stay_what_they_were(
    host: Model, phantom: Phantom
) -> None:
    model, _ = on_device(host)
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(phantom.box(6, 1))
    at_once = {found.slice: found.segmented.logits.copy() for found in predictor.stream()}
    again = VolumePredictor(model)
    again.set_volume(phantom.pixels, "none")
    again.add(phantom.box(6, 1))
    later = list(again.stream())  # nobody looks before the end
    for found in later:
        np.testing.assert_array_equal(found.segmented.logits, at_once[found.slice])
    readback = cuda_of(model)[1]._readback
    del found, later, predictor, again
    gc.collect()
    assert readback.num_free >= 1


def test_prompts_corrections_and_masks_find_what_the_host_finds(
    host: Model, phantom: Phantom
) -> None:
    def session(model: Model) -> list[np.ndarray]:
        predictor = VolumePredictor(model)
        predictor.set_volume(phantom.pixels, "none")
        found = [predictor.add(phantom.box(6, 1)).segmented.logits]
        found.append(predictor.add(Point(slice=6, y=20, x=20, positive=False)).segmented.logits)
        predictor.propagate()
        found.append(predictor.add(Point(slice=9, y=32, x=32)).segmented.logits)
        mask = Mask(slice=4, mask=phantom.labels[4] == 2)
        found.append(predictor.add(mask, object_id=2).segmented.logits)
        result = predictor.propagate()
        found += [m.segmented.logits for of in result.slices.values() for m in of.values()]
        return found

    model, _ = on_device(host)
    for ours, right in zip(session(model), session(host), strict=True):
        assert np.abs(ours - right).max() <= TOLERANCE * np.abs(right).max()


def test_videos_sets_and_images_find_what_the_host_finds(host: Model, phantom: Phantom) -> None:
    sizes = [(64, 64), (50, 64), (64, 64), (40, 30), (50, 64)]
    images = [phantom.pixels[3 + i][:h, :w] for i, (h, w) in enumerate(sizes)]

    def everything(model: Model) -> list[np.ndarray]:
        video, flow, image = VideoPredictor(model), FlowPredictor(model), ImagePredictor(model)
        found = []
        for number, frame in enumerate(phantom.pixels[4:11]):
            found += [mask.segmented.logits for mask in video.push(frame).values()]
            if number == 0:
                found.append(video.add(phantom.box(4, 1)).segmented.logits)
            if number == 3:
                found.append(video.add(Point(y=30, x=30)).segmented.logits)
        flow.set_images(images)
        flow.add(Box(slice=1, y=(10, 40), x=(10, 50)))
        result = flow.propagate(order="similar")
        found += [mask.segmented.logits for mask in result.slices[1].values()]
        image.set_image(images[3])
        found.append(image.predict(Point(y=20, x=15)).segmented.logits)
        return found

    model, _ = on_device(host)
    for ours, right in zip(everything(model), everything(host), strict=True):
        assert np.abs(ours - right).max() <= TOLERANCE * np.abs(right).max()


def test_a_watched_model_is_computed_step_by_step(
    host: Model, phantom: Phantom, truth: Logits
) -> None:
    model, device = on_device(host)
    seen: list[str] = []
    watched = model.observed(lambda graph, inputs, outputs, ms: seen.append(graph))
    assert_equal(volume(watched, phantom), truth)
    assert device.captures == 0
    assert seen.count("memory_attention") == seen.count("memory_encoder") - 2
    assert seen.count("image_encoder") < NUM_SLICES, "slices are encoded in batches"


def test_a_step_that_fails_gives_its_slots_back(host: Model, phantom: Phantom) -> None:
    model, _ = on_device(host)
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(phantom.box(6, 1))
    stream = predictor.stream()
    for _ in range(3):  # the prompted slice and those beside it
        next(stream)
    tracker = predictor._tracker
    assert tracker is not None
    in_use = tracker._arena.memories.in_use
    _, steps = cuda_of(model)
    send, steps.send = steps.send, lambda batch: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert tracker._arena.memories.in_use == in_use
    steps.send = send  # type: ignore[method-assign]
    assert len(predictor.propagate().slices[1]) == NUM_SLICES


def test_a_second_volume_takes_the_slots_and_graphs_of_the_first(
    host: Model, phantom: Phantom
) -> None:
    model, device = on_device(host)
    predictor = VolumePredictor(model)
    captures = []
    for _ in range(3):
        predictor.set_volume(phantom.pixels, "none")
        predictor.add(phantom.box(6, 1))
        result = predictor.propagate()
        captures.append(device.captures)
        gc.collect()
    assert captures[0] >= 1 and captures[1] == captures[2]
    assert len(result.slices[1]) == NUM_SLICES


def test_slots_that_wait_are_freed_where_there_is_no_room() -> None:
    device = HostDevice(1 << 20)
    stream = device.stream()
    pool = SlotPool(device, stream.sync)
    held = pool.slots((1 << 16,), "memories", stream=stream)
    address = held.address
    del held
    assert pool.waiting_bytes == 1 << 18
    again = pool.slots((1 << 16,), "memories", stream=stream)
    assert again.address == address and pool.waiting_bytes == 0
    view = again[: 1 << 10]
    del again
    assert pool.waiting_bytes == 0, "a view holds it too"
    del view
    large = pool.slots((3 << 16,), "pointers", stream=stream)
    assert pool.waiting_bytes == 1 << 18
    other = pool.slots((1 << 15,), "embeddings", stream=stream)
    assert pool.waiting_bytes == 0, "there was no room for both"
    with pytest.raises(MemoryError):
        pool.slots((1 << 16,), "memories", stream=stream)
    assert large.shape == (3 << 16,) and other.shape == (1 << 15,)


@pytest.mark.parametrize("handle", [0, 1, 2])
def test_default_streams_are_refused(handle: int) -> None:
    with pytest.raises(InputError, match=f"found stream {handle}, a default one"):
        CudaMemory(HostDevice(), handle)
