"""Encodings on a device: made ahead, spilled, brought back, and made again, on a device made of host memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.steps.cuda import encode as device_encode
from runtime.steps.cuda import features as device_features
from tests.cuda import cuda_of, on_device
from tests.fakes import FAKE_NUMBERS, encode, fake_model
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")


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
        self.cache.locate([index])
        return self.peek(index)

    def peek(self, index: int) -> float:
        """Without a word about where the volume's walk has come to."""
        features = self.cache[index]
        parts = [self.model.device_memory.get(tensor) for tensor in features.tensors.values()]
        level = float(parts[0][0, 0, 0, 0])
        assert parts[2][0, 0, 0, 0] == level, "of one slice"
        return level

    @property
    def batches(self) -> list[int]:
        """Slices in each run of the encoder, those under way included."""
        self.model.steps.synchronize()
        calls = [call for call in self.backend.calls if call.graph == "image_encoder"]
        return [len(call.inputs["image"]) for call in calls]

    @property
    def num_encoded(self) -> int:
        return sum(self.batches)


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
    assert spill.num_encoded < len(order) + 8
    assert max(spill.batches) == 8 and len(spill.batches) <= 8


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


def test_looking_ahead_goes_on_whichever_row_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    spill.cache.expect(list(range(48)))
    spill.level(0)
    for index in range(1, 48):
        spill.cache.locate([index, 0])  # the second row is where the first has been
    assert spill.num_encoded < 48 + 8 and len(spill.batches) <= 10


def test_a_look_at_a_slice_far_ahead_does_not_end_looking_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    spill.cache.expect(list(range(48)))
    for index in range(48):
        spill.level(index)
        spill.peek(47)
    assert spill.num_encoded < 48 + 8 and len(spill.batches) <= 10


def test_encodings_under_way_move_to_more_slots_once_they_have_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    spill.cache.expect(list(range(30)))
    spill.cache.locate([0])  # and eight more, ahead of need
    spill.cache.expect(list(range(100)))
    levels = [spill.peek(index) for index in range(9)]
    np.testing.assert_allclose(np.diff(levels), DEGREE, atol=1e-4)
    assert spill.num_encoded == 9


def test_nothing_is_given_up_while_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    truth = [spill.peek(i) for i in range(40)]  # of an order that nobody has told
    assert [spill.peek(i) for i in range(40)] == truth
    assert spill.num_encoded == 40 and not caplog.text
    assert 40 <= len(spill.cache.tensors[0]) <= 80


def test_a_single_slice_takes_few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    for index in range(30):
        spill.peek(index)
        spill.cache.clear()
    assert len(spill.cache.tensors[0]) == 8


def test_slots_outlive_encodings_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    truth = spill.peek(0)
    free, engine = list(spill.cache._free), spill.model.engine("image_encoder")  # type: ignore[attr-defined]
    run = type(engine).run
    monkeypatch.setattr(type(engine), "run", lambda *_: 1 / 0)
    for index in range(1, 9):
        with pytest.raises(ZeroDivisionError):
            spill.cache.locate([index])
    assert sorted(spill.cache._free) == sorted(free)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(engine), "run", run)
    assert spill.peek(1) == pytest.approx(truth + DEGREE, abs=1e-4) and spill.peek(0) == truth


def test_pinned_memory_outlives_the_copies_to_and_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=2, max_bytes=None)
    spill.cache._most_slots, spill.cache._most_spilled = 2, 3  # type: ignore[attr-defined]
    for index in (0, 1, 2, 3, 4, 5, 3):
        spill.cache.locate([index])
        live = [each for each in spill.device.pinned_memory if each() is not None]
        assert len(live) <= 5 * 4 + 1, (
            "one more encoding than may be spilled, and buffers to encode in"
        )
    spill.cache.clear()
    for index in (0, 1, 2, 3):
        spill.cache.locate([index])
    spill.cache = None  # type: ignore[assignment]
    spill.model.steps.synchronize()


