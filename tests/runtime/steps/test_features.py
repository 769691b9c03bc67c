from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import runtime.devices.machine
import runtime.steps.features
from runtime import Box, FlowPredictor, VolumePredictor
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD, feature_bytes
from runtime.bundle.tensors import Features
from runtime.errors import NotFinite, OutOfMemory
from runtime.model import load
from runtime.steps.features import FeatureCache
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model


def flat(index: int) -> np.ndarray:
    """A slice that is told from the others by its grey."""
    return np.full((20, 30), 10 * index, np.uint8)


class Encoded:
    """A cache on the fake model, and which slices were encoded."""

    def __init__(
        self,
        read_slice: Callable[[int], np.ndarray] = flat,
        max_bytes: int | None = None,
        at_once: int = 1,
    ) -> None:
        def answer(inputs):
            for error in self.errors:
                raise error
            return {"vision_features": inputs["image"][:, :1, :1, :1]}

        self.errors: list[Exception] = []
        model, self.backend = fake_model({"image_encoder": answer}, at_once=at_once)
        self.read: list[int] = []

        def reading(index: int) -> np.ndarray:
            self.read.append(index)
            return read_slice(index)

        self.cache = FeatureCache(model, reading, max_bytes)

    @property
    def batches(self) -> list[int]:
        """How many slices went to the encoder at once."""
        return [len(call.inputs["image"]) for call in self.backend.calls]


ONE_SLICE_BYTES = Encoded().cache[0].size_bytes


def test_a_slice_is_encoded_when_first_asked_for_and_never_again() -> None:
    encoded = Encoded()
    assert len(encoded.cache) == 0
    assert encoded.backend.calls == []
    first = encoded.cache[3]
    for index in (3, 1, 3, 1, 3):
        assert isinstance(encoded.cache[index], Features)
    assert encoded.cache[3] is first
    assert encoded.read == [3, 1]
    assert [call.graph for call in encoded.backend.calls] == ["image_encoder"] * 2
    assert len(encoded.cache) == 2


def test_each_slice_has_the_features_of_its_own_pixels() -> None:
    cache = Encoded().cache
    for index in (2, 5, 2, 0):
        grey = (10 * index / 255 - PIXEL_MEAN[0]) / PIXEL_STD[0]
        np.testing.assert_allclose(cache[index].vision_features, grey, rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (64, 64)])
def test_the_encoder_sees_one_normalised_slice_at_the_models_size(shape: tuple[int, ...]) -> None:
    encoded = Encoded(lambda index: np.full(shape, 128, np.uint8))
    encoded.cache[0]
    (call,) = encoded.backend.calls
    image = call.inputs["image"]
    assert image.shape == (1, 3, FAKE_NUMBERS.image_size, FAKE_NUMBERS.image_size)
    for channel, mean, std in zip(image[0], PIXEL_MEAN, PIXEL_STD, strict=True):
        np.testing.assert_allclose(channel, (128 / 255 - mean) / std, rtol=1e-5)


def test_beyond_the_budget_the_least_recently_used_slice_is_encoded_again() -> None:
    encoded = Encoded(max_bytes=2 * ONE_SLICE_BYTES)
    for index in (0, 1, 0, 2):  # 2 takes the place of 1, not of 0
        encoded.cache[index]
    assert len(encoded.cache) == 2
    encoded.cache[0]
    assert encoded.read == [0, 1, 2]
    encoded.cache[1]
    assert encoded.read == [0, 1, 2, 1]
    grey = (10 / 255 - PIXEL_MEAN[0]) / PIXEL_STD[0]
    np.testing.assert_allclose(encoded.cache[1].vision_features, grey, rtol=1e-5)


@pytest.mark.parametrize("max_bytes", [0, 1, ONE_SLICE_BYTES, 2 * ONE_SLICE_BYTES - 1])
def test_a_budget_of_less_than_two_slices_still_keeps_one(max_bytes: int) -> None:
    encoded = Encoded(max_bytes=max_bytes)
    for index in (0, 0, 1, 1, 0):
        encoded.cache[index]
    assert encoded.read == [0, 1, 0]
    assert len(encoded.cache) == 1


def test_a_full_budget_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    encoded = Encoded(max_bytes=2 * ONE_SLICE_BYTES)
    for index in (0, 1, 0, 1):
        encoded.cache[index]
    assert caplog.messages == []
    for index in (2, 3, 4):
        encoded.cache[index]
    (message,) = caplog.messages
    assert message.startswith("2 encoded slices of ") and "--max-memory" in message


def test_a_full_budget_is_said_in_slices_and_mib(caplog: pytest.LogCaptureFixture) -> None:
    features = SimpleNamespace(size_bytes=7 * 2**19)
    model = SimpleNamespace(numbers=FAKE_NUMBERS, encode=lambda image: features)
    cache = FeatureCache(model, flat, 8 * 2**20)
    for index in range(3):
        cache[index]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("runtime", "WARNING")
    said = "2 encoded slices of 3.5 MiB each fill the memory allowed, 8 MiB"
    assert record.message.startswith(said)


