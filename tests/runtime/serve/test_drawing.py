"""What is drawn comes back bit by bit, and every change of a buffer lies within the box that is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime.serve.drawing import NOTHING, Canvas, Drawn, extent, part_drawn
from runtime.serve.planes import plane_shape

SHAPE = (5, 6, 7)
MASK = arrays(bool, SHAPE, elements=st.sampled_from([False, False, False, True]))


def drawn_in(mask: np.ndarray, axis: int) -> dict[int, Drawn]:
    return {i: Drawn.of(plane) for i, plane in enumerate(np.moveaxis(mask, axis, 0))}


@given(MASK, st.integers(0, 2))
def test_a_mask_comes_back(mask: np.ndarray, axis: int) -> None:
    slices = drawn_in(mask, axis)
    for index, plane in enumerate(np.moveaxis(mask, axis, 0)):
        drawn = slices[index]
        np.testing.assert_array_equal(drawn.mask(plane_shape(SHAPE, axis)), plane)
        assert drawn.num_pixels == plane.sum()
    held = np.argwhere(mask)
    box = extent(slices, axis)
    if not len(held):
        assert box is None
    else:
        assert box == tuple(zip(held.min(0), held.max(0) + 1, strict=True))


@given(MASK, st.integers(0, 2), st.data())
def test_a_part_is_the_part_of_all(mask: np.ndarray, axis: int, data: st.DataObject) -> None:
    spans = []
    for size in SHAPE:
        start = data.draw(st.integers(0, size - 1))
        spans.append((start, data.draw(st.integers(start + 1, size))))
    k, j, i = spans
    wanted = mask[slice(*k), slice(*j), slice(*i)]
    np.testing.assert_array_equal(part_drawn(drawn_in(mask, axis), axis, (k, j, i)), wanted)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
@given(
    first=MASK,
    second=MASK,
    axes=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    only=st.booleans(),
)
def test_a_canvas_shows_what_it_is_told_and_tells_what_it_wrote(
    dtype: type, first: np.ndarray, second: np.ndarray, axes: tuple[int, int], only: bool
) -> None:
    canvas = Canvas(np.zeros(SHAPE, dtype))
    canvas.show(drawn_in(first, axes[0]), axes[0])
    np.testing.assert_array_equal(canvas.buffer, first.astype(dtype))
    before = canvas.buffer.copy()
    slices = drawn_in(second, axes[1])
    if only:
        slices = {index: drawn for index, drawn in slices.items() if index % 2}
    told = canvas.show_only(slices, axes[1]) if only else canvas.show(slices, axes[1])
    wanted = second.copy()
    if only:
        np.moveaxis(wanted, axes[1], 0)[::2] = False
    np.testing.assert_array_equal(canvas.buffer, wanted.astype(dtype))
    changed = np.argwhere(canvas.buffer != before)
    if len(changed):
        assert told is not None
        assert all(
            a <= lo and hi < b
            for (a, b), lo, hi in zip(told, changed.min(0), changed.max(0), strict=True)
        )
    assert canvas.show(slices, axes[1]) is None
    canvas.clear()
    assert not canvas.buffer.any()


def test_a_buffer_may_have_any_strides() -> None:
    buffer = np.zeros((7, 5, 12), np.uint8).transpose(1, 2, 0)[:, ::2]
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:4, 3:6] = True
    Canvas(buffer).show(drawn_in(mask, 0), 0)
    np.testing.assert_array_equal(buffer, mask)


def test_nothing_is_nothing() -> None:
    assert Drawn.of(np.zeros((3, 3), bool)) is NOTHING
    assert NOTHING.spans(2, 0) is None
    assert NOTHING.mask((2, 2)).sum() == 0