def test_a_volume_may_take_what_the_one_before_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    most = spill.cache._most_slots  # type: ignore[attr-defined]
    spill.cache.expect(list(range(60)))
    spill.cache = None  # type: ignore[assignment]
    spill.cache = spill.model.features(lambda i: np.full((9, 9), i, np.uint8))
    assert spill.cache._most_slots >= most - 1, "slots that wait are free"  # type: ignore[attr-defined]
    memory = spill.model.device_memory
    spill.cache.expect(list(range(60)))
    spill.cache.locate([0])  # and eight more, on their way where they are soon to be freed
    spill.cache = None  # type: ignore[assignment]
    rest = int(spill.device.memory_bytes[0])
    held = memory.empty((rest + 16,), "uint8")
    assert held.nbytes > rest, "they make room for anything else"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_asked_in_whatever_order_each_slice_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        spill = Spill(patch, slots=4, max_bytes=None)
        patch.setattr(spill.cache, "_most_slots", int(rng.integers(24, 40)))
        patch.setattr(spill.cache, "_most_spilled", int(rng.integers(0, 9)))
        zero = spill.level(0)
        for _ in range(30):
            what = rng.integers(12)
            if what == 0:
                spill.cache.clear()
            elif what <= 2:
                spill.cache.expect([int(i) for i in rng.permutation(60)])
            elif what <= 4:
                index = int(rng.integers(60))
                assert spill.peek(index) == pytest.approx(zero + index * DEGREE, abs=1e-4)
            else:
                wanted = [int(i) for i in rng.integers(0, 60, rng.integers(1, 9))]
                places = spill.cache.locate(wanted)
                found = spill.cache.gather(np.array(places, np.int64)).vision_features
                levels = spill.model.device_memory.get(found)[:, 0, 0, 0]
                np.testing.assert_allclose(levels, zero + np.array(wanted) * DEGREE, atol=1e-4)


def test_what_was_used_lately_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=3, max_bytes=0)
    for index in range(1, 9):
        spill.peek(0)
        spill.peek(index)
    assert spill.num_encoded == 9


def test_what_was_encoded_ahead_in_vain_is_done_before_its_slots_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    streams = cuda_of(spill.model)[0].streams
    spill.cache.expect(range(40))
    spill.cache.locate([0])
    done = streams.encode.num_enqueued
    assert streams.encode.num_done < done
    del spill.cache
    gc.collect()
    streams.step.sync()
    assert streams.encode.num_done >= done


def test_slices_of_several_shapes_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    spill.cache = spill.model.features(lambda i: np.full((9, 9 + i % 2), 2 * i, np.uint8))
    spill.cache.expect(list(range(20)))
    levels = [spill.level(index) for index in range(20)]
    np.testing.assert_allclose(np.diff(levels), DEGREE, atol=1e-4)
    assert spill.num_encoded <= 20 + 8


def test_nobody_looks_ahead_once_all_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(monkeypatch, slots=4, max_bytes=None)
    spill.cache.expect(list(range(40)))
    spill.cache.clear()
    spill.level(0)
    assert spill.num_encoded == 1


def test_a_slot_is_written_once_those_who_read_it_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for most_spilled in (0, 4):
        spill = Spill(monkeypatch, slots=2, max_bytes=None)
        spill.cache._most_slots, spill.cache._most_spilled = 2, most_spilled  # type: ignore[attr-defined]
        zero, (memory, _) = spill.peek(0), cuda_of(spill.model)
        found = spill.cache.gather(np.array(spill.cache.locate([0]), np.int64)).vision_features
        for index in (1, 2, 3):
            spill.cache.locate([index])
        memory.streams.encode.sync()
        assert memory.get(found)[0, 0, 0, 0] == zero


def test_a_lane_outlives_what_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_encode, "MOST_SHAPES", 1)
    spill = Spill(monkeypatch, slots=32, max_bytes=None)
    spill.cache = spill.model.features(lambda i: np.full((9, 9 + i), 2 * i, np.uint8))
    for index in range(9):
        spill.cache.locate([index])
    np.testing.assert_allclose(np.diff([spill.peek(i) for i in range(9)]), DEGREE, atol=1e-4)
    assert spill.num_encoded == 9
