"""Networks without memory on a fake: what they are asked, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import LABEL_PAD, ModelNumbers
from runtime.errors import InputError, PromptError
from runtime.model import Model
from runtime.predictors import ImagePredictor, VolumePredictor
from runtime.predictors.slicewise import GROWN_BY, TRACKED_SIDE, SlicewisePredictor
from runtime.predictors.stills import StillsPredictor
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, IMAGE_NUMBERS, fake_model

GREY = np.random.default_rng(2).integers(0, 255, (30, 40), np.uint8)
SIDE = IMAGE_NUMBERS.image_size  # 64: an image of 40 columns is enlarged by 1.6
LITE = replace(IMAGE_NUMBERS, profile="litemedsam", grid=16)
MEDSAM = replace(IMAGE_NUMBERS, profile="medsam")


def encode(inputs: Any) -> dict[str, np.ndarray]:
    """How bright an image is."""
    level = inputs["image"].mean((1, 2, 3), keepdims=True)
    shape = (len(level), IMAGE_NUMBERS.d_model, 16, 16)
    return {"vision_features": np.broadcast_to(level, shape)}


def draw(inputs: Any) -> dict[str, np.ndarray]:
    """Whatever is in the box, but for images without any light."""
    side = inputs["mask_input"].shape[-1]
    masks = np.full((1, 1, side, side), -4.0, np.float32)
    if inputs["features"].max() > 0:
        (x0, y0), (x1, y1) = inputs["point_coords"][0, -2:] * side / SIDE
        masks[..., round(y0) : round(y1), round(x0) : round(x1)] = 4.0
    return {"low_res_masks": masks, "ious": np.array([1.25], np.float32)}


def made(numbers: ModelNumbers = IMAGE_NUMBERS, answers: Any = None) -> tuple[Model, FakeBackend]:
    return fake_model(answers, numbers=numbers)


def asked(backend: FakeBackend) -> list[tuple[list[list[float]], list[int], bool, bool]]:
    """Points, labels, whether there was a mask and whether the best of three was wanted, of each decoding."""
    return [
        (
            call.inputs["point_coords"][0].tolist(),
            call.inputs["point_labels"][0].tolist(),
            bool(call.inputs["has_mask_input"][0]),
            bool(call.inputs["multimask"][0]),
        )
        for call in backend.calls
        if call.graph == "mask_decoder"
    ]


def test_prompts_become_points_as_upstream_has_them() -> None:
    model, backend = made()
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    box, inside, outside = (
        Box(y=(5, 20), x=(0, 40)),
        Point(y=10, x=20),
        Point(y=1, x=2, positive=False),
    )
    corners = [[0.0, 8.0], [pytest.approx(39 * 1.6), pytest.approx(19 * 1.6)]]
    predictor.predict(inside)
    predictor.predict(outside)
    predictor.predict(box, outside)
    predictor.predict(inside)
    predictor.reset()
    predictor.predict(box)
    at_inside, at_outside = [32.0, 16.0], [pytest.approx(3.2), pytest.approx(1.6)]
    assert asked(backend) == [
        ([at_inside, [0, 0]], [1, LABEL_PAD], False, True),
        ([at_inside, at_outside, [0, 0]], [1, 0, LABEL_PAD], True, False),
        ([at_outside, *corners], [0, 2, 3], False, False),
        ([at_outside, at_inside, *corners], [0, 1, 2, 3], True, False),
        (corners, [2, 3], False, False),
    ]
    assert [call.graph for call in backend.calls].count("image_encoder") == 1


def test_what_was_found_is_given_again_unclamped() -> None:
    logits = np.linspace(-90, 90, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    model, backend = made(answers={"mask_decoder": lambda _: {"low_res_masks": logits}})
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    predictor.predict(Point(y=3, x=3))
    predictor.predict(Point(y=5, x=5))
    np.testing.assert_array_equal(backend.calls[-1].inputs["mask_input"], logits)


def test_medsam_squashes_and_litemedsam_keeps_whole_pixels() -> None:
    for numbers, corners in (
        (MEDSAM, [3 * 64 / 40, 5 * 64 / 30, 39 * 64 / 40, 19 * 64 / 30]),
        (LITE, [4, 8, 62, 30]),
    ):
        model, backend = made(numbers)
        predictor = ImagePredictor(model)
        predictor.set_image(GREY)
        predictor.predict(Box(y=(5, 20), x=(3, 40)))
        assert np.ravel(asked(backend)[0][0]).tolist() == pytest.approx(corners, rel=1e-6)


def test_confidence_is_a_share_and_0_where_nothing_was_found() -> None:
    model, _ = made(LITE, {"image_encoder": encode, "mask_decoder": draw})
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    assert predictor.predict(Box(y=(5, 20), x=(3, 40))).confidence == 1.0
    predictor.set_image(np.zeros_like(GREY))
    found = predictor.predict(Box(y=(5, 20), x=(3, 40)))
    assert found.confidence == 0.0
    assert not found.mask().any()


@pytest.mark.parametrize(
    ("numbers", "prompt", "said"),
    [
        (IMAGE_NUMBERS, Mask(mask=np.ones((30, 40), bool)), "a mask would be its own answer"),
        (MEDSAM, Point(y=3, x=3), "was trained with boxes alone"),
        (LITE, Point(y=3, x=3), "was trained with boxes alone"),
    ],
)
def test_prompts_that_a_network_does_not_know_are_refused(
    numbers: ModelNumbers, prompt: Prompt, said: str
) -> None:
    model, backend = made(numbers)
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    with pytest.raises(PromptError, match=said):
        predictor.predict(prompt)
    with pytest.raises(PromptError, match="no prompt given"):
        predictor.predict()
    assert asked(backend) == []


def test_whole_images_alone() -> None:
    with pytest.raises(InputError, match="shown whole images alone"):
        ImagePredictor(made()[0], zoom=3.0)


@pytest.fixture
def volume() -> tuple[SlicewisePredictor, FakeBackend]:
    model, backend = made(LITE, {"image_encoder": encode, "mask_decoder": draw})
    predictor = SlicewisePredictor(model)
    pixels = np.full((9, 64, 64), 90, np.uint8)
    pixels[:, 0, 0] = 0  # or nothing would be left of them: slices are stretched one by one
    pixels[6] = 0
    predictor.set_volume(pixels, "none")
    return predictor, backend


def test_a_box_follows_the_mask_before_and_grows(
    volume: tuple[SlicewisePredictor, FakeBackend],
) -> None:
    predictor, backend = volume
    predictor.add(Box(slice=3, y=(20, 41), x=(16, 33)))
    result = predictor.propagate((1, 9))
    boxes = [coords for coords, *_ in asked(backend)]
    first = [[16.0, 20.0], [32.0, 40.0]]
    step = GROWN_BY * 64 / TRACKED_SIDE
    # 4, 5 and the dark 6 upwards; 7 begins anew with the first box; then 2 and 1 from 3 again.
    assert boxes[0] == boxes[4] == first
    for grown in (boxes[1], boxes[6]):
        x0, y0 = first[0]
        assert grown[0] == [x0 - step, y0 - step]
        assert x0 + 15 < grown[1][0] < 33 and 39 < grown[1][1] < 41
    assert boxes[2][0][0] < boxes[1][0][0] and boxes[3][0][0] < boxes[2][0][0]
    assert len(boxes) == 8 and predictor.num_encodings == 8
    assert [bool(z) for z in result.mask().any((1, 2))] == [
        *(False, True, True, True, True, True, False, True, True)
    ]
    memory = {i: m.memory_frames for i, m in result.slices[1].items()}
    assert memory == {3: (), 4: (3,), 5: (4,), 6: (5,), 7: (6,), 8: (7,), 2: (3,), 1: (2,)}
    assert next(index for index, *_ in result.review()) == 6


def test_slices_are_encoded_together_where_engines_are_faster_so(
    volume: tuple[SlicewisePredictor, FakeBackend],
) -> None:
    def masks(predictor: SlicewisePredictor) -> list[np.ndarray]:
        predictor.add(Box(slice=3, y=(20, 41), x=(16, 33)))
        found = predictor.propagate((1, 9)).slices[1]
        return [found[z].segmented.logits for z in range(1, 9)]

    answers = {"image_encoder": encode, "mask_decoder": draw}
    model, backend = fake_model(answers, numbers=LITE, at_once=2)
    together = SlicewisePredictor(model)
    together.set_volume(volume[0].pixels, "none")
    np.testing.assert_array_equal(masks(together), masks(volume[0]))
    batches = [len(c.inputs["image"]) for c in backend.calls if c.graph == "image_encoder"]
    assert batches == [1, 2, 2, 2, 1]  # the prompted slice; 4 to 8 and, after them, 2 and 1
    assert together.num_encodings == 8


def test_slices_between_two_prompts_go_by_the_nearer_one(
    volume: tuple[SlicewisePredictor, FakeBackend],
) -> None:
    predictor, _ = volume
    predictor.add(Box(slice=1, y=(20, 41), x=(16, 33)))
    predictor.add(Box(slice=4, y=(20, 41), x=(16, 33)))
    predictor.add(Box(slice=2, y=(5, 9), x=(5, 9)), object_id=7)
    assert predictor.num_results((0, 6)) == 12
    result = predictor.propagate((0, 6))
    memory = {i: m.memory_frames for i, m in result.slices[1].items()}
    assert memory == {1: (), 4: (), 0: (1,), 2: (1,), 3: (4,), 5: (4,)}
    assert sorted(result.slices[7]) == [0, 1, 2, 3, 4, 5]
    assert sorted(predictor.current().slices[1]) == [0, 1, 2, 3, 4, 5]
    predictor.add(Box(slice=4, y=(20, 31), x=(16, 33)))
    assert sorted(predictor.current().slices[1]) == [1, 4], "of what it was before nothing is left"


def test_a_volume_wants_to_know_where_objects_end(
    volume: tuple[SlicewisePredictor, FakeBackend],
) -> None:
    predictor, _ = volume
    with pytest.raises(PromptError, match="no prompt yet"):
        predictor.stream((0, 3))
    predictor.add(Box(slice=3, y=(20, 41), x=(16, 33)))
    with pytest.raises(InputError, match=r"does not tell where an object ends.*--z-range"):
        predictor.propagate()
    with pytest.raises(PromptError, match="slice 3 is prompted and lies outside 4 to 5"):
        predictor.propagate((4, 6))
    with pytest.raises(InputError, match="does not fit"):
        predictor.propagate((0, 10))


def test_images_of_a_set_are_segmented_where_they_are_prompted() -> None:
    model, backend = made(LITE, {"image_encoder": encode, "mask_decoder": draw})
    predictor = StillsPredictor(model)
    predictor.set_images([GREY, np.full((20, 50, 3), 80, np.uint8), GREY[:, :25]])
    predictor.add(Box(slice=2, y=(3, 20), x=(3, 20)))
    predictor.add(Box(slice=2, y=(3, 20), x=(3, 20)), object_id=4)
    predictor.add(Box(slice=0, y=(3, 20), x=(3, 20)))
    assert predictor.num_results() == 3 and predictor.on_image(2) == 2
    found = [(mask.slice, mask.object_id, mask.mask().shape) for mask in predictor.stream()]
    assert found == [(0, 1, (30, 40)), (2, 1, (30, 25)), (2, 4, (30, 25))]
    assert predictor.num_encodings == 2
    for index in (3, -1, True):
        with pytest.raises(PromptError, match="there is no image"):
            predictor.add(Box(slice=index, y=(3, 20), x=(3, 20)))
    assert len([call for call in backend.calls if call.graph == "mask_decoder"]) == 3


@pytest.mark.parametrize("predictor", [SlicewisePredictor, StillsPredictor])
def test_a_network_with_memory_is_asked_in_its_own_way(predictor: Any) -> None:
    model, _ = fake_model(numbers=FAKE_NUMBERS)
    with pytest.raises(InputError, match="fake has a memory; use "):
        predictor(model)
    assert VolumePredictor(model)
