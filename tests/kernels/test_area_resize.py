"""Areas against OpenCV, which LiteMedSAM calls."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.area_resize import area_resize
from kernels.image_profiles import longest_side

cv2 = pytest.importorskip("cv2")

SHRUNK = [(200, 300), (640, 480), (768, 768), (1000, 900), (257, 255), (433, 99, 3)]
ROUNDED_OTHERWISE = 2e-4  # share of pixels that single precision puts on the other side of a half


@pytest.mark.parametrize("shape", SHRUNK, ids=str)
def test_shrinking_is_opencvs(shape: tuple[int, ...]) -> None:
    off = _difference(shape)
    assert off.max() <= 1
    assert (off > 0).mean() <= ROUNDED_OTHERWISE


@pytest.mark.parametrize(
    "shape",
    [(512, 512), (512, 400, 3), (100, 60), (255, 200), (3, 250), (64, 64), (128, 77, 3), (256, 9)],
    ids=str,
)
def test_halving_and_enlarging_are_opencvs_bit_for_bit(shape: tuple[int, ...]) -> None:
    assert _difference(shape).max() == 0


def _difference(shape: tuple[int, ...]) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    height, width = longest_side(shape[:2], 256)
    theirs = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.abs(theirs.astype(int) - area_resize(image, (height, width)))
