"""MedSAM2's volume scripts: what each does beyond the defaults, and their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kernels.preprocess import preprocess
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.io import Volume
from runtime.io.window import CT_PRESETS, apply_window
from runtime.measure.phantom import make_phantom
from runtime.model import load
from runtime.predictors import VolumePredictor
from runtime.predictors.clean import shaped
from runtime.predictors.presets import PRESETS, add_prompts, finish
from runtime.predictors.result import Result, SliceMask
from runtime.prompts.prompts import Box, Mask, Point
from runtime.track import Segmented
from tests.fake_backend import Call, FakeBackend
from tests.fakes import TELLING, fake_model

LESION, RECIST = PRESETS["medsam2_lesion"], PRESETS["medsam2_recist"]
SHAPE = (4, 12, 16)


def slice_mask(index: int, object_id: int, inside: np.ndarray, level: float = 4.0) -> SliceMask:
    logits = np.where(inside, level, -level - 1).astype(np.float32)
    return SliceMask(
        index, object_id, Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32)), inside.shape
    )


def result_of(masks: dict[int, np.ndarray]) -> Result:
    slices = {
        object_id: {i: slice_mask(i, object_id, plane) for i, plane in enumerate(mask)}
        for object_id, mask in masks.items()
    }
    return Result((SHAPE[1:],) * SHAPE[0], slices)


def small_and_large(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Two pieces that share no corner."""
    small, large = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    small[0, 0:2, shift : shift + 2] = True
    large[1:3, 6:9, shift : shift + 3] = True
    return small, large


def test_of_a_lesion_the_largest_piece_stays() -> None:
    small, large = small_and_large(3)
    kept = finish(result_of({1: small | large}), LESION)
    np.testing.assert_array_equal(kept.mask(1), large)


def test_pieces_that_share_a_corner_are_one() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0, 1, 1] = mask[1, 2, 2] = mask[2, 3, 3] = True
    mask[3, 8, 8:10] = True
    kept = finish(result_of({1: mask}), LESION).mask(1)
    assert kept.sum() == 3
    assert not kept[3].any()


def test_each_lesion_has_a_largest_piece_of_its_own() -> None:
    """In the union of both, the second lesion's larger piece would be part of the first one, or lost."""
    small, large = small_and_large(3)
    tiny, little = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    tiny[3, 11, 15] = True
    little[0, 11, 0:3] = True
    kept = finish(result_of({2: small | large, 7: tiny | little}), LESION)
    np.testing.assert_array_equal(kept.mask(2), large)
    np.testing.assert_array_equal(kept.mask(7), little)


def test_everything_but_the_pieces_stays_as_it_was() -> None:
    small, large = small_and_large(3)
    before = result_of({1: small | large})
    after = finish(before, LESION)
    assert after.shapes == before.shapes
    for i in (1, 2, 3):
        assert after.slices[1][i] is before.slices[1][i], "no piece was taken here"
    removed, was = after.slices[1][0], before.slices[1][0]
    np.testing.assert_array_equal(removed.logits(), np.where(small[0], -was.logits(), was.logits()))
    assert removed.confidence == was.confidence


@pytest.mark.parametrize("preset", [None, RECIST])
def test_without_that_rule_all_pieces_stay(preset: object) -> None:
    small, large = small_and_large(3)
    result = result_of({1: small | large})
    assert finish(result, preset) is result


def test_pieces_are_told_apart_at_the_size_of_the_slice() -> None:
    logits = np.full((4, 4), -3, np.float32)
    logits[0, 0], logits[3, 1:4] = 5, 5
    coarse = SliceMask(0, 1, Segmented(logits, 0.5, 5.0, np.zeros(1, np.float32)), SHAPE[1:])
    kept = coarse.mask()
    kept[:6] = False
    after = shaped(coarse, kept)
    assert after.logits().shape == SHAPE[1:]
    np.testing.assert_array_equal(after.mask(), kept)


def test_an_object_that_is_nowhere_stays_nowhere() -> None:
    assert not finish(result_of({1: np.zeros(SHAPE, bool)}), LESION).mask(1).any()


DEPTH = 5
PIXELS = np.random.default_rng(4).integers(0, 256, (DEPTH, 64, 96), dtype=np.uint8)
BOX = Box(slice=2, y=(10, 40), x=(20, 60))


def prompted(preset: str | None) -> tuple[VolumePredictor, SliceMask, FakeBackend]:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    found = add_prompts(predictor, [BOX], 3, PRESETS[preset] if preset else None)
    return predictor, found, backend


def calls(backend: FakeBackend, graph: str) -> list[Call]:
    return [call for call in backend.calls if call.graph == graph]


def run_by_hand(*prompts: Box | Mask) -> tuple[Result, FakeBackend]:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    for prompt in prompts:
        predictor.add(prompt, object_id=3)
    return predictor.propagate(), backend


def same_calls(one: list[Call], other: list[Call]) -> bool:
    return len(one) == len(other) and all(
        a.graph == b.graph and all(np.array_equal(a.inputs[k], b.inputs[k]) for k in b.inputs)
        for a, b in zip(one, other, strict=True)
    )


