"""Arrays of the caller's: written to after they were given or got, and of other libraries than numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import InputError, PromptError, VolumeError
from runtime.io import Volume
from runtime.predictors import FlowPredictor, ImagePredictor, VideoPredictor, VolumePredictor
from runtime.prompts.prompts import Box, Mask, Point
from tests.fakes import TELLING, fake_model

SIDE = 64
IMAGE = np.random.default_rng(4).integers(0, 255, (SIDE, SIDE), np.uint8)
VOLUME = np.random.default_rng(5).integers(0, 255, (5, SIDE, SIDE), np.uint8)


class Tensor:
    """Of a library that gives numpy its values when it is asked, as torch's do on the host."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values


class Detained:
    """A tensor that numpy gets nothing of, as torch's that need gradients."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


def followed(mask: np.ndarray, is_written_to: bool) -> np.ndarray:
    predictor = VolumePredictor(fake_model(TELLING)[0], zoom=2.0)
    predictor.set_volume(VOLUME)
    predictor.add(Mask(slice=2, mask=mask))
    if is_written_to:
        mask[...] = False
    kept = predictor.prompts()[2][0]
    assert isinstance(kept, Mask)
    assert kept.mask.sum() == 100
    return predictor.propagate().mask()


def test_a_mask_may_be_written_to_once_it_was_given() -> None:
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[:, 20:30, 20:30] = True
    wanted, found = followed(masks[0], False), followed(masks[1], True)
    np.testing.assert_array_equal(found, wanted)


def test_a_box_may_be_written_to_once_it_was_given() -> None:
    y, x = np.array([10, 30]), [12, 40]
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_volume(VOLUME)
    predictor.add(Box(slice=2, y=y, x=x))  # type: ignore[arg-type]
    y[:], x[:] = 1, [2, 3]
    assert predictor.prompts() == {2: (Box(slice=2, y=(10, 30), x=(12, 40)),)}


@pytest.mark.parametrize("side", [SIDE, 16])
def test_logits_that_were_got_may_be_written_to(side: int) -> None:
    """Also where slices are as small as the network's own answer, which needs no resizing then."""
    predictor = VolumePredictor(fake_model(TELLING)[0], smooth=None)
    predictor.set_volume(VOLUME[:, :side, :side])
    predictor.add(Point(slice=2, y=4, x=4))
    found = predictor.propagate().slices[1][3]
    before = found.mask()
    for logits in (found.logits(), predictor.current().slices[1][3].logits()):
        logits[...] = -logits
    np.testing.assert_array_equal(predictor.current().slices[1][3].mask(), before)
    with pytest.raises(ValueError, match="read-only"):
        found.low_res[...] = 0


@pytest.mark.parametrize("make", [Tensor, Image.fromarray])
def test_images_of_other_libraries_are_taken(make: Any) -> None:
    encoded = []
    for image in (IMAGE, make(IMAGE)):
        model, backend = fake_model(TELLING)
        one, video, images = ImagePredictor(model), VideoPredictor(model), FlowPredictor(model)
        one.set_image(image)
        video.push(image)
        video.add(Point(y=3, x=3))
        video.push(image)
        images.set_images([image, image])
        images.add(Point(slice=0, y=3, x=3))
        encoded.append([c.inputs["image"] for c in backend.calls if c.graph == "image_encoder"])
    np.testing.assert_array_equal(*encoded)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (None, r"object\(\)"),
        ("a picture", "<U9"),
        ([[1, 2], [3]], "a list is no array"),
        (Detained(), "a Detained is no array: Can't call numpy"),
    ],
)
def test_what_is_no_image_is_refused(given: Any, why: str) -> None:
    model, _ = fake_model()
    video = VideoPredictor(model)
    for take in (
        ImagePredictor(model).set_image,
        video.push,
        lambda image: FlowPredictor(model).set_images([image]),
    ):
        with pytest.raises(InputError, match=why):
            take(given)
    assert video.index == -1


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (
            lambda z: VOLUME[z].astype(np.int16),
            r"slice 2 was read as int16\(64, 64\); wanted uint8",
        ),
        (lambda z: VOLUME[z] / 255, "float64"),
        (lambda z: VOLUME[z] > 9, "bool"),
        (lambda z: VOLUME[z, :9], r"uint8\(9, 64\); wanted uint8\(64, 64\)"),
        (lambda z: VOLUME[z][None], r"uint8\(1, 64, 64\)"),
        (lambda z: VOLUME[z].tolist(), "read as list"),
        (lambda z: None, "read as NoneType"),
    ],
)
def test_slices_that_are_read_otherwise_than_was_said_are_refused(read: Any, why: str) -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_slices(read, VOLUME.shape)
    with pytest.raises(InputError, match=why):
        predictor.add(Point(slice=2, y=4, x=4))
    assert not backend.calls


