from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.errors import InputError, PromptError
from runtime.predictors import ImagePredictor, VolumePredictor
from runtime.prompts.prompts import Box, Mask, Point, Prompt
from tests.fake_backend import FakeBackend
from tests.fakes import fake_model

GREY = np.random.default_rng(2).integers(0, 255, (30, 40), np.uint8)


@pytest.fixture
def made() -> tuple[ImagePredictor, FakeBackend]:
    model, backend = fake_model()
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    return predictor, backend


def last(backend: FakeBackend) -> dict[str, np.ndarray]:
    assert backend.calls[-1].graph == "mask_decoder"
    return backend.calls[-1].inputs


def test_an_image_is_encoded_once_however_often_it_is_prompted(
    made: tuple[ImagePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    assert [call.graph for call in backend.calls] == ["image_encoder"]
    predictor.predict(Point(y=3, x=4))
    predictor.predict(Box(y=(3, 9), x=(4, 9)))
    predictor.reset()
    found = predictor.predict(Point(y=29, x=39))
    assert found.shape == GREY.shape
    assert found.mask().any()
    graphs = [call.graph for call in backend.calls]
    assert graphs == ["image_encoder", *["mask_decoder"] * 3]


def test_grey_and_the_same_in_colour_are_encoded_alike() -> None:
    model, backend = fake_model()
    predictor = ImagePredictor(model)
    predictor.set_image(GREY)
    predictor.set_image(np.repeat(GREY[..., None], 3, axis=2))
    grey, colour = (call.inputs["image"] for call in backend.calls)
    np.testing.assert_array_equal(grey, colour)


def test_the_colours_of_an_image_keep_their_order() -> None:
    model, backend = fake_model()
    colours = np.broadcast_to(np.array([10, 100, 200], np.uint8), (20, 20, 3))
    ImagePredictor(model).set_image(colours)
    image = backend.calls[0].inputs["image"][0]
    for channel, value, mean, std in zip(image, (10, 100, 200), PIXEL_MEAN, PIXEL_STD, strict=True):
        np.testing.assert_allclose(channel, (value / 255 - mean) / std, rtol=1e-5)


def test_an_image_is_treated_as_a_slice_of_a_volume_is() -> None:
    prompts = [Box(y=(3, 20), x=(4, 30)), Point(y=8, x=9)]
    inputs = []
    for is_volume in (False, True):
        model, backend = fake_model()
        if is_volume:
            predictor = VolumePredictor(model)
            predictor.set_volume(GREY[None])
            predictor.add(*prompts)
        else:
            image = ImagePredictor(model)
            image.set_image(GREY)
            image.predict(*prompts)
        inputs.append([call.inputs for call in backend.calls])
    for left, right in zip(*inputs, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_points_accumulate_until_a_box_a_reset_or_another_image(
    made: tuple[ImagePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    predictor.predict(Point(y=3, x=4))
    assert not last(backend)["has_mask_input"].any()
    predictor.predict(Point(y=5, x=6, positive=False))
    assert last(backend)["has_mask_input"].all()
    np.testing.assert_array_equal(last(backend)["point_labels"], [[1, 0]])
    predictor.predict(Box(y=(3, 9), x=(4, 9)))
    assert not last(backend)["has_mask_input"].any()
    np.testing.assert_array_equal(last(backend)["point_labels"], [[2, 3]])
    predictor.reset()
    predictor.predict(Point(y=3, x=4))
    np.testing.assert_array_equal(last(backend)["point_labels"], [[1]])
    predictor.set_image(GREY)
    predictor.predict(Point(y=3, x=4))
    np.testing.assert_array_equal(last(backend)["point_labels"], [[1]])
    assert not last(backend)["has_mask_input"].any()


def test_a_mask_is_the_answer_and_points_correct_it(
    made: tuple[ImagePredictor, FakeBackend],
) -> None:
    predictor, backend = made
    inside = np.zeros(GREY.shape, bool)
    inside[5:20, 10:30] = True
    found = predictor.predict(Mask(mask=inside))
    assert (found.mask() != inside).mean() < 0.05
    predictor.predict(Point(y=8, x=12))
    assert last(backend)["has_mask_input"].all()
    np.testing.assert_array_equal(last(backend)["point_labels"], [[1]])


@pytest.mark.parametrize(
    "image",
    [
        GREY.astype(np.float32),
        GREY.astype(np.uint16),
        GREY > 3,
        GREY[0],
        GREY[:, :0],
        np.zeros((30, 40, 4), np.uint8),
        np.zeros((30, 40, 1), np.uint8),
        np.zeros((2, 30, 40, 3), np.uint8),
    ],
)
def test_anything_but_eight_bit_grey_or_colour_is_refused_and_the_image_before_stays(
    image: Any, made: tuple[ImagePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    with pytest.raises(InputError, match=r"wanted uint8 \(y, x\) or \(y, x, 3\)"):
        predictor.set_image(image)
    assert predictor.predict(Point(y=29, x=39)).shape == GREY.shape
    assert len(backend.calls) == 2


def test_without_an_image_nothing_can_be_asked() -> None:
    with pytest.raises(PromptError, match="no image yet; call set_image first"):
        ImagePredictor(fake_model()[0]).predict(Point(y=0, x=0))


@pytest.mark.parametrize(
    ("prompts", "why"),
    [
        ([], "no prompt given"),
        ([Point(y=30, x=0)], "point y = 30"),
        ([Point(y=0, x=40)], "point x = 40"),
        ([Point(y=0, x=0, slice=1)], "no slice 1"),
        ([Box(y=(0, 3), x=(0, 41))], "box x"),
        ([Box(y=(0, 3), x=(0, 3))] * 2, "two boxes"),
        ([Mask(mask=np.ones((40, 30)))], "mask is"),
    ],
)
def test_prompts_that_are_refused_leave_those_before(
    prompts: list[Prompt], why: str, made: tuple[ImagePredictor, FakeBackend]
) -> None:
    predictor, backend = made
    predictor.predict(Point(y=3, x=4))
    with pytest.raises(PromptError, match=why):
        predictor.predict(*prompts)
    predictor.predict(Point(y=5, x=6))
    np.testing.assert_array_equal(last(backend)["point_labels"], [[1, 1]])
