from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from kernels.largest_component import largest_component

CORNERS = np.ones((3, 3, 3), bool)  # 26 neighbours


def reference(mask: np.ndarray) -> np.ndarray:
    parts, count = label(mask, CORNERS)
    sizes = [int((parts == i).sum()) for i in range(1, count + 1)]
    return parts == 1 + sizes.index(max(sizes)) if sizes else np.zeros_like(mask)


@given(arrays(bool, st.tuples(*[st.integers(1, 5)] * 3), elements=st.booleans()))
def test_it_is_the_component_with_the_most_voxels(mask: np.ndarray) -> None:
    found = largest_component(mask)
    assert found.dtype == bool
    assert found.shape == mask.shape
    np.testing.assert_array_equal(found, reference(mask))


def test_voxels_that_share_a_corner_belong_together() -> None:
    mask = np.zeros((3, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    mask[0, 5, 4:6] = True
    kept = largest_component(mask)
    assert kept.sum() == 3
    assert kept[0, 0, 0] and kept[2, 2, 2]


def test_of_equals_the_first_stays() -> None:
    mask = np.zeros((2, 5, 5), bool)
    mask[0, 3, 4] = mask[1, 0, 0] = True
    np.testing.assert_array_equal(np.argwhere(largest_component(mask)), [[0, 3, 4]])


def test_size_counts_and_not_extent() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[:, 0, 0] = True
    mask[4:7, 4:7, 4:6] = True
    kept = largest_component(mask)
    assert kept.sum() == 18
    assert not kept[:, 0, 0].any()


def test_of_nothing_nothing_stays_and_all_of_everything() -> None:
    for value in (False, True):
        mask = np.full((3, 4, 5), value)
        np.testing.assert_array_equal(largest_component(mask), mask)


def test_the_mask_given_is_left_alone() -> None:
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = mask[2, 2:4, 2] = True
    before = mask.copy()
    assert largest_component(mask) is not mask
    np.testing.assert_array_equal(mask, before)
