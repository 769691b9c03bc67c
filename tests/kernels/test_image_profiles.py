"""How each family wants an image, against the calls that upstream makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kernels.image_profiles import IMAGE_PROFILES, LEAST_RANGE, longest_side

SIDE = 128
SHAPES = [(90, 60), (200, 150), (31, 300), (128, 128), (40, 50, 3), (5, 1)]
SAM, MEDSAM, LITE = (IMAGE_PROFILES[name] for name in ("sam", "medsam", "litemedsam"))


def an_image(shape: tuple[int, ...]) -> np.ndarray:
    """Noise on a ramp, with a flat corner."""
    noise = np.random.default_rng(sum(shape)).normal(0, 12, shape)
    ramp = np.linspace(20, 220, shape[1]).reshape(1, -1, *(1,) * (len(shape) - 2))
    image = (ramp + noise).clip(0, 255).astype(np.uint8)
    image[: shape[0] // 2, : shape[1] // 2] = 57
    return image


def stretched(image: np.ndarray) -> np.ndarray:
    """Upstream's line, MedSAM's and LiteMedSAM's alike."""
    spread = np.clip(image.max() - image.min(), a_min=LEAST_RANGE, a_max=None)
    return ((image - image.min()) / spread).astype(np.float32)


def in_colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[:, :, None], 3, -1) if image.ndim == 2 else image


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sam(shape: tuple[int, ...]) -> None:
    from PIL import Image

    image = an_image(shape)
    height, width = longest_side(shape[:2], SIDE)
    resized = Image.fromarray(in_colour(image)).resize((width, height), Image.Resampling.BILINEAR)
    tensor = torch.as_tensor(np.array(resized)).permute(2, 0, 1)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    theirs = F.pad((tensor - mean) / std, (0, SIDE - width, 0, SIDE - height))
    assert max(height, width) == SIDE
    np.testing.assert_array_equal(SAM.image(image, SIDE)[0], theirs.numpy())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_medsam(shape: tuple[int, ...]) -> None:
    transform = pytest.importorskip("skimage.transform")
    image = an_image(shape)
    resized = transform.resize(
        in_colour(image), (SIDE, SIDE), order=3, preserve_range=True, anti_aliasing=True
    )
    # In flat areas rounding decides upstream whether a value is cut off to the next lower one.
    cut_off = np.where(np.abs(resized - np.rint(resized)) < 1e-9, np.rint(resized), resized)
    theirs = stretched(cut_off.astype(np.uint8)).transpose(2, 0, 1)
    np.testing.assert_array_equal(
        MEDSAM.image(image, SIDE)[0], np.broadcast_to(theirs, (3, SIDE, SIDE))
    )
    upstreams = stretched(resized.astype(np.uint8)).transpose(2, 0, 1)
    np.testing.assert_allclose(theirs, upstreams, atol=2.01 / np.ptp(resized.astype(np.uint8)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_litemedsam(shape: tuple[int, ...]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = an_image(shape)
    height, width = longest_side(shape[:2], SIDE)
    resized = cv2.resize(in_colour(image), (width, height), interpolation=cv2.INTER_AREA)
    theirs = np.zeros((SIDE, SIDE, 3), np.float32)
    theirs[:height, :width] = stretched(resized)
    ours = LITE.image(image, SIDE)[0]
    np.testing.assert_allclose(ours, theirs.transpose(2, 0, 1), atol=1.01 / np.ptp(resized))
    assert (ours != theirs.transpose(2, 0, 1)).mean() < 2e-3


@pytest.mark.parametrize("name", IMAGE_PROFILES)
def test_an_image_of_one_grey_has_no_range_to_stretch(name: str) -> None:
    image = IMAGE_PROFILES[name].image(np.full((50, 30), 9, np.uint8), SIDE)
    assert image.shape == (1, 3, SIDE, SIDE)
    assert np.isfinite(image).all()


@pytest.fixture
def low_res() -> np.ndarray:
    noise = np.random.default_rng(3).normal(size=(1, 1, 8, 8)).astype(np.float32)
    return F.interpolate(torch.from_numpy(9 * noise), (32, 32), mode="bicubic").numpy()[0, 0]


def enlarged(logits: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits, shape, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("shape", [(90, 60), (200, 150), (31, 300)], ids=str)
def test_masks_of_sam_are_interpolated_twice(low_res: np.ndarray, shape: tuple[int, int]) -> None:
    height, width = longest_side(shape, SIDE)
    whole = enlarged(torch.from_numpy(low_res)[None, None], (SIDE, SIDE))
    theirs = enlarged(whole[..., :height, :width], shape)[0, 0].numpy()
    np.testing.assert_allclose(SAM.logits(low_res, SIDE, shape), theirs, atol=2e-5)
    once = enlarged(torch.from_numpy(low_res)[None, None], (SIDE, SIDE))[0, 0].numpy()
    assert not np.array_equal(theirs > 0, once[: shape[0], : shape[1]] > 0)


@pytest.mark.parametrize("shape", [(90, 60), (200, 150), (31, 300)], ids=str)
def test_masks_of_medsam_are_interpolated_probabilities(
    low_res: np.ndarray, shape: tuple[int, int]
) -> None:
    theirs = enlarged(torch.from_numpy(low_res)[None, None].sigmoid(), shape)[0, 0].numpy()
    ours = MEDSAM.logits(low_res, SIDE, shape)
    is_sure = np.abs(theirs - 0.5) > 1e-6
    np.testing.assert_array_equal((ours > 0)[is_sure], (theirs > 0.5)[is_sure])
    of_logits = enlarged(torch.from_numpy(low_res)[None, None], shape)[0, 0].numpy()
    assert not np.array_equal(theirs > 0.5, of_logits > 0), "the order would not show"


def test_masks_of_medsam_are_numbers_however_sure_it_is() -> None:
    logits = np.array([[-1e4, 1e4], [-90, 90]], np.float32)
    ours = MEDSAM.logits(logits, SIDE, (8, 8))
    assert np.isfinite(ours).all()
    assert (ours[:, 0] < 0).all() and (ours[:, -1] > 0).all()


@pytest.mark.parametrize("shape", [(90, 60), (200, 150), (31, 300)], ids=str)
def test_masks_of_litemedsam_are_cut_first(low_res: np.ndarray, shape: tuple[int, int]) -> None:
    height, width = longest_side(shape, 32)
    theirs = enlarged(torch.from_numpy(low_res[:height, :width])[None, None], shape)[0, 0].numpy()
    np.testing.assert_allclose(LITE.logits(low_res, 32, shape), theirs, atol=2e-5)


def test_coordinates_follow_the_image() -> None:
    shape = (300, 201)
    height, width = longest_side(shape, SIDE)
    assert SAM.scale(shape, SIDE) == (height / 300, width / 201)
    assert MEDSAM.scale(shape, SIDE) == (SIDE / 300, SIDE / 201)
    assert LITE.scale(shape, SIDE) == (SIDE / 300, SIDE / 300)
