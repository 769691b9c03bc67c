"""A reference that encodes nothing twice."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.measure import reference
from runtime.measure.reference import remembered
from tests.fakes import FAKE_NUMBERS, TELLING, fake_model


def picture(grey: float) -> np.ndarray:
    size = FAKE_NUMBERS.image_size
    return np.full((1, 3, size, size), grey, np.float32)


def test_each_picture_is_encoded_once_and_answered_alike() -> None:
    plain, backend = fake_model(TELLING)
    model = remembered(plain)
    first, other, again = (model.encode(picture(grey)) for grey in (0.5, 0.25, 0.5))
    assert [call.graph for call in backend.calls] == ["image_encoder"] * 2
    np.testing.assert_array_equal(again.vision_features, first.vision_features)
    assert not np.array_equal(other.vision_features, first.vision_features)
    again.vision_features[...] = 7  # what is handed out is the caller's
    np.testing.assert_array_equal(model.encode(picture(0.5)).vision_features, first.vision_features)


def test_the_oldest_go_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MAX_BYTES", 0)
    plain, backend = fake_model(TELLING)
    model = remembered(plain)
    for _ in range(3):
        model.encode(picture(0.5))
    assert len(backend.calls) == 3
