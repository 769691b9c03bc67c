"""Encodings by content: what was encoded once is not encoded again, whoever comes with it, while there is room."""

from __future__ import annotations

import gc
import weakref
from threading import Thread

import numpy as np
import pytest

from runtime.bundle.contract import feature_bytes
from runtime.errors import InputError
from runtime.model import Model
from runtime.predictors import VolumePredictor
from runtime.predictors.result import Result
from runtime.prompts.prompts import Box
from runtime.steps.encodings import Encodings, content
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model

PIXELS = np.random.default_rng(0).integers(0, 255, (9, 32, 32)).astype(np.uint8)
BOX = Box(slice=4, y=(5, 20), x=(5, 20))
ONE = feature_bytes(FAKE_NUMBERS)


def run(model: Model, encodings: Encodings, pixels: np.ndarray) -> Result:
    predictor = VolumePredictor(model, encodings=encodings)
    predictor.set_volume(pixels)
    predictor.add(BOX)
    return predictor.propagate()


def test_the_same_pixels_are_encoded_once_whoever_brings_them() -> None:
    model, backend = fake_model(TELLING)
    encodings = Encodings(model)

    def num_encoded() -> int:
        return [call.graph for call in backend.calls].count("image_encoder")

    alone = VolumePredictor(model)
    alone.set_volume(PIXELS)
    alone.add(BOX)
    wanted = alone.propagate()
    before = num_encoded()
    for pixels in (PIXELS, PIXELS.copy(), np.asfortranarray(PIXELS)):
        found = run(model, encodings, pixels)
        assert num_encoded() - before == 9
        for index in range(9):
            np.testing.assert_array_equal(
                found.slices[1][index].segmented.logits, wanted.slices[1][index].segmented.logits
            )
    changed = PIXELS.copy()
    changed[3, 0, 0] ^= 1
    run(model, encodings, changed)
    assert num_encoded() - before == 10


def test_a_slice_of_another_shape_is_another_slice() -> None:
    flat = np.arange(24, dtype=np.uint8)
    keys = {content(flat.reshape(shape)) for shape in ((4, 6), (6, 4), (2, 12), (2, 4, 3))}
    assert len(keys) == 4
    assert content(flat.reshape(4, 6)) == content(np.asfortranarray(flat.reshape(4, 6)))


def test_all_together_hold_what_is_allowed() -> None:
    model, backend = fake_model(TELLING)
    encodings = Encodings(model, max_bytes=4 * ONE)
    assert encodings.capacity == 4
    for shift in range(3):
        run(model, encodings, PIXELS + np.uint8(shift))
        assert len(encodings.cache) <= 4
    count = [call.graph for call in backend.calls].count("image_encoder")
    run(model, encodings, PIXELS)
    assert [call.graph for call in backend.calls].count("image_encoder") > count


class User:
    """Somebody who encodes ahead."""


def test_those_who_encode_ahead_share_the_room() -> None:
    encodings = Encodings(fake_model()[0], max_bytes=8 * ONE)
    users = [User(), User()]
    assert encodings.share == 8
    encodings.join(users[0])
    encodings.join(users[1])
    assert encodings.share == 4
    encodings.leave(users[0])
    assert encodings.share == 8
    encodings.join(users[0])
    assert encodings.share == 4
    users.clear()  # gone without a word
    assert encodings.share == 8


def test_what_is_forgotten_holds_no_pixels_but_its_encodings_stay() -> None:
    model, backend = fake_model(TELLING)
    encodings = Encodings(model)
    pixels = PIXELS.copy()
    view = encodings.features(lambda index, held=pixels: held[index])
    view[3]
    alive = weakref.ref(pixels)
    view.clear()
    del view, pixels
    gc.collect()
    assert alive() is None
    other = encodings.features(lambda index: PIXELS[index])
    other[3]
    assert [call.graph for call in backend.calls].count("image_encoder") == 1


def test_a_predictor_that_is_dropped_holds_no_pixels_either() -> None:
    encodings = Encodings(fake_model(TELLING)[0])
    pixels = PIXELS.copy()
    alive = weakref.ref(pixels)
    run(encodings.model, encodings, pixels)  # type: ignore[arg-type]
    del pixels
    gc.collect()
    assert alive() is None
    encodings.features(lambda index: PIXELS[index])
    assert not encodings._sources and encodings._numbers


def test_of_slices_that_nobody_holds_only_encoded_ones_are_known() -> None:
    model, backend = fake_model()
    encodings = Encodings(model, max_bytes=2 * ONE)
    for shift in range(6):
        view = encodings.features(lambda index, by=shift: PIXELS[index] + np.uint8(by))
        for index in range(9):
            view[index]
        assert len(encodings._numbers) == 9 + 2 * (shift > 0)
        view.clear()
        assert len(encodings._numbers) == 2 and not encodings._sources
    before = len(backend.calls)
    again = encodings.features(lambda index: PIXELS[index] + np.uint8(5))
    assert [index in again for index in range(9)] == [False] * 7 + [True] * 2
    for index in (7, 8):
        again[index]
    assert len(backend.calls) == before


def test_encodings_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="of another model"):
        VolumePredictor(fake_model()[0], encodings=Encodings(fake_model()[0]))


def test_threads_may_share_them() -> None:
    model, backend = fake_model(TELLING)
    encodings, results = Encodings(model), []
    threads = [
        Thread(target=lambda: results.append(run(model, encodings, PIXELS.copy())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [call.graph for call in backend.calls].count("image_encoder") == 9
    first = results[0].slices[1]
    for result in results:
        for index, mask in result.slices[1].items():
            np.testing.assert_array_equal(mask.segmented.logits, first[index].segmented.logits)
    assert len(results) == 4


def test_what_a_view_announced_is_forgotten_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device encodes ahead what was announced, whoever asks next; of a view that is gone it could not."""
    encodings = Encodings(fake_model()[0])
    announced: list[list[int]] = []
    monkeypatch.setattr(encodings._cache, "expect", lambda order: announced.append(list(order)))
    first, second = (encodings.features(lambda index: PIXELS[index]) for _ in range(2))
    first.expect([1, 2])
    second[3]
    assert [len(order) for order in announced] == [2]
    del first
    gc.collect()
    second[4]
    second[5]
    assert [len(order) for order in announced] == [2, 0]