def test_recist_prompts_again_with_the_first_answers_mask() -> None:
    _, found, backend = prompted("medsam2_recist")
    first, again = calls(backend, "mask_decoder")
    assert first.inputs["point_labels"].tolist() == [[2, 3]]
    assert not first.inputs["has_mask_input"].any()
    assert again.inputs["point_labels"].tolist() == [[-1]], "a mask prompt has no points"
    assert again.inputs["has_mask_input"].all()
    assert again.inputs["mask_input"].any()
    assert found.confidence == 1.0, "as of a mask that the user gave"
    assert found.segmented.logits.max() == -found.segmented.logits.min() == 10


def test_recists_memory_is_that_of_a_mask_prompt_at_the_volumes_resolution() -> None:
    predictor, _, backend = prompted("medsam2_recist")
    result = predictor.propagate()
    _, first, _ = prompted(None)
    mask = first.mask()
    assert mask.shape == PIXELS.shape[1:]
    assert 0 < mask.sum() < mask.size
    by_hand, hand_backend = run_by_hand(BOX, Mask(slice=2, mask=mask))
    for graph in ("mask_decoder", "memory_encoder"):
        assert same_calls(calls(backend, graph), calls(hand_backend, graph))
    only_mask, mask_backend = run_by_hand(Mask(slice=2, mask=mask))
    stored = calls(backend, "memory_encoder")[0]
    assert stored.inputs["binarize"].all()
    assert same_calls([stored], calls(mask_backend, "memory_encoder")[:1])
    plain, plain_backend = run_by_hand(BOX)
    assert not same_calls([stored], calls(plain_backend, "memory_encoder")[:1])
    for i in range(DEPTH):
        np.testing.assert_array_equal(result.slices[3][i].logits(), by_hand.slices[3][i].logits())
        np.testing.assert_array_equal(result.slices[3][i].logits(), only_mask.slices[3][i].logits())
    assert (result.mask(3) != plain.mask(3)).any()


@pytest.mark.parametrize("preset", [None, "medsam2_lesion"])
def test_the_others_prompt_once(preset: str | None) -> None:
    _, found, backend = prompted(preset)
    assert len(calls(backend, "mask_decoder")) == 1
    assert found.segmented.quality is not None


def test_a_mask_prompt_is_not_given_again() -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    inside = np.zeros(PIXELS.shape[1:], bool)
    inside[9:30, 17:51] = True
    add_prompts(predictor, [Mask(slice=1, mask=inside)], 1, RECIST)
    assert len(calls(backend, "mask_decoder")) == 1
    predictor.undo()
    with pytest.raises(ValueError, match="no prompt yet"):
        predictor.propagate()


def test_points_are_given_again_as_a_mask_too() -> None:
    model, backend = fake_model(TELLING)
    predictor = VolumePredictor(model)
    predictor.set_volume(PIXELS)
    points = [Point(slice=1, y=9, x=9), Point(slice=1, y=30, x=70, positive=False)]
    add_prompts(predictor, points, 1, RECIST)
    assert [c.inputs["has_mask_input"].item() for c in calls(backend, "mask_decoder")] == [0, 1]


def test_each_preset_segments_a_phantom() -> None:
    phantom = make_phantom((5, 64, 64), seed=3)
    truth = phantom.labels == 1
    model = load(threads=1).plain()
    for preset in PRESETS.values():
        predictor = VolumePredictor(model)
        predictor.set_volume(phantom.pixels)
        add_prompts(predictor, [phantom.box(2, 1)], 1, preset)
        found = finish(predictor.propagate(), preset).mask(1)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7


def published(volume: np.ndarray, lower: float, upper: float, size: int) -> np.ndarray:
    """From Hounsfield units to the network's input as both scripts go, in float64."""
    x = np.clip(volume.astype(np.float64), lower, upper)
    x = (x - x.min()) / (x.max() - x.min()) * 255.0
    pixels = x.astype(np.uint8)
    out = np.zeros((len(pixels), 3, size, size))
    for i, plane in enumerate(pixels):
        colour = Image.fromarray(plane).convert("RGB").resize((size, size))
        out[i] = np.asarray(colour).transpose(2, 0, 1)
    mean, std = (np.array(v, np.float64)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return ((out / 255.0 - mean) / std).astype(np.float32)


@pytest.mark.parametrize("window", ["abdomen", "lung", "bone", "60/350.5"])
def test_intensities_reach_the_network_as_published(window: str) -> None:
    rng = np.random.default_rng(8)
    field = rng.normal(0, 1, (3, 1, 9, 11)).repeat(17, 2).repeat(13, 3)
    volume = (-300 + 500 * field[:, 0] + rng.normal(0, 40, (3, 153, 143))).astype(np.int16)
    width, level = CT_PRESETS.get(window, (350.5, 60.0))
    pixels, used = apply_window(Volume.from_array(volume, modality="CT"), window)
    assert (used.lower, used.upper) == (level - width / 2, level + width / 2)
    ours = preprocess(pixels, 512, PIXEL_MEAN, PIXEL_STD)
    wanted = published(volume, level - width / 2, level + width / 2, 512)
    assert np.ptp(wanted) > 3
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)


def test_a_volume_that_does_not_fill_its_window_is_stretched_as_published() -> None:
    volume = np.random.default_rng(9).integers(-20, 90, (2, 40, 50)).astype(np.int16)
    pixels, _ = apply_window(Volume.from_array(volume, modality="CT"), "abdomen")
    assert (pixels.min(), pixels.max()) == (0, 255)
    ours = preprocess(pixels, 512, PIXEL_MEAN, PIXEL_STD)
    np.testing.assert_allclose(ours, published(volume, -160, 240, 512), rtol=0, atol=1e-6)
