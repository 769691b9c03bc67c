from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kernels.preprocess import axis_order, preprocess, resized
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD


def upstream(images: np.ndarray, size: int, folder: Path) -> np.ndarray:
    """The official frame loader. It reads files named .jpg; PNG bytes under that name lose nothing."""
    from sam2.utils.misc import load_video_frames

    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.jpg", format="png")
    frames, height, width = load_video_frames(
        str(folder), size, offload_video_to_cpu=True, compute_device=torch.device("cpu")
    )
    assert (height, width) == images.shape[1:3]
    return frames.numpy()


@pytest.mark.parametrize("colours", [(), (3,)], ids=["grey", "rgb"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(50, 70, 128), (300, 211, 128), (128, 128, 128), (64, 400, 96), (3, 2, 64)],
)
def test_slices_become_bit_for_bit_what_upstream_loads_from_files(
    height: int, width: int, size: int, colours: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (2, height, width, *colours), dtype=np.uint8)
    ours = preprocess(images, size, PIXEL_MEAN, PIXEL_STD)
    assert ours.shape == (2, 3, size, size)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, upstream(images, size, tmp_path))


def test_a_constant_slice_is_only_normalised() -> None:
    black = preprocess(np.zeros((1, 5, 9), np.uint8), 64, PIXEL_MEAN, PIXEL_STD)
    expected = -np.array(PIXEL_MEAN) / np.array(PIXEL_STD)
    np.testing.assert_allclose(black[0, :, 31, 7], expected, rtol=1e-6)
    assert (black == black[:, :, :1, :1]).all()


def test_columns_stay_columns_and_colours_stay_in_order() -> None:
    image = np.zeros((1, 40, 80, 3), np.uint8)
    image[0, :, 40:, 2] = 255  # the right half is blue
    out = preprocess(image, 64, (0, 0, 0), (1, 1, 1))[0]
    assert out[2, :, 40:].min() > 0.99
    assert out[2, :, :24].max() < 0.01
    assert out[:2].max() == 0


def test_a_view_with_odd_strides_gives_the_same_as_its_copy() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (6, 30, 20), dtype=np.uint8)
    view = volume.transpose(2, 0, 1)[::-3]
    np.testing.assert_array_equal(
        preprocess(view, 64, PIXEL_MEAN, PIXEL_STD),
        preprocess(view.copy(), 64, PIXEL_MEAN, PIXEL_STD),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70))
def test_the_devices_arithmetic_is_pillows_to_the_bit(height: int, width: int, size: int) -> None:
    image = np.random.default_rng(height * width).integers(0, 256, (height, width)).astype(np.uint8)
    found = resized(image[None], size, axis_order(height, width, size))[0]
    wanted = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(wanted))