def test_an_encoded_slice_takes_what_the_contract_says() -> None:
    assert Encoded().cache[0].size_bytes == feature_bytes(FAKE_NUMBERS)
    model = load(backend="ort")
    size = model.numbers.image_size
    found = model.encode(np.zeros((1, 3, size, size), np.float32))
    assert found.size_bytes == feature_bytes(model.numbers)


@pytest.mark.parametrize("max_bytes", [0, ONE_SLICE_BYTES, None])
def test_masks_do_not_depend_on_how_many_encodings_are_held(max_bytes: int | None) -> None:
    def masks(
        kind: type[VolumePredictor | FlowPredictor], max_bytes: int | None
    ) -> tuple[list[np.ndarray], int]:
        """Logits by object and slice, and how often a slice was encoded."""
        model, backend = fake_model(TELLING)
        predictor = kind(model, max_feature_bytes=max_bytes)
        if isinstance(predictor, VolumePredictor):
            predictor.set_volume(slices, "none")
        else:
            predictor.set_images(list(slices))
        for object_id in (1, 2):
            box = Box(slice=3 * object_id, y=(4, 20), x=(5, 9 + object_id))
            predictor.add(box, object_id=object_id)
        result = predictor.propagate()
        logits = [result.slices[i][z].segmented.logits for i in (1, 2) for z in range(len(slices))]
        return logits, sum(call.graph == "image_encoder" for call in backend.calls)

    slices = np.random.default_rng(1).integers(0, 255, (8, 24, 24)).astype(np.uint8)
    for kind in (VolumePredictor, FlowPredictor):
        (found, encoded), (wanted, once) = masks(kind, max_bytes), masks(kind, 10**9)
        np.testing.assert_array_equal(found, wanted)
        assert once == len(slices)
        assert (encoded > once) == (max_bytes is not None)


def test_the_budget_is_a_share_of_the_machine_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = 3 * ONE_SLICE_BYTES / runtime.steps.features.MEMORY_SHARE
    monkeypatch.setattr(runtime.steps.features, "memory_bytes", lambda: machine)
    encoded = Encoded()
    for index in range(6):
        encoded.cache[index]
    assert len(encoded.cache) == 3


def test_a_machine_that_does_not_tell_its_memory_has_no_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(runtime.devices.machine.os, "sysconf")
    encoded = Encoded()
    for index in range(6):
        encoded.cache[index]
    assert len(encoded.cache) == 6


def test_a_slice_that_does_not_fit_is_out_of_memory_and_may_be_asked_for_again() -> None:
    full = [True]

    def read_slice(index: int) -> np.ndarray:
        if full[0]:
            raise MemoryError
        return flat(index)

    encoded = Encoded(read_slice)
    with pytest.raises(OutOfMemory, match="slice at 64 pixels does not fit"):
        encoded.cache[0]
    assert len(encoded.cache) == 0
    full[0] = False
    encoded.cache[0]


def test_slices_that_are_wanted_together_are_encoded_together() -> None:
    encoded = Encoded(at_once=2)
    assert encoded.cache.locate([4, 6]) == [4, 6]
    assert (encoded.read, encoded.batches) == ([4, 6], [2])
    for index in (4, 6):
        grey = (10 * index / 255 - PIXEL_MEAN[0]) / PIXEL_STD[0]
        np.testing.assert_allclose(encoded.cache[index].vision_features, grey, rtol=1e-5)
        assert encoded.cache[index].size_bytes == ONE_SLICE_BYTES
    assert encoded.cache.locate([6, 4, 6]) == [6, 4, 6]
    assert (encoded.read, encoded.batches) == ([4, 6], [2])
    encoded.cache.locate([1, 2, 3, 2, 1])
    assert (encoded.read[2:], encoded.batches[1:]) == ([1, 2, 3], [2, 1])


def test_a_slice_that_is_wanted_alone_takes_the_next_one_with_it() -> None:
    encoded = Encoded(at_once=2)
    encoded.cache.expect([3, 4, 5, 6, 7])
    for index in (3, 4, 5, 6, 7):
        encoded.cache.locate([index])
        assert index in encoded.cache
    assert (encoded.read, encoded.batches) == ([3, 4, 5, 6, 7], [2, 2, 1])
    encoded.cache.expect([8, 9])
    encoded.cache.expect([])
    encoded.cache.locate([8])
    assert encoded.read[5:] == [8]
    encoded.cache.expect([0, 1])
    encoded.cache.clear()
    encoded.cache.locate([2])
    assert encoded.read[6:] == [2]


