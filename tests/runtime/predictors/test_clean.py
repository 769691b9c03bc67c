"""Masks cleaned in 3-D: the pixels that are wanted, whatever the resolution, and untouched where nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.fill_cavities import fill_cavities
from kernels.largest_component import largest_component
from runtime.predictors.clean import CLEANINGS, clean, shaped
from runtime.predictors.region import Region
from runtime.predictors.result import Result, SliceMask
from runtime.track import Segmented

DEPTH, SIDE, LOW = 6, 32, 16


def result(masks: np.ndarray, crop: Region | None = None) -> Result:
    """Of low-resolution masks (z, y, x)."""
    slices = {
        i: SliceMask(
            i,
            1,
            Segmented(np.where(m, 3.0, -3.0).astype(np.float32), 0.9, 5.0, np.zeros(4)),
            (SIDE, SIDE),
            crop,
        )
        for i, m in enumerate(masks)
    }
    return Result(((SIDE, SIDE),) * len(masks), {1: slices})


def masks() -> np.ndarray:
    """A box with a cavity, and a smaller piece beside it."""
    made = np.zeros((DEPTH, LOW, LOW), bool)
    made[1:5, 2:10, 2:10] = True
    made[2:4, 4:8, 4:8] = False
    made[2, 12:14, 12:14] = True
    return made


@pytest.mark.parametrize("crop", [None, Region((4, 28), (6, 30))])
@pytest.mark.parametrize("how", CLEANINGS)
def test_the_mask_is_what_the_cleaning_says(how: str, crop: Region | None) -> None:
    found = result(masks(), crop)
    before = found.mask(1)
    np.testing.assert_array_equal(clean(found, how).mask(1), CLEANINGS[how](before))
    np.testing.assert_array_equal(found.mask(1), before)


def test_each_does_its_own_part() -> None:
    before = result(masks()).mask(1)
    assert largest_component(before).sum() < before.sum() < fill_cavities(before).sum()
    both = CLEANINGS["both"](before)
    assert both.sum() == fill_cavities(before).sum() - (
        before.sum() - largest_component(before).sum()
    )


def test_without_a_word_nothing_is_done() -> None:
    found = result(masks())
    assert clean(found, None) is found


def test_slices_that_do_not_change_stay_as_they_are() -> None:
    found = result(masks())
    cleaned = clean(found, "largest")
    for i, mask in found.slices[1].items():
        assert (cleaned.slices[1][i] is mask) == (i != 2)
    mask = found.slices[1][1]
    assert shaped(mask, mask.mask()) is mask


def test_scores_and_memory_are_kept() -> None:
    found = result(masks())
    cleaned = clean(found, "both").slices[1][2]
    assert cleaned.confidence == found.slices[1][2].confidence
    assert cleaned.memory_frames == found.slices[1][2].memory_frames
