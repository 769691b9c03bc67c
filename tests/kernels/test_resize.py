from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kernels.resize import bilinear_weights, resize

SIDE = st.integers(1, 70)


def torch_resize(image: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    """PyTorch's own, in float64: its float32 source positions alone are off by up to 1e-5 pixels at these sizes."""
    data = torch.from_numpy(image).double()
    resized = torch.nn.functional.interpolate(
        data, size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized.numpy()


@given(SIDE, SIDE, SIDE, SIDE, st.booleans(), st.integers(0, 2**32 - 1))
@example(16, 16, 64, 64, False, 0)  # low-resolution logits to the image
@example(64, 64, 16, 16, True, 0)  # a mask prompt to low-resolution logits
@example(64, 16, 16, 64, True, 0)  # down on one axis, up on the other
@example(1, 1, 5, 7, True, 0)
@settings(max_examples=300, deadline=None)
def test_a_resize_is_pytorchs_for_every_pair_of_sizes(
    h: int, w: int, new_h: int, new_w: int, antialias: bool, seed: int
) -> None:
    # PyTorch's antialiased enlargement repeats the first row where the result has one column (2.13).
    assume(not (antialias and new_w == 1))
    image = np.random.default_rng(seed).uniform(-1, 1, (2, 3, h, w)).astype(np.float32)
    ours = resize(image, (new_h, new_w), antialias)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(
        ours, torch_resize(image, (new_h, new_w), antialias), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("size_in", "size_out"), [((128, 128), (512, 417)), ((512, 300), (128, 128))]
)
def test_at_the_sizes_of_real_slices_pytorch_in_float32_agrees_too(
    size_in: tuple[int, int], size_out: tuple[int, int], antialias: bool
) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1, *size_in)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image), size_out, mode="bilinear", antialias=antialias
    )
    # PyTorch places its source pixels in float32: 2e-5 pixels at coordinate 300.
    ours = resize(image, size_out, antialias)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=3e-5)


def test_antialiasing_changes_a_reduction_and_no_enlargement() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (24, 24)).astype(np.float32)
    assert np.abs(resize(image, (6, 6), True) - resize(image, (6, 6), False)).max() > 0.1
    np.testing.assert_allclose(
        resize(image, (60, 60), True), resize(image, (60, 60), False), atol=1e-6
    )


def test_a_resize_of_a_hand_computed_line() -> None:
    line = np.array([[0.0, 4.0, 8.0, 12.0]], np.float32)
    assert resize(line, (1, 2)).tolist() == [[2.0, 10.0]]
    # Half the width: weights 1/8, 3/8, 3/8, 1/8, of which the border cuts one off.
    expected = [(3 * 0 + 3 * 4 + 1 * 8) / 7, (1 * 4 + 3 * 8 + 3 * 12) / 7]
    np.testing.assert_allclose(resize(line, (1, 2), antialias=True)[0], expected, rtol=1e-6)


def test_float64_and_integer_data_come_back_as_float32() -> None:
    image = np.arange(12).reshape(3, 4)
    assert (
        resize(image, (6, 8)).dtype == resize(image.astype(np.float64), (3, 4)).dtype == np.float32
    )


@given(SIDE, SIDE)
@settings(max_examples=100, deadline=None)
def test_every_output_pixel_is_a_weighted_mean(size_in: int, size_out: int) -> None:
    weights = bilinear_weights(size_in, size_out)
    assert weights.shape == (size_out, size_in)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
