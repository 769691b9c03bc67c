"""Scribbles against plain definitions, and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from runtime.serve.strokes import (
    MAX_POINTS,
    depths,
    farthest_first,
    skeleton,
)

MASKS = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


@given(MASKS)
def test_depths_are_steps_to_the_outside(mask: np.ndarray) -> None:
    wanted = ndimage.distance_transform_cdt(np.pad(mask, 1), "taxicab")[1:-1, 1:-1]
    np.testing.assert_array_equal(depths(mask), wanted)


@given(MASKS)
def test_a_skeleton_lies_in_its_mask_and_on_each_part_of_it(mask: np.ndarray) -> None:
    points = skeleton(mask)
    assert mask[tuple(points.T)].all()
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    assert {*parts[tuple(points.T)]} == {*range(1, count + 1)}


@pytest.mark.parametrize("thickness", [1, 3, 5])
def test_a_strokes_skeleton_is_its_middle_line(thickness: int) -> None:
    mask = np.zeros((40, 60), bool)
    half = thickness // 2
    mask[20 - half : 21 + half, 5:55] = True
    points = skeleton(mask)
    middle = points[(points[:, 1] > 5 + thickness) & (points[:, 1] < 54 - thickness)]
    assert (middle[:, 0] == 20).all()
    chosen = farthest_first(points)
    assert len(chosen) == MAX_POINTS
    assert chosen[:2, 1].min() <= 5 + half and chosen[:2, 1].max() >= 54 - half  # ends first
    gaps = np.diff(np.sort(chosen[:, 1]))
    assert gaps.max() <= 2.5 * 50 / MAX_POINTS


@given(arrays(np.int64, st.tuples(st.integers(0, 40), st.just(3)), elements=st.integers(0, 30)))
def test_points_are_as_far_apart_as_can_be(points: np.ndarray) -> None:
    chosen = farthest_first(points, 5)
    assert len(chosen) <= 5 and (len(chosen) >= 1) == (len(points) >= 1)
    for i in range(1, len(chosen)):
        before = ((points[:, None] - chosen[None, :i]) ** 2).sum(-1).min(1)
        mine = ((chosen[i] - chosen[:i]) ** 2).sum(-1).min()
        assert mine == before.max() >= 4
