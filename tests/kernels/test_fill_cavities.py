"""Cavities: what is one, against a plain statement of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from kernels.fill_cavities import fill_cavities


def by_flooding(mask: np.ndarray) -> np.ndarray:
    """Water comes in from all sides, through faces."""
    wet = np.zeros(tuple(side + 2 for side in mask.shape), bool)
    dry = np.pad(mask, 1)
    wet[0] = True
    while True:
        grown = wet.copy()
        for axis in range(3):
            for step in (1, -1):
                grown |= np.roll(
                    wet, step, axis
                )  # the rim is all water soon, so that rolling over it does no harm
        grown &= ~dry
        if (grown == wet).all():
            return ~wet[1:-1, 1:-1, 1:-1]
        wet = grown


def shell() -> np.ndarray:
    mask = np.zeros((7, 8, 9), bool)
    mask[1:6, 1:7, 1:8] = True
    mask[2:5, 2:6, 2:7] = False
    return mask


def test_a_cavity_is_filled_and_nothing_else() -> None:
    mask = shell()
    filled = fill_cavities(mask)
    wanted = np.zeros_like(mask)
    wanted[1:6, 1:7, 1:8] = True
    np.testing.assert_array_equal(filled, wanted)
    assert not mask[3, 3, 3], "the mask given is as it was"


@pytest.mark.parametrize("corner", [False, True])
def test_a_way_out_leads_through_faces_and_not_over_corners(corner: bool) -> None:
    mask = shell()
    mask[(1, 1, 1) if corner else (1, 3, 3)] = False
    assert fill_cavities(mask)[3, 3, 3] == corner


def test_an_open_end_at_the_border_is_a_way_out() -> None:
    mask = np.ones((5, 5, 5), bool)
    mask[2:, 2, 2] = False
    np.testing.assert_array_equal(fill_cavities(mask), mask)
    assert not fill_cavities(np.zeros((3, 4, 5), bool)).any()
    assert fill_cavities(np.ones((1, 1, 1), bool)).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    share=st.floats(0.3, 0.95),
)
def test_random_masks_are_filled_as_by_flooding(
    seed: int, shape: tuple[int, int, int], share: float
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    np.testing.assert_array_equal(fill_cavities(mask), by_flooding(mask))


@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_of_a_slice_it_fills_what_cannot_be_left(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_cavities(mask), ndimage.binary_fill_holes(mask))


def test_a_spiral_encloses_nothing() -> None:
    mask = np.zeros((41, 41), bool)
    for ring in range(0, 20, 4):
        mask[ring, ring : 41 - ring] = mask[ring : 41 - ring, 40 - ring] = True
        mask[40 - ring, ring : 41 - ring] = mask[ring + 2 : 41 - ring, ring] = True
        mask[ring + 2, ring : ring + 3] = True
    np.testing.assert_array_equal(fill_cavities(mask), ndimage.binary_fill_holes(mask))