def test_slices_that_are_read_one_by_one_may_be_in_colour() -> None:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    predictor.set_slices(lambda z: np.stack([VOLUME[z]] * 3, -1), VOLUME.shape)
    predictor.add(Point(slice=2, y=4, x=4))
    assert predictor.propagate().is_complete


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((64, 64), (1.0, 1.0)),
        ((0, 64, 64), (1.0, 1.0)),
        ((5.0, 64, 64), (1.0, 1.0)),
        ((5, -64, 64), (1.0, 1.0)),
        (VOLUME.shape, (0.0, 1.0)),
        (VOLUME.shape, (1.0, float("nan"))),
        (VOLUME.shape, (5.0, 1.0, 1.0)),
    ],
)
def test_a_shape_or_spacing_that_is_none_is_refused(shape: Any, spacing_mm: Any) -> None:
    predictor = VolumePredictor(fake_model(TELLING)[0])
    with pytest.raises(InputError, match=r"found (slices of shape|a spacing of)"):
        predictor.set_slices(VOLUME.__getitem__, shape, spacing_mm)


class OfItk:
    """A SimpleITK image: to numpy a list of voxels."""

    __module__ = "SimpleITK.SimpleITK"

    def __len__(self) -> int:
        raise AssertionError("nobody may look at millions of voxels one by one")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (OfItk(), r"a SimpleITK image; wanted .* Volume.from_image"),
        ([[[1, 2], [3]]], "a list is no array"),
        (Detained(), "a Detained is no array: Can't call numpy"),
    ],
)
def test_what_is_no_volume_is_refused(given: Any, why: str) -> None:
    with pytest.raises(VolumeError, match=why):
        Volume.from_array(given)


def test_values_under_a_mask_are_not_taken_for_others() -> None:
    """numpy drops the mask without a word, and what lies under it would be segmented."""
    volume = np.ma.masked_less(VOLUME, 100)
    predictor = VolumePredictor(fake_model(TELLING)[0])
    for take in (predictor.set_volume, Volume.from_array, lambda array: Volume(array, (1, 1, 1))):
        with pytest.raises(VolumeError, match="voxels that are masked; wanted all: fill them"):
            take(volume)
    for refuse in (
        ImagePredictor(fake_model(TELLING)[0]).set_image,
        VideoPredictor(fake_model(TELLING)[0]).push,
        lambda image: FlowPredictor(fake_model(TELLING)[0]).set_images([image]),
    ):
        with pytest.raises(InputError, match="pixels that are masked; wanted all: fill them"):
            refuse(volume[0])
    predictor.set_volume(np.ma.masked_array(VOLUME))  # nothing is masked
    np.testing.assert_array_equal(predictor.pixels, VOLUME)
    inside = np.ma.masked_array(VOLUME[2] > 100, VOLUME[2] > 100)
    with pytest.raises(PromptError, match="mask has pixels that are masked; wanted all: fill them"):
        predictor.add(Mask(slice=2, mask=inside))
