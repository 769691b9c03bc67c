from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.speed.official import holes_filled
from kernels.fill_holes import fill_holes

LOGITS = arrays(np.float32, (9, 11), elements=st.sampled_from([-3.0, -0.5, 0.0, 0.5, 3.0]))


def filled_one_by_one(logits: np.ndarray) -> np.ndarray:
    """Component by component with scipy."""
    labels, count = scipy.ndimage.label(logits <= 0, structure=np.ones((3, 3)))
    out = logits.copy()
    for label in range(1, count + 1):
        patch = labels == label
        if patch.sum() <= 8:
            out[patch] = 0.1
    return out


def object_with_hole(area: int) -> np.ndarray:
    """A 12 x 12 object on a large background, with a straight hole of `area` pixels."""
    logits = np.full((20, 20), -5.0, np.float32)
    logits[4:16, 4:16] = 5.0
    logits[10, 5 : 5 + area] = -1.0
    return logits


@given(LOGITS)
@settings(max_examples=200, deadline=None)
def test_filling_is_what_scipy_says_component_by_component(logits: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_holes(logits), filled_one_by_one(logits))


@given(st.integers(0, 2**32), st.integers(3, 60), st.integers(3, 60), st.floats(0.02, 0.98))
@settings(max_examples=300, deadline=None)
def test_noise_of_any_density_is_filled_as_scipy_says(
    seed: int, height: int, width: int, inside: float
) -> None:
    noise = np.random.default_rng(seed).random((height, width))
    logits = np.where(noise < inside, 2.0, -2.0).astype(np.float32)
    np.testing.assert_array_equal(fill_holes(logits), filled_one_by_one(logits))


@pytest.mark.parametrize("turn", range(4))
def test_long_thin_background_is_no_hole_whatever_its_way(turn: int) -> None:
    logits = np.full((40, 40), 5.0, np.float32)
    snake = [(2 * (i // 30) + 3, 3 + i % 30) for i in range(200)]
    for i, (y, x) in enumerate(snake):
        logits[y, x] = -1.0
        if i % 30 == 29:
            logits[y + 1, x if (i // 30) % 2 == 0 else 3] = -1.0
    logits = np.rot90(logits, turn)
    np.testing.assert_array_equal(fill_holes(logits), filled_one_by_one(logits))


@given(LOGITS)
@settings(max_examples=50, deadline=None)
def test_filling_is_upstreams_function_given_any_connected_components(logits: np.ndarray) -> None:
    from sam2.utils.misc import fill_holes_in_mask_scores

    with holes_filled():
        theirs = fill_holes_in_mask_scores(torch.from_numpy(logits)[None, None].clone(), 8)
    np.testing.assert_array_equal(fill_holes(logits), theirs[0, 0].numpy())


@pytest.mark.parametrize("area", [1, 7, 8])
def test_a_hole_of_up_to_eight_pixels_becomes_just_positive(area: int) -> None:
    logits = object_with_hole(area)
    filled = fill_holes(logits)
    assert np.count_nonzero(filled == np.float32(0.1)) == area
    assert (filled[4:16, 4:16] > 0).all()
    outside = logits == -5.0
    np.testing.assert_array_equal(filled[outside], logits[outside])


def test_a_hole_of_nine_pixels_stays() -> None:
    logits = object_with_hole(9)
    np.testing.assert_array_equal(fill_holes(logits), logits)


def test_pixels_that_touch_at_a_corner_are_one_hole() -> None:
    logits = np.full((16, 16), 5.0, np.float32)
    logits[np.arange(9), np.arange(9)] = -1.0
    np.testing.assert_array_equal(fill_holes(logits), logits)
    logits[8, 8] = 5.0
    assert (fill_holes(logits) > 0).all()


def test_a_logit_of_exactly_zero_is_background() -> None:
    logits = np.full((8, 8), 5.0, np.float32)
    logits[3, 3] = 0.0
    assert fill_holes(logits)[3, 3] == np.float32(0.1)


@pytest.mark.parametrize("value", [-1024.0, 6.0])
def test_a_slice_without_an_object_or_without_background_is_left_alone(value: float) -> None:
    logits = np.full((16, 16), value, np.float32)
    np.testing.assert_array_equal(fill_holes(logits), logits)


def test_the_input_is_not_written_to() -> None:
    logits = object_with_hole(4)
    before = logits.copy()
    fill_holes(logits)
    np.testing.assert_array_equal(logits, before)
