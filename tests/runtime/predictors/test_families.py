"""Networks whose numbers are not SAM 2's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import BundleError
from runtime.model import Model
from runtime.predictors import FlowPredictor, VideoPredictor, VolumePredictor
from runtime.prompts.prompts import Box, Mask, Point
from runtime.serve.session import InteractiveSession
from tests.fakes import FAKE_NUMBERS, IMAGE_NUMBERS, fake_model

# Stride 14, prompts in another square, no finer features, memories of few tokens.
OTHER_NUMBERS = replace(
    FAKE_NUMBERS,
    image_size=70,
    prompt_size=140,
    grid=5,
    has_high_res=False,
    memory_tokens=6,
    keys_per_memory=3,
)


def test_every_step_keeps_to_the_numbers_of_the_model() -> None:
    model, backend = fake_model(numbers=OTHER_NUMBERS)  # which refuses what is not in the contract
    predictor = VolumePredictor(model)
    predictor.set_volume(np.zeros((4, 20, 40), np.uint8))
    predictor.add(Box(slice=1, y=(5, 15), x=(10, 30)))
    predictor.add(Point(slice=1, y=8, x=12))
    predictor.add(Mask(slice=3, mask=np.ones((20, 40), bool)))
    assert predictor.propagate().labels().shape == (4, 20, 40)
    decoded = [call.inputs for call in backend.calls if call.graph == "mask_decoder"]
    assert not any(name.startswith("high_res") for call in decoded for name in call)
    corners = decoded[0]["point_coords"][0].tolist()
    assert corners == [[140 * 10 / 40, 140 * 5 / 20], [140 * 29 / 40, 140 * 14 / 20]]
    assert any(call["mask_input"].any() for call in decoded), "the mask was asked about"
    (memory,) = {
        call.inputs["memory"].shape[2:]
        for call in backend.calls
        if call.graph == "memory_attention"
    }
    assert memory == (6, OTHER_NUMBERS.mem_dim)


@pytest.mark.parametrize(
    "predictor", [VolumePredictor, FlowPredictor, VideoPredictor, InteractiveSession]
)
def test_who_follows_objects_refuses_a_network_without_memory(
    predictor: Callable[[Model], object],
) -> None:
    model, backend = fake_model(numbers=IMAGE_NUMBERS)
    backend.load = lambda graph: pytest.fail(f"{graph} was opened")
    with pytest.raises(BundleError, match=r"^still segments single images.*ImagePredictor$") as no:
        predictor(model)
    assert no.value.exit_code == 4


def test_keys_are_counted_by_memory_and_pointer() -> None:
    assert OTHER_NUMBERS.num_keys(k=7, p=16) == 7 * 3 + 16 * 2
