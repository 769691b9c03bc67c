"""Smoothed logits against scipy's."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kernels.smooth import REACH, smooth


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(16, 16), (1, 9), (7, 3)])
def test_as_scipy_does_it(shape: tuple[int, int], sigma: float) -> None:
    logits = np.random.default_rng(3).normal(0, 8, shape).astype(np.float32)
    wanted = gaussian_filter(
        logits.astype(np.float64), sigma, mode="nearest", radius=int(np.ceil(REACH * sigma))
    )
    found = smooth(logits, sigma)
    assert found.dtype == np.float32 and found.shape == shape
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_without_a_width_nothing_changes() -> None:
    logits = np.random.default_rng(3).normal(0, 8, (5, 6)).astype(np.float32)
    assert smooth(logits, 0.0) is logits


def test_what_is_the_same_everywhere_stays_so() -> None:
    np.testing.assert_allclose(smooth(np.full((9, 9), -1024, np.float32), 0.7), -1024, rtol=1e-6)
