"""Arguments of other kinds than they should be, and models that are to go where they cannot."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import InteractiveSession, Model, load, read_volume, write_mask
from runtime.errors import BackendUnavailable, InputError
from runtime.io import Volume
from runtime.predictors import FlowPredictor, ImagePredictor, VideoPredictor, VolumePredictor
from runtime.predictors.slicewise import SlicewisePredictor
from runtime.predictors.stills import StillsPredictor
from runtime.steps.encodings import Encodings
from tests.fakes import IMAGE_NUMBERS, fake_model

PREDICTORS = (
    InteractiveSession,
    VolumePredictor,
    FlowPredictor,
    VideoPredictor,
    ImagePredictor,
    SlicewisePredictor,
    StillsPredictor,
)
VOLUME = np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize(
    ("given", "found"), [("medsam2", "'medsam2'"), (None, "NoneType"), (load, "function")]
)
def test_what_is_no_model_is_refused(predictor: type, given: Any, found: str) -> None:
    with pytest.raises(InputError, match=f"found {found} for a model; wanted what load gives"):
        predictor(given)


@pytest.mark.parametrize("bound", ["4G", float("nan"), -1, True, [1]])
@pytest.mark.parametrize(
    "make",
    [
        lambda bound: VolumePredictor(fake_model()[0], max_feature_bytes=bound),
        lambda bound: FlowPredictor(fake_model()[0], max_feature_bytes=bound),
        lambda bound: SlicewisePredictor(fake_model(numbers=IMAGE_NUMBERS)[0], bound),
        lambda bound: StillsPredictor(fake_model(numbers=IMAGE_NUMBERS)[0], bound),
        lambda bound: Encodings(fake_model()[0], bound),
    ],
)
def test_a_bound_that_is_no_number_of_bytes_is_refused_at_once(
    make: Callable[[Any], object], bound: Any
) -> None:
    with pytest.raises(InputError, match="wanted a number of bytes"):
        make(bound)
    make(np.float32(1e9))


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (None, "found NoneType for a set of images"),
        (7, "found int for a set of images"),
        ([], "found no images"),
        (["scan.png"], r"image 0 is <U8\(\)"),
        ([[[1, 2], [3, 4]]], r"image 0 is int64\(2, 2\)"),
    ],
)
@pytest.mark.parametrize(
    "predictor",
    [FlowPredictor(fake_model()[0]), StillsPredictor(fake_model(numbers=IMAGE_NUMBERS)[0])],
    ids=["flow", "stills"],
)
def test_what_is_no_set_of_images_is_refused(predictor: Any, images: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        predictor.set_images(images)


def test_encodings_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="the encodings are of another model"):
        VolumePredictor(fake_model()[0], encodings=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [40, None, (40, 400)])
def test_what_is_no_window_is_refused(window: Any) -> None:
    with pytest.raises(InputError, match="wanted a name, or LEVEL/WIDTH such as '40/400'"):
        VolumePredictor(fake_model()[0]).set_volume(VOLUME, window)


@pytest.mark.parametrize("given", [3, [1], b"medsam2", VOLUME])
def test_what_is_no_path_is_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a bundle is named by its folder; found"):
        load(given)
    with pytest.raises(InputError, match=r"wanted the path of a volume, or for an array"):
        read_volume(given)
    with pytest.raises(InputError, match="wanted the path to write, then the labels, then like"):
        write_mask(given, tmp_path / "mask.nii.gz", Volume.from_array(VOLUME))  # type: ignore[arg-type]


def test_a_back_end_or_hint_that_is_no_name_is_refused() -> None:
    with pytest.raises(BackendUnavailable, match="no back end"):
        load(backend=["ort"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no hint"):
        load(hint=["latency"])  # type: ignore[arg-type]


@pytest.mark.parametrize("hand_on", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_stays_in_its_process(hand_on: Callable[[Model], object]) -> None:
    model = fake_model()[0]
    for carrier in (model, VolumePredictor(model)):
        if carrier is model or hand_on is not copy.copy:
            with pytest.raises(InputError, match="hand on its bundle's folder, and load that"):
                hand_on(carrier)  # type: ignore[arg-type]
