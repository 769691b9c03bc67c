"""Contours of masks: exact under every rule that readers fill them by, also with holes, parts and single pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.draw import polygon2mask

from runtime.io.dicom.contours import Loop, filled, outlines

Y, X = np.mgrid[:40, :50]


def disc(y: int, x: int, radius: float) -> np.ndarray:
    return (Y - y) ** 2 + (X - x) ** 2 < radius**2


SHAPES = {
    "disc": disc(18, 22, 12),
    "hole": disc(18, 22, 12) & ~disc(18, 22, 5),
    "two holes": disc(18, 22, 14) & ~disc(18, 16, 4) & ~disc(18, 28, 4),
    "island in a hole": (disc(18, 22, 14) & ~disc(18, 22, 9)) | disc(18, 22, 4),
    "two parts": disc(9, 9, 6) | disc(30, 38, 7),
    "one pixel": (Y == 3) & (X == 7),
    "one pixel wide": (Y == 3) & (X > 7),
    "touching corners": (Y + X) % 2 == 0,
    "hundreds of holes": np.random.default_rng(1).random(Y.shape) > 0.2,
    "all of it": np.ones_like(Y, bool),
    "nothing": np.zeros_like(Y, bool),
}


def lines(loops: list[Loop]) -> list[np.ndarray]:
    """As indices of pixels, whose centres are whole."""
    return [np.array(loop, float) - 0.5 for loop in loops]


@pytest.mark.parametrize("mask", SHAPES.values(), ids=SHAPES)
def test_others_fill_them_to_the_same_mask_by_either_rule(mask: np.ndarray) -> None:
    by_parity, by_union = np.zeros_like(mask), np.zeros_like(mask)
    for line in lines(outlines(mask)):
        inside = polygon2mask(mask.shape, line[:, ::-1])
        by_parity ^= inside
        by_union |= inside
    assert (by_parity == mask).all() and (by_union == mask).all()


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_any_mask_comes_back_and_has_its_area(mask: np.ndarray) -> None:
    loops = outlines(mask)
    assert (filled(lines(loops), mask.shape) == mask).all()
    area = 0.0
    for loop in loops:
        x, y = np.array(loop).T
        area += (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert len(loop) >= 4
    assert area == mask.sum()


def test_a_line_turns_at_each_of_its_corners() -> None:
    square = np.zeros((9, 9), bool)
    square[2:5, 3:8] = True
    assert outlines(square) == [[(3, 2), (8, 2), (8, 5), (3, 5)]]


def test_a_hole_is_cut_open_by_a_channel_without_width() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (loop,) = outlines(ring)
    assert loop.count((0, 2)) == loop.count((2, 2)) == 2


def test_what_is_filled_may_be_slanted_and_reach_beyond() -> None:
    triangle = np.array([(-5.0, -5.0), (9.3, -5.0), (-5.0, 9.3)])
    inside = filled([triangle], (8, 8))
    y, x = np.mgrid[:8, :8]
    assert (inside == (x + y < 4.3)).all()
