"""Cubic splines against scikit-image, which MedSAM calls."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.spline_resize import spline_resize

transform = pytest.importorskip("skimage.transform")


@pytest.mark.parametrize(
    "shape",
    [(40, 60), (150, 130), (150, 40), (40, 60, 3), (1, 5), (5, 1), (2, 2), (3, 300), (64, 64)],
    ids=str,
)
def test_it_is_scikit_images(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    theirs = transform.resize(image, (64, 64), order=3, preserve_range=True, anti_aliasing=True)
    assert np.abs(spline_resize(image, (64, 64)) - theirs).max() < 1e-10


def test_sides_may_differ() -> None:
    image = np.random.default_rng(1).normal(size=(37, 90))
    theirs = transform.resize(image, (50, 20), order=3, preserve_range=True, anti_aliasing=True)
    assert np.abs(spline_resize(image, (50, 20)) - theirs).max() < 1e-12
