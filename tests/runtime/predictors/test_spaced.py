"""Slices that are tracked, and those that are interpolated between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.predictors.region import Region
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.spaced import LOGIT_LIMIT, SpacedSlices, between, slices_within
from runtime.prompts.prompts import Box, Point
from runtime.track import Segmented

SHAPE = (12, 16)


def answer(logits: np.ndarray, iou: float = 0.9, score: float = 5.0) -> Segmented:
    return Segmented(
        logits.astype(np.float32), iou, score, np.zeros(2, np.float32), (1, 0), (1.0, 1.0)
    )


def mask_of(index: int, level: float, crop: Region | None = None, iou: float = 0.9) -> SliceMask:
    return SliceMask(index, 1, answer(np.full((4, 4), level), iou), SHAPE, crop)


@given(
    num_slices=st.integers(1, 60),
    every=st.integers(1, 12),
    prompted=st.sets(st.integers(0, 59), max_size=5),
    ends=st.tuples(st.integers(0, 59), st.integers(1, 60)),
)
def test_no_gap_is_wider_than_asked_for(
    num_slices: int, every: int, prompted: set[int], ends: tuple[int, int]
) -> None:
    start, stop = min(ends[0], num_slices - 1), min(ends[1], num_slices)
    z_range = (start, stop) if start < stop else None
    first, last = (start, stop - 1) if z_range else (0, num_slices - 1)
    inside = sorted(i for i in prompted if first <= i <= last)
    tracked = SpacedSlices.of(z_range, num_slices, inside, every).tracked
    assert set(inside) <= set(tracked)
    assert (tracked[0], tracked[-1]) == (first, last)
    gaps = np.diff(tracked)
    assert ((gaps > 0) & (gaps <= every)).all()
    assert len(tracked) == last - first + 1 if every == 1 else True
    # Never more than twice as many as one of `every` would be, between slices that have to be tracked.
    assert len(tracked) <= 2 * (last - first) / every + len(inside) + 2


@pytest.mark.parametrize(
    ("every_mm", "spacing_mm", "slices"),
    [(5, 1.25, 4), (5, 1.5, 3), (3.75, 1.25, 3), (0.3, 0.1, 3), (0.5, 2, 1), (2, 2, 1)],
)
def test_a_distance_is_so_many_slices(every_mm: float, spacing_mm: float, slices: int) -> None:
    assert slices_within(every_mm, spacing_mm) == slices


@pytest.mark.parametrize("every_mm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_distance_is_a_number_above_zero(every_mm: float) -> None:
    with pytest.raises(InputError, match="wanted a number above zero"):
        slices_within(every_mm, 1.0)


def test_prompts_and_masks_change_numbers_there_and_back() -> None:
    spaced = SpacedSlices.of(None, 10, [4], 3)
    assert spaced.tracked == (0, 2, 4, 6, 9)
    box, point = spaced.prompts([Box(slice=4, y=(1, 3), x=(1, 3)), Point(slice=9, y=1, x=1)])
    assert (box.slice, point.slice) == (2, 4)
    back = spaced.slice_mask(mask_of(2, 1.0))
    assert (back.slice, back.memory_frames) == (4, (2, 0))
    read, shape = spaced.source(np.arange(10, dtype=np.uint8)[:, None, None])
    assert shape == (5, 1, 1) and [int(read(i)[0, 0]) for i in range(5)] == [*spaced.tracked]


def test_masks_between_two_are_mixed_and_beyond_the_last_there_are_none() -> None:
    spaced = SpacedSlices((0, 3, 6, 9))
    found = {0: mask_of(0, 6.0, iou=0.8), 3: mask_of(3, -3.0, iou=0.4), 9: mask_of(9, 4.0)}
    filled = spaced.filled(Result((SHAPE,) * 10, {1: found})).slices[1]
    assert sorted(filled) == [0, 1, 2, 3, 9]
    assert [float(filled[i].segmented.logits.mean()) for i in (0, 1, 2, 3)] == [6, 3, 0, -3]
    assert [round(filled[i].confidence, 3) for i in (0, 1, 2, 3)] == [0.8, 0.8, 0.4, 0.4]
    assert filled[1].memory_frames == ()
    assert filled[1].slice == 1 and filled[3] is found[3]


def test_an_object_that_has_gone_ends_half_way() -> None:
    gone = SliceMask(4, 1, answer(np.full((4, 4), -1024.0), 0.1, -3.0), SHAPE)
    there = mask_of(0, LOGIT_LIMIT)
    drawn = [bool(between(there, gone, along, 1).mask().any()) for along in (0.25, 0.49, 0.51)]
    assert drawn == [True, True, False]
    assert between(there, gone, 0.75, 3).confidence == 0.0


def test_masks_of_other_crops_are_mixed_where_they_lie() -> None:
    left, right = Region((0, 12), (0, 8)), Region((0, 12), (4, 16))
    mixed = between(mask_of(0, 4.0, left), mask_of(2, 4.0, right), 0.5, 1)
    assert mixed.crop is None
    columns = mixed.mask().any(0)
    assert columns[4:8].all() and not columns[[0, 15]].any()
    smoothed = [replace(mask_of(i, 4.0, left), smooth=0.7) for i in (0, 2)]
    assert between(*smoothed, 0.5, 1).smooth == 0.7
    assert between(smoothed[0], mask_of(2, 4.0, right), 0.5, 1).smooth == 0.0, "it is by then"
    same = between(mask_of(0, 4.0, left), mask_of(2, 4.0, left), 0.5, 1)
    assert same.crop == left and same.mask()[:, :8].all() and not same.mask()[:, 8:].any()
