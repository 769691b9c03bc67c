"""A model without weights, for tests of host logic in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.backends.fake import Answer, FakeBackend
from runtime.contract import LOW_RES_STRIDE, ModelNumbers
from runtime.model import Model

FAKE_NUMBERS = ModelNumbers(
    "fake", image_size=64, d_model=8, mem_dim=4, num_maskmem=7, max_obj_ptrs=16
)


def fake_model(answers: Mapping[str, Answer] | None = None) -> tuple[Model, FakeBackend]:
    """A model on the fake back end, and that back end."""
    backend = FakeBackend(FAKE_NUMBERS, answers)
    constants = {
        "mask_downsample_weight": np.full((LOW_RES_STRIDE, LOW_RES_STRIDE), 0.0625, np.float32),
        "mask_downsample_bias": np.float32(0.0),
        "no_obj_ptr": np.full(FAKE_NUMBERS.d_model, -1.0, np.float32),
    }
    return Model(FAKE_NUMBERS, backend, constants), backend
