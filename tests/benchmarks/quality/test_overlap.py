from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.overlap import compare, dice


def ball(shape: tuple[int, int, int], middle: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True)) < radius**2


def test_the_same_mask_agrees_fully_and_empty_masks_agree_too() -> None:
    mask = ball((12, 20, 20), (6, 10, 10), 5)
    same = compare(mask, mask, (1.0, 1.0, 1.0))
    assert (same.dice, same.iou, same.hd95_mm, same.nsd) == (1.0, 1.0, 0.0, 1.0)
    nothing = np.zeros_like(mask)
    assert compare(nothing, nothing, (1, 1, 1)).dice == 1.0
    missed = compare(nothing, mask, (1, 1, 1))
    assert missed.dice == missed.nsd == 0.0 and np.isnan(missed.hd95_mm)


def test_distances_are_in_millimetres_along_the_right_axis() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:10, 5:10, 5:10] = True
    moved = np.roll(mask, 3, axis=0)
    along_z = compare(moved, mask, (4.0, 1.0, 1.0))
    assert along_z.hd95_mm == pytest.approx(12.0)
    assert compare(moved, mask, (1.0, 4.0, 4.0)).hd95_mm == pytest.approx(3.0)
    assert along_z.dice == pytest.approx(0.4) and along_z.iou == pytest.approx(0.25)
    assert along_z.nsd < compare(np.roll(mask, 1, axis=1), mask, (4.0, 1.0, 1.0)).nsd == 1.0


def test_dice_by_hand() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert dice(a, b) == pytest.approx(0.5)
    assert dice(a & ~a, b & ~b) == 1.0
