"""Warnings come where something is wrong, and nowhere else; intensities are those of physics, not of any data set."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from runtime.io import Volume
from runtime.io.window import apply_window, parse_window
from runtime.jobs.notices import (
    Notice,
    about_grid,
    about_images,
    about_objects,
    about_prompts,
    about_range,
    about_window,
    in_ranges,
    say,
)
from runtime.jobs.object_report import ObjectReport, SliceReport
from runtime.predictors.region import Region
from runtime.prompts.prompts import Box, Point

SHAPE = (8, 64, 64)
AIR, LUNG, FAT, WATER, TISSUE, BONE = -1000, -800, -100, 0, 50, 700  # Hounsfield units
RNG = np.random.default_rng(11)


def layers(*values: int, noise: float = 12.0, dtype: type = np.int16) -> np.ndarray:
    """A volume whose rows are of these values, equally many of each, with noise."""
    rows = np.repeat(values, -(-SHAPE[1] // len(values)))[: SHAPE[1]].astype(float)
    array = np.broadcast_to(rows[None, :, None], SHAPE) + RNG.normal(0, noise, SHAPE)
    return array.astype(dtype)


def volume(array: np.ndarray, modality: str | None = None) -> Volume:
    return Volume.from_array(array, (3.0, 0.8, 0.8), modality)


def codes_of(array: np.ndarray, window: str = "auto", modality: str | None = None) -> list[str]:
    seen, asked = volume(array, modality), parse_window(window)
    _, used = apply_window(seen, asked)
    return [notice.code for notice in about_window(seen, asked, used)]


def masked(array: np.ndarray) -> np.ndarray:
    """What lies outside the body set to zero, as skull strippers and croppers do."""
    array = array.copy()
    array[:, :, :30] = 0
    return array


CT_WITHOUT_AIR = {
    "abdomen": layers(FAT, WATER, TISSUE, TISSUE),
    "with bone": layers(FAT, TISSUE, TISSUE, BONE),
    "clipped to its window": layers(FAT, WATER, TISSUE, BONE).clip(-160, 240),
    "masked": masked(layers(FAT, WATER, TISSUE, TISSUE)),
    "resampled": layers(FAT, WATER, TISSUE, TISSUE, dtype=np.float32),
}


@pytest.mark.parametrize("name", CT_WITHOUT_AIR)
def test_ct_without_its_air_is_not_taken_for_mr_without_a_word(name: str) -> None:
    assert codes_of(CT_WITHOUT_AIR[name]) == ["ct_as_mr"]
    assert codes_of(CT_WITHOUT_AIR[name], "abdomen") == []
    assert codes_of(CT_WITHOUT_AIR[name], "percentile") == [], "somebody has thought of it"
    assert codes_of(CT_WITHOUT_AIR[name], modality="CT") == []
    assert codes_of(CT_WITHOUT_AIR[name], modality="MR") == []


FINE = {
    "CT": layers(AIR, LUNG, FAT, TISSUE, BONE),
    "CT in floats": layers(AIR, FAT, TISSUE, dtype=np.float32),
    "MR": layers(0, 200, 500, 1100, noise=40).clip(0),
    "MR, dark": layers(0, 20, 60, 110, noise=5).clip(0),
    "MR with ringing below zero": layers(0, 200, 500, 1100, noise=20),
    "MR, standardised": layers(-1, 0, 1, 2, noise=0.5, dtype=np.float32),
    "phase in degrees": RNG.uniform(-180, 180, SHAPE).astype(np.int16),
    "phase in degrees times ten": layers(-1800, -600, 600, 1800).clip(-800),
    "zeros": np.zeros(SHAPE, np.int16),
    "NaN": np.full(SHAPE, np.nan, np.float32),
    "8 bits": layers(0, 100, 200, 250).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", FINE)
def test_of_what_is_windowed_as_it_should_be_nothing_is_said(name: str) -> None:
    assert codes_of(FINE[name]) == []


def test_mr_that_is_windowed_like_ct_is_not_without_a_word() -> None:
    bright = layers(0, 400, 900, 1500, noise=40).clip(0)
    padded = bright.copy()
    padded[:, :, :8] = -1024  # which looks like air
    assert codes_of(padded) == ["mr_as_ct"]
    assert codes_of(bright, "abdomen") == ["mr_as_ct"]
    assert codes_of(FINE["MR, dark"], "abdomen", "MR") == ["mr_as_ct"]
    assert codes_of(bright, "40/400") == [], "a window of somebody's own"
    assert codes_of(FINE["CT"], "bone") == []
    assert codes_of(layers(AIR, AIR, BONE, BONE), "bone", "CT") == []


def test_images_that_are_windowed_wrongly_are_said_in_one_warning() -> None:
    ct, mr = CT_WITHOUT_AIR["abdomen"][0], FINE["MR"][0]
    grey, colour = FINE["8 bits"][0], np.zeros((9, 9, 3), np.uint8)
    asked = parse_window("auto")
    (notice,) = about_images([mr, ct, grey, ct, colour], ["a", "b", "c", "d", "e"], asked)
    assert (notice.code, notice.slices) == ("ct_as_mr", (1, 3))
    assert about_images([mr, grey, colour], ["a", "c", "e"], asked) == []


def of(voxels: list[int], confidence: list[float], prompted: int, start: int = 0) -> ObjectReport:
    """An object on slices from `start` on."""
    rows = [
        SliceReport(start + i, c, v, start + i == prompted, (), Region((0, 1), (0, 1)))
        for i, (v, c) in enumerate(zip(voxels, confidence, strict=True))
    ]
    return ObjectReport(1, tuple(rows))


def objects_codes(each: ObjectReport) -> list[str]:
    return [notice.code for notice in about_objects([each])]


def test_an_object_that_is_found_nowhere_or_only_where_it_was_prompted_is_said() -> None:
    assert objects_codes(of([0, 0, 0], [0, 0, 0], 1)) == ["empty_object"]
    assert objects_codes(of([0, 9, 0], [0, 0.9, 0], 1)) == ["not_followed"]
    assert objects_codes(of([9], [0.9], 0)) == [], "nothing else was asked for"
    (notice,) = about_objects([of([0, 9], [0, 0.9], 1)])
    assert "on no other slice (of 1);" in notice.message
    assert objects_codes(of([0, 9, 9], [0, 0.9, 0.8], 1)) == []


def test_slices_of_low_confidence_are_listed_if_they_have_a_mask() -> None:
    (notice,) = about_objects([of([5, 0, 9, 9, 9, 7], [0.2, 0.1, 0.9, 0.3, 0.49, 0.5], 3)])
    assert (notice.code, notice.slices, notice.object_id) == ("low_confidence", (0, 4), 1)
    assert "2 of 4" in notice.message and "(0, 4)" in notice.message
    (notice,) = about_objects([of([5, 9], [float("nan"), 0.9], 1)])
    assert notice.slices == (0,)


def test_an_object_cut_by_the_range_is_said_unless_the_volume_ends_there() -> None:
    each = of([3, 9, 2], [0.9, 0.9, 0.9], 5, start=4)
    (notice,) = about_range([each], (4, 7), 20)
    assert (notice.code, notice.slices) == ("cut_by_range", (4, 6))
    assert "on slices 4, 6, where" in notice.message
    (notice,) = about_range([each], (4, 7), 7)
    assert notice.slices == (4,) and "on slice 4, where" in notice.message
    assert about_range([each], None, 20) == []
    assert about_range([of([0, 9, 0], [0, 0.9, 0], 5, start=4)], (4, 7), 20) == []


@pytest.mark.parametrize(
    ("spacing_mm", "wanted"),
    [
        ((5.0, 0.7, 0.7), []),
        ((1.0, 1.0, 1.0), []),
        ((9.9, 1.0, 2.9), []),
        ((12.0, 0.5, 0.5), ["far_apart"]),
        ((0.7, 5.0, 0.7), ["not_square"]),
    ],
)
def test_grids_that_a_network_for_pictures_cannot_follow_are_said(
    spacing_mm: tuple[float, float, float], wanted: list[str]
) -> None:
    grid = Volume.from_array(np.zeros((4, 8, 8), np.uint8), spacing_mm)
    assert [notice.code for notice in about_grid(grid)] == wanted


def test_lengths_of_another_unit_are_said() -> None:
    grid = Volume(np.zeros((4, 8, 8), np.uint8), (0.1, 0.1, 0.1), unit="um")
    assert [notice.code for notice in about_grid(grid)] == ["not_mm"]


def test_a_box_in_the_air_is_said_and_one_in_noise_is_not() -> None:
    plane = np.zeros((40, 40), np.uint8)
    plane[:20] = RNG.integers(50, 90, (20, 40))
    air, body = Box(slice=3, y=(25, 35), x=(5, 15)), Box(slice=3, y=(5, 15), x=(5.5, 15.2))
    (notice,) = about_prompts({3: plane}, {1: [body], 2: [air, Point(slice=3, y=30, x=9)]})
    assert (notice.code, notice.object_id, notice.slices) == ("prompt_on_nothing", 2, (3,))
    tiny = Box(slice=3, y=(25, 27), x=(5, 7))
    assert about_prompts({3: plane}, {1: [tiny]}) == []
    colour = np.zeros((40, 40, 3), np.uint8)
    colour[..., 0] = np.arange(40)
    assert about_prompts({3: colour}, {1: [air]}) == []


def test_slices_are_said_in_few_words() -> None:
    assert in_ranges([5, 3, 6, 7, 12]) == "3, 5-7, 12"


def test_warnings_are_logged_and_have_an_entry(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "runtime"):
        say([Notice("far_apart", "too far", 3, (1, 2))])
    assert caplog.messages == ["warning: too far"]
    assert Notice("far_apart", "too far", 3, (1, 2)).entry() == {
        "code": "far_apart",
        "message": "too far",
        "object": 3,
        "slices": [1, 2],
    }
