from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.bundle.bundle import Bundle
from runtime.bundle.confidence import MEASURES, Calibration, Confidence
from runtime.model import Model, load
from runtime.track import Segmented
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, fake_model

LOW = FAKE_NUMBERS.low_res
HALVED = {"measured": [0.0, 1.0], "worth": [0.0, 0.5]}


def logits_of(inside: float, outside: float = -4.0) -> np.ndarray:
    logits = np.full((LOW, LOW), outside, np.float32)
    logits[2:6, 2:6] = inside
    return logits


def test_the_networks_own_estimate_is_taken_as_it_is() -> None:
    for iou in (0.0, 0.3, 1.0):
        assert MEASURES["iou"](logits_of(4.0), iou) == iou


def test_foreground_is_the_mean_probability_inside_the_mask() -> None:
    logits = logits_of(np.log(3))  # a probability of three quarters
    assert MEASURES["foreground"](logits, 0.1) == pytest.approx(0.75)
    logits[2:4, 2:6] = np.log(9)  # nine tenths in one half of it
    assert MEASURES["foreground"](logits, 0.1) == pytest.approx((0.75 + 0.9) / 2)
    assert MEASURES["foreground"](logits - logits.max(), 0.9) == 0.0, "there is no mask"
    assert MEASURES["foreground"](logits_of(1000.0, -1000.0), 0.1) == 1.0


def test_foreground_does_not_look_outside_the_mask() -> None:
    far, near = (MEASURES["foreground"](logits_of(2.0, outside), 0.1) for outside in (-90.0, -0.1))
    assert far == near


temperatures = st.builds(Calibration, temperature=st.floats(0.05, 20))
shares = st.just(0.0) | st.floats(1e-30, 1)
ascending = st.lists(shares, min_size=1, max_size=6).map(sorted).map(tuple)
maps = st.tuples(ascending, ascending).map(
    lambda both: Calibration(knots=tuple(side[: min(map(len, both))] for side in both))
)


@settings(deadline=None)
@given(calibration=temperatures | maps, values=st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_a_calibration_never_turns_two_masks_round(
    calibration: Calibration, values: list[float]
) -> None:
    worth = [calibration(value) for value in sorted(values)]
    assert worth == sorted(worth)
    assert 0 <= worth[0] <= worth[-1] <= 1


@settings(deadline=None)
@given(calibration=temperatures | maps)
def test_a_calibration_comes_back_from_a_manifest_as_it_went_in(calibration: Calibration) -> None:
    assert Calibration.parse(json.loads(json.dumps(calibration.entry()))) == calibration


def test_a_temperature_divides_the_logit() -> None:
    by_two = Calibration(temperature=2.0)
    assert by_two(0.9) == pytest.approx(0.75)  # odds of nine become odds of three
    assert by_two(0.1) == pytest.approx(0.25)
    assert by_two(0.5) == pytest.approx(0.5)
    assert Calibration(temperature=0.5)(0.75) == pytest.approx(0.9)
    for value in (0.001, 0.4, 0.999):
        assert Calibration(temperature=1.0)(value) == pytest.approx(value)
    assert 0 < by_two(0.0) < 0.05 and 0.95 < by_two(1.0) < 1, "the ends stay finite"


def test_knots_are_joined_by_straight_lines_and_hold_beyond_their_ends() -> None:
    knots = Calibration(knots=((0.25, 0.5, 0.75), (0.0, 0.5, 0.625)))
    found = [knots(value) for value in (0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)]
    assert found == [0.0, 0.0, 0.25, 0.5, 0.5625, 0.625, 0.625]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        3,
        "temperature",
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "warm"},
        {"temperature": None},
        {"measured": [0.1, 0.9]},
        {"worth": [0.1, 0.9]},
        {"measured": [], "worth": []},
        {"measured": [0.1, 0.9], "worth": [0.5]},
        {"measured": [0.9, 0.1], "worth": [0.1, 0.9]},
        {"measured": [0.1, 0.9], "worth": [0.9, 0.1]},
        {"measured": [0.1, float("nan")], "worth": [0.1, 0.9]},
        {"measured": [0.1, 0.9], "worth": [0.1, float("inf")]},
        {"measured": [0.1, "high"], "worth": [0.1, 0.9]},
        {"measured": 0.1, "worth": 0.9},
        {"measured": [0.0, 5e-324], "worth": [0.1, 0.9]},
    ],
)
def test_an_entry_that_is_no_ascending_map_is_refused(entry: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Calibration.parse(entry)


def test_whatever_map_is_accepted_ascends_within_bounds() -> None:
    draw = np.random.default_rng(5)
    pool = np.array([0, 5e-324, 1e-310, 1e-45, 1e-16, 0.5, np.nextafter(0.5, 1), 0.7, 1 - 1e-16, 1])
    accepted = 0
    for _ in range(1000):
        count = draw.integers(1, 6)
        measured, worth = (np.sort(draw.choice(pool, count)) for _ in range(2))
        try:
            calibration = Calibration.parse({"measured": list(measured), "worth": list(worth)})
        except ValueError:
            continue
        accepted += 1
        mapped = np.array([calibration(float(value)) for value in pool])
        assert (mapped >= worth[0]).all() and (mapped <= worth[-1]).all()
        assert (np.diff(mapped) >= -1e-15).all()
    assert accepted > 300


def test_confidence_is_the_measure_and_then_its_calibration() -> None:
    logits = logits_of(np.log(3))
    halved = Calibration.parse(HALVED)
    assert Confidence()(logits, 0.8) == 0.8
    assert Confidence(MEASURES["foreground"])(logits, 0.8) == pytest.approx(0.75)
    assert Confidence(MEASURES["iou"], halved)(logits, 0.8) == pytest.approx(0.4)
    assert Confidence(MEASURES["foreground"], halved)(logits, 0.8) == pytest.approx(0.375)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model of a bundle that holds a calibration of one measure."""
    manifest = {"constants": {}, "calibration": {"foreground": HALVED}}
    bundle = Bundle(Path("nowhere"), FAKE_NUMBERS, {"kind": "checkpoint"}, manifest)
    monkeypatch.setattr("runtime.model.open_backend", lambda *args: FakeBackend(FAKE_NUMBERS))
    return load(bundle, "ort")


def test_a_model_calibrates_the_measures_its_bundle_has_calibrations_of(loaded: Model) -> None:
    logits = logits_of(np.log(3))
    for model in (loaded, loaded.observed(lambda *args: None)):
        assert model.confidence("foreground")(logits, 0.8) == pytest.approx(0.375)
        assert model.confidence("iou")(logits, 0.8) == 0.8


def test_a_model_without_calibrations_gives_the_measures_as_they_are() -> None:
    model, _ = fake_model()
    assert model.confidence("iou") == Confidence(MEASURES["iou"])
    assert model.confidence("foreground") == Confidence(MEASURES["foreground"])


@pytest.mark.parametrize("score", [-1.0, 0.0])
def test_an_absent_object_has_no_confidence_whatever_its_mask_is_worth(score: float) -> None:
    present = Segmented(logits_of(4.0), 0.9, 0.5, np.zeros(8, np.float32))
    assert present.confidence == 0.9
    assert replace(present, quality=0.25).confidence == 0.25
    assert replace(present, quality=0.0).confidence == 0.0
    for quality in (None, 0.25, 1.0):
        assert replace(present, quality=quality, object_score=score).confidence == 0.0
