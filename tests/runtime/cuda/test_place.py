"""Everything around a GPU's engines, on a device made of host memory: it must find what the host finds."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from runtime import Box, FlowPredictor, Mask, MemoryRules, Point, VideoPredictor, VolumePredictor
from runtime.cuda import features as device_features
from runtime.cuda.masks import device_mask
from runtime.cuda.place import CudaPlace
from runtime.cuda.pool import SlotPool
from runtime.errors import InputError
from runtime.model import Model, load
from runtime.phantom import Phantom, make_phantom
from runtime.predictors import ImagePredictor
from tests.cuda import on_device
from tests.fakes import FAKE_NUMBERS, encode, fake_model
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
    return load(None, "ort", 1)


Logits = dict[tuple[int, int], np.ndarray]


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
def test_a_volume_on_the_device_is_the_hosts(host: Model, phantom: Phantom, replays: bool) -> None:
    model, device = on_device(host, replays=replays)
    assert_equal(volume(model, phantom), volume(host, phantom))
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
    shapes = {key[0] for key in place_of(model)._steps}
    # Both objects both ways, then fewer as ends are reached: each shape has run as it was, once.
    assert {rows for rows, *_ in shapes} <= {1, 2, 3, 4}
    assert {rest for _, *rest in [(s[0], s[1:]) for s in shapes] for rest in rest} == {(7, 16, 0)}
    assert device.captures <= len(shapes)
    assert device.launches >= NUM_SLICES // 2 - len(shapes)
    assert (place_of(model).launches_per_step or 0) > 8


def place_of(model: Model) -> CudaPlace:
    place = model.place
    assert isinstance(place, CudaPlace)
    return place


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
    readback = place_of(model)._readback
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


def test_a_watched_model_is_computed_step_by_step(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    seen: list[str] = []
    watched = model.observed(lambda graph, inputs, outputs, ms: seen.append(graph))
    assert_equal(volume(watched, phantom), volume(host, phantom))
    assert device.captures == 0
    assert seen.count("memory_attention") == seen.count("memory_encoder") - 2
    assert seen.count("image_encoder") < NUM_SLICES, "slices are encoded in batches"


def test_a_step_that_fails_gives_its_slots_back(host: Model, phantom: Phantom) -> None:
    model, _ = on_device(host)
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(phantom.box(6, 1))
    next(stream := predictor.stream())
    tracker = predictor._tracker
    assert tracker is not None
    in_use = tracker._arena.memories.in_use
    place = place_of(model)
    send, place.send = place.send, lambda batch: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert tracker._arena.memories.in_use == in_use
    place.send = send  # type: ignore[method-assign]
    assert len(predictor.propagate().slices[1]) == NUM_SLICES


class Spill:
    """A volume with a cache that holds less than it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slots: int, max_bytes: int | None) -> None:
        monkeypatch.setattr(device_features, "FEWEST_SLOTS", slots)
        model, backend = fake_model({"image_encoder": encode})
        one = device_features.feature_bytes(FAKE_NUMBERS)
        self.device = HostDevice(1 << 24)
        self.model, _ = on_device(model, self.device)
        self.backend = backend
        limit = None if max_bytes is None else max_bytes * one
        self.cache = self.model.features(lambda i: np.full((9, 9), 2 * i, np.uint8), limit)

    def level(self, index: int) -> float:
        features = self.cache[index]
        parts = [self.model.place.get(getattr(features, name)) for name in device_features.NAMES]
        level = float(parts[0][0, 0, 0, 0])
        assert parts[2][0, 0, 0, 0] == level, "of one slice"
        return level

    @property
    def num_encoded(self) -> int:
        return sum(
            len(call.inputs["image"])
            for call in self.backend.calls
            if call.graph == "image_encoder"
        )


def test_encodings_beyond_the_devices_budget_come_back_from_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=10)
    monkeypatch.setattr(spill.cache, "_most_slots", 4)
    monkeypatch.setattr(spill.cache, "_most_spilled", 6)
    truth = [spill.level(i) for i in range(10)]
    assert len(set(truth)) == 10
    assert spill.num_encoded == 10
    rng = np.random.default_rng(0)
    for index in rng.integers(0, 10, 60):
        assert spill.level(int(index)) == truth[index]
    assert spill.num_encoded == 10, "none is encoded twice"
    assert caplog.text.count("move to the host") == 1
    assert len(spill.cache) == 10  # type: ignore[arg-type]


def test_memory_of_the_host_outlives_the_copies_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=10)
    monkeypatch.setattr(spill.cache, "_most_slots", 4)
    monkeypatch.setattr(spill.cache, "_most_spilled", 6)
    truth = [spill.level(i) for i in range(8)]
    spill.cache.locate([0, 1, 2])  # three come back before anybody waits
    gc.collect()
    spill.model.place.synchronize()
    assert [spill.level(i) for i in (0, 1, 2)] == truth[:3]


