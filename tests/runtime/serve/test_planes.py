"""Points and boxes as viewers send them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import PromptError
from runtime.serve.planes import in_plane, position_of, spans_of, thin_axis, union

SHAPE = (20, 30, 40)
NUMBER = st.floats(-1e300, 1e300) | st.integers(-100, 100)


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ((1, 2, 3), (1, 2, 3)),
        ((0.5, 1.49, 2.51), (1, 1, 3)),
        ((-0.4, 29.4, 39.49), (0, 29, 39)),
        (np.array([1, 2, 3], np.int16), (1, 2, 3)),
        (np.float32([1.2, 2.2, 3.2]), (1, 2, 3)),
    ],
)
def test_points_are_rounded(given_: object, wanted: tuple[int, int, int]) -> None:
    assert position_of(given_, SHAPE) == wanted


@pytest.mark.parametrize(
    "given_",
    [
        (20, 0, 0), (-0.51, 0, 0), (0, 29.5, 0), (0, 0, 1e300), (float("nan"), 0, 0),
        (float("inf"), 0, 0), (1, 2), (1, 2, 3, 4), "123", None, (True, 1, 1), ("1", 2, 3), 5,
        (10**400, 0, 0),
    ],
)  # fmt: skip
def test_points_that_do_not_fit_are_refused(given_: object) -> None:
    with pytest.raises(PromptError):
        position_of(given_, SHAPE)


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ([[19.4, 20.4], [1, 5], [2, 6]], ((19, 20), (1, 5), (2, 6))),
        ([[3.4, 3.6], [1, 5], [2, 6]], ((3, 4), (1, 5), (2, 6))),
        ([[0, 21], [-5, 31], [39.6, 41]], ((0, 20), (0, 30), (39, 40))),
        ([[5, 5], [6, 5], [700, 800]], ((5, 6), (5, 6), (39, 40))),
        (np.array([[0, 1], [0, 30], [0, 40]]), ((0, 1), (0, 30), (0, 40))),
        ([[-9, -8], [1e300, -1e300], [0, 1]], ((0, 1), (0, 30), (0, 1))),
    ],
)
def test_boxes_are_rounded_cut_and_keep_a_voxel(given_: object, wanted: object) -> None:
    assert spans_of(given_, SHAPE) == wanted


@given(st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=3, max_size=3))
def test_any_box_of_numbers_is_one_of_the_volume(box: list[list[float]]) -> None:
    for (start, stop), size in zip(spans_of(box, SHAPE), SHAPE, strict=True):
        assert 0 <= start < stop <= size


@pytest.mark.parametrize(
    "given_",
    [
        None,
        [[0, 1]] * 2,
        [[0, 1], [0, 1], [0]],
        [[0, float("nan")], [0, 1], [0, 1]],
        [[0, 10**400], [0, 1], [0, 1]],
        "abc",
        [1, 2, 3],
    ],
)
def test_what_is_no_box_is_refused(given_: object) -> None:
    with pytest.raises(PromptError):
        spans_of(given_, SHAPE)


def test_the_thin_axis_is_the_objects_own_where_it_can_be() -> None:
    assert thin_axis(((3, 4), (1, 9), (1, 9)), None) == 0
    assert thin_axis(((1, 9), (3, 4), (1, 9)), 0) == 1
    assert thin_axis(((3, 4), (3, 4), (1, 9)), 1) == 1
    assert thin_axis(((3, 4), (3, 4), (1, 9)), 2) == 0
    assert thin_axis(((1, 9), (1, 9), (1, 9)), 0) is None


def test_planes_keep_the_order_of_the_other_axes() -> None:
    assert [in_plane((4, 5, 6), axis) for axis in range(3)] == [(4, 5, 6), (5, 4, 6), (6, 4, 5)]


def test_unions_hold_both() -> None:
    assert union(None, ((1, 2), (3, 4), (5, 6))) == ((1, 2), (3, 4), (5, 6))
    assert union(((0, 1), (3, 9), (5, 6)), ((1, 2), (3, 4), (7, 8))) == ((0, 2), (3, 9), (5, 8))
    assert union(None, None) is None