@pytest.mark.parametrize("at_once", [2, 3])
def test_slices_that_had_their_turn_and_had_to_go_are_not_encoded_again(at_once: int) -> None:
    encoded = Encoded(max_bytes=at_once * ONE_SLICE_BYTES, at_once=at_once)
    encoded.cache.expect(range(12))
    for index in range(12):
        encoded.cache.locate([index])
        encoded.cache[index]
    assert encoded.read == [*range(12)]


def test_a_slice_that_nobody_expected_is_encoded_alone() -> None:
    encoded = Encoded(at_once=2)
    encoded.cache.expect([1, 2, 3])
    encoded.cache.locate([7])
    assert encoded.read == [7]
    encoded.cache.locate([2])
    assert encoded.read == [7, 2, 3]


def test_engines_that_gain_nothing_by_it_get_one_slice_at_a_time() -> None:
    encoded = Encoded(at_once=1)
    encoded.cache.expect([1, 2, 3])
    encoded.cache.locate([1, 2])
    assert encoded.read == []
    encoded.cache[1]
    assert (encoded.read, encoded.batches) == ([1], [1])


def test_a_click_encodes_its_own_slice_alone() -> None:
    encoded = Encoded(at_once=2)
    encoded.cache.expect([1, 2, 3])
    encoded.cache[1]
    assert (encoded.read, encoded.batches) == ([1], [1])


@pytest.mark.parametrize(("room", "batches"), [(2, []), (3, [2])])
def test_no_more_are_encoded_at_once_than_can_be_held(room: int, batches: list[int]) -> None:
    encoded = Encoded(max_bytes=room * ONE_SLICE_BYTES, at_once=2)
    encoded.cache.locate([1, 2])
    assert encoded.batches == batches


def test_what_is_wanted_and_there_is_not_pushed_out_by_what_comes() -> None:
    encoded = Encoded(max_bytes=3 * ONE_SLICE_BYTES, at_once=2)
    for index in (1, 2, 3):
        encoded.cache[index]
    encoded.cache.expect([1, 4, 5])
    encoded.cache.locate([1, 4])
    assert 1 in encoded.cache and 4 in encoded.cache
    assert encoded.read == [1, 2, 3, 4, 5]


def test_a_next_slice_that_cannot_be_read_says_so_at_its_turn() -> None:
    def read_slice(index: int) -> np.ndarray:
        if index == 4:
            raise ValueError("slice 4 is damaged")
        return flat(index)

    encoded = Encoded(read_slice, at_once=4)
    encoded.cache.expect([2, 3, 4, 5])
    encoded.cache.locate([2])
    assert encoded.batches == [2]
    encoded.cache.locate([3])
    with pytest.raises(ValueError, match="slice 4 is damaged"):
        encoded.cache.locate([4])
    assert len(encoded.cache) == 2


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemory("full")])
def test_slices_that_do_not_fit_together_are_encoded_alone(error: Exception) -> None:
    encoded = Encoded(at_once=2)
    encoded.errors.append(error)
    encoded.cache.locate([1, 2])
    assert len(encoded.cache) == 0
    encoded.errors.clear()
    assert isinstance(encoded.cache[1], Features)


def test_a_next_slice_that_is_no_number_does_not_spoil_this_one() -> None:
    def answer(inputs):
        grey = inputs["image"][:, :1, :1, :1]
        return {"vision_features": np.where(grey > 0, np.nan, grey)}

    model, _ = fake_model({"image_encoder": answer}, at_once=2)
    cache = FeatureCache(model, lambda index: flat(25 * index))
    cache.expect([0, 1])
    cache.locate([0])
    assert np.isfinite(cache[0].vision_features).all()
    cache.locate([1])
    with pytest.raises(NotFinite):
        cache[1]


@pytest.mark.parametrize("max_bytes", [ONE_SLICE_BYTES, 3 * ONE_SLICE_BYTES, None])
@pytest.mark.parametrize("at_once", [2, 3])
@pytest.mark.parametrize("directions", [(1, -1), (1,)])
def test_masks_do_not_depend_on_how_many_slices_are_encoded_at_once(
    at_once: int, directions: tuple[int, ...], max_bytes: int | None
) -> None:
    def masks(at_once: int, max_bytes: int | None) -> list[np.ndarray]:
        model, _ = fake_model(TELLING, at_once=at_once)
        predictor = VolumePredictor(model, max_feature_bytes=max_bytes)
        predictor.set_volume(slices, "none")
        for object_id in (1, 2):
            box = Box(slice=3 * object_id, y=(4, 20), x=(5, 9 + object_id))
            predictor.add(box, object_id=object_id)
        found = predictor.propagate(directions=directions).slices
        return [found[i][z].segmented.logits for i in (1, 2) for z in sorted(found[i])]

    slices = np.random.default_rng(1).integers(0, 255, (8, 24, 24)).astype(np.uint8)
    np.testing.assert_array_equal(masks(at_once, max_bytes), masks(1, None))