def test_what_was_encoded_ahead_in_vain_is_done_before_its_slots_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    place = place_of(spill.model)
    spill.cache.expect(range(40))
    spill.cache.locate([0])
    done = place.encode_stream.num_enqueued
    assert place.encode_stream.num_done < done
    del spill.cache
    gc.collect()
    place.step_stream.sync()
    assert place.encode_stream.num_done >= done


@pytest.mark.parametrize("handle", [0, 1, 2])
def test_default_streams_are_refused(handle: int) -> None:
    with pytest.raises(InputError, match=f"found stream {handle}, a default one"):
        CudaPlace(HostDevice(), FAKE_NUMBERS, handle)


def test_encodings_beyond_both_budgets_are_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = Spill(monkeypatch, slots=3, max_bytes=0)
    truth = [spill.level(i) for i in range(6)]
    assert [spill.level(i) for i in range(6)] == truth
    assert spill.num_encoded == 12
    assert "encoded again" in caplog.text


def test_slices_are_encoded_ahead_in_batches_and_never_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    order = [*range(20, 60), 3]
    spill.cache.expect(order)
    for index in order:
        assert spill.level(index) == pytest.approx(
            spill.level(20) + (index - 20) * DEGREE, abs=1e-4
        )
    sizes = [len(c.inputs["image"]) for c in spill.backend.calls if c.graph == "image_encoder"]
    assert spill.num_encoded < len(order) + 8
    assert max(sizes) == 8 and len(sizes) <= 8


DEGREE = 2 / 255 / 0.229  # what the next slice of `Spill` is more after normalisation


def test_more_slots_are_made_without_losing_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    before = [spill.level(i) for i in (1, 2, 3)]
    addresses = [tensor.address for tensor in spill.cache.tensors]
    spill.cache.expect(list(range(4, 40)))
    assert [tensor.address for tensor in spill.cache.tensors] != addresses
    assert [spill.level(i) for i in (1, 2, 3)] == before
    spill.cache.clear()
    assert len(spill.cache) == 0  # type: ignore[arg-type]


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


class Theirs:
    """An array of somebody else's in the device's memory, as pycuda's or cupy's shows itself."""

    def __init__(self, device: HostDevice, array: np.ndarray, stream: Any) -> None:
        self.held = device.empty(array.shape, array.dtype.name, stream=stream)
        device.copy(array, self.held, stream=stream)
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.held.address, False),
            "strides": None,
            "stream": stream.handle,
        }


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_volume_on_the_device_is_read_there(host: Model, phantom: Phantom, dtype: str) -> None:
    model, device = on_device(host)
    theirs = Theirs(device, phantom.pixels.astype(dtype), device.stream())
    found = []
    for volume, chosen in ((theirs, model), (phantom.pixels.astype(dtype), host)):
        predictor = VolumePredictor(chosen)
        used = predictor.set_volume(volume)  # type: ignore[arg-type]
        assert used.kind == ("none" if dtype == "uint8" else "percentile")
        found.append(predictor.add(phantom.box(6, 1)))
    assert np.abs(found[0].segmented.logits - found[1].segmented.logits).max() < 1e-2
    mask = device_mask(model, found[0])
    np.testing.assert_array_equal(np.from_dlpack(mask), found[0].mask())
    with pytest.raises(InputError, match="no masks on a device"):
        device_mask(host, found[1])


def test_images_and_frames_on_the_device_are_read_there(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    stream = device.stream()
    image = ImagePredictor(model)
    image.set_image(Theirs(device, phantom.pixels[6], stream))  # type: ignore[arg-type]
    right = ImagePredictor(host)
    right.set_image(phantom.pixels[6])
    click = Point(y=30, x=30)
    found, truth = (each.predict(click).segmented.logits for each in (image, right))
    assert np.abs(found - truth).max() <= TOLERANCE * np.abs(truth).max()
    video = VideoPredictor(model)
    buffer = Theirs(device, phantom.pixels[6], stream)
    video.push(buffer)  # type: ignore[arg-type]
    device.copy(np.zeros_like(phantom.pixels[6]), buffer.held, stream=place_of(model).step_stream)
    frame = video.add(click).segmented.logits
    assert np.abs(frame - truth).max() <= TOLERANCE * np.abs(truth).max()


def test_arrays_that_cannot_be_read_are_refused(host: Model, phantom: Phantom) -> None:
    model, device = on_device(host)
    theirs = Theirs(device, phantom.pixels, device.stream())
    for predictor in (VolumePredictor(host).set_volume, ImagePredictor(host).set_image):
        with pytest.raises(InputError, match="in CUDA memory, and a back end that computes"):
            predictor(theirs)  # type: ignore[arg-type]
    theirs.__cuda_array_interface__["strides"] = (1, 1, 1)
    with pytest.raises(InputError, match="make it contiguous"):
        VolumePredictor(model).set_volume(theirs)  # type: ignore[arg-type]
