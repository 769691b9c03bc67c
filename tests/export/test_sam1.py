"""SAM 1, MedSAM and LiteMedSAM against upstream's classes, part by part and from pixels to masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from export.exact.sam1_encoder import WindowIndex
from export.graphs import graph_module
from export.model.network import network
from export.model.sam1 import Sam1
from export.random_weights import random_state
from export.torch_backend import torch_model
from export.variants import VARIANTS, Variant
from kernels.area_resize import area_resize
from kernels.image_profiles import longest_side
from runtime.bundle.contract import LABEL_PAD
from runtime.predictors import ImagePredictor
from runtime.predictors.slicewise import GROWN_BY, SlicewisePredictor
from runtime.prompts.prompts import Box, Point, Prompt
from tests.graph_inputs import relative_error
from tests.parity import volume
from tests.variants import TOY_LITEMEDSAM, TOY_MEDSAM, TOY_SAM

if not (find_spec("segment_anything") and find_spec("timm")):
    pytest.skip("make test installs segment-anything and timm", allow_module_level=True)

from benchmarks.speed.official_sam1 import load_official, official_sam1, sam_predictor

TOLERANCE = 2e-5
TOYS = (TOY_SAM, TOY_LITEMEDSAM)
PARAMETERS = {
    "sam_vit_b": 93_735_472,
    "sam_vit_l": 312_342_832,
    "sam_vit_h": 641_090_608,
    "medsam_vit_b": 93_735_472,
    "litemedsam": 9_791_300,
}

Pair = tuple[Sam1, nn.Module]


@pytest.fixture(scope="module", params=TOYS, ids=lambda v: v.name)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param)


def make_pair(variant: Variant) -> Pair:
    ours, theirs = network(variant), official_sam1(variant)
    state = random_state(ours, seed=7)
    ours.load_state_dict(state, strict=True)
    load_official(theirs, state)
    assert isinstance(ours, Sam1)
    return ours, theirs


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_model_has_upstreams_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = network(VARIANTS[name])
    assert sum(p.numel() for p in ours.parameters()) == PARAMETERS[name]
    if name == "litemedsam":  # timm's names are others: its toy is loaded strictly
        return
    with torch.device("meta"):
        theirs = official_sam1(VARIANTS[name])
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


def images_for(model: Sam1) -> Tensor:
    size = model.numbers.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_features_are_upstreams_plain_and_exact(pair: Pair) -> None:
    ours, theirs = pair
    images = images_for(ours)
    wanted = theirs.image_encoder(images)
    assert relative_error(ours.encode(images), wanted) < TOLERANCE
    assert relative_error(graph_module(ours, "image_encoder")(images), wanted) < TOLERANCE


def test_every_cell_is_in_one_window_and_comes_back() -> None:
    index = WindowIndex(grid=8, window=6)
    tokens = torch.arange(1, 65).float().reshape(1, 64, 1)
    cut = index.cut(F.pad(tokens, (0, 0, 0, 1)))
    assert cut.shape == (4, 36, 1)
    assert (cut == 0).sum() == 4 * 36 - 64, "the rest is padding"
    assert torch.equal(index.join(cut), tokens)


KINDS = {
    "click": ([1], False),
    "clicks": ([1, 0], False),
    "box": ([], True),
    "box and clicks": ([0, 1, 1], True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multimask", [False, True], ids=["single", "best of three"])
@pytest.mark.parametrize("with_mask", [False, True], ids=["first", "with previous logits"])
def test_masks_are_upstreams(pair: Pair, kind: str, multimask: bool, with_mask: bool) -> None:
    ours, theirs = pair
    labels, has_box = KINDS[kind]
    size, low_res = ours.numbers.image_size, ours.numbers.low_res
    generator = torch.Generator().manual_seed(len(kind))
    features = torch.randn(1, 64, *(ours.numbers.grid,) * 2, generator=generator)
    points = size * torch.rand(1, len(labels), 2, generator=generator)
    box = size * torch.rand(1, 4, generator=generator) if has_box else None
    mask = 6 * torch.randn(1, 1, low_res, low_res, generator=generator)
    given = torch.tensor([labels], dtype=torch.int64)
    encoder = theirs.prompt_encoder
    sparse, dense = encoder((points, given) if labels else None, box, mask if with_mask else None)
    masks, ious = theirs.mask_decoder(features, encoder.get_dense_pe(), sparse, dense, multimask)
    best = int(ious[0].argmax())
    more, kinds = ([0.0, 0.0], [LABEL_PAD]) if box is None else (box[0].tolist(), [2, 3])
    found, iou = ours.decode(
        features,
        torch.cat([points, torch.tensor(more).reshape(1, -1, 2)], 1),
        torch.cat([given, torch.tensor([kinds])], 1),
        mask,
        torch.tensor([with_mask]),
        torch.tensor([multimask]),
    )
    assert relative_error(found[0, 0], masks[0, best]) < TOLERANCE
    assert iou[0].item() == pytest.approx(ious[0, best].item(), abs=1e-4)


def test_rows_of_a_batch_may_have_masks_and_choices_of_their_own(pair: Pair) -> None:
    ours, _ = pair
    generator = torch.Generator().manual_seed(2)
    side, low_res = ours.numbers.grid, ours.numbers.low_res
    inputs = (
        torch.randn(4, 64, side, side, generator=generator),
        40 * torch.rand(4, 3, 2, generator=generator),
        torch.tensor([[1, 0, -1], [2, 3, 1], [0, -1, -1], [1, 1, 1]]),
        torch.randn(4, 1, low_res, low_res, generator=generator),
        torch.tensor([True, False, True, False]),
        torch.tensor([True, False, False, True]),
    )
    together = ours.decode(*inputs)
    for row in range(4):
        alone = ours.decode(*(x[row : row + 1] for x in inputs))
        for one, all_rows in zip(alone, together, strict=True):
            assert relative_error(one[0], all_rows[row]) < TOLERANCE


# From pixels to masks. Shapes are not square, and larger and smaller than the network's square.
SHAPES = [(200, 150), (48, 80), (90, 90, 3)]
FLOWS: dict[str, Sequence[Prompt]] = {
    "box at the border": [Box(y=(0, 30), x=(20, 80))],
    "box and clicks": [
        Box(y=(5, 40), x=(10, 70)),
        Point(y=12, x=33),
        Point(y=3, x=3, positive=False),
    ],
    "click": [Point(y=40, x=60)],
    "clicks": [Point(y=40, x=60), Point(y=10, x=20, positive=False)],
}


def pixels_of(shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(4).normal(0, 15, shape)
    ramp = np.linspace(40, 200, shape[1]).reshape(1, -1, *(1,) * (len(shape) - 2))
    return (ramp + noise).clip(0, 255).astype(np.uint8)


def in_colour(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, :, None], 3, -1) if pixels.ndim == 2 else pixels


def as_upstream(prompts: Sequence[Prompt]) -> dict[str, Any]:
    points = [p for p in prompts if isinstance(p, Point)]
    boxes = [p for p in prompts if isinstance(p, Box)]
    return {
        "point_coords": np.array([[p.x, p.y] for p in points]) if points else None,
        "point_labels": np.array([p.positive for p in points], int) if points else None,
        "box": np.array([boxes[0].x[0], boxes[0].y[0], boxes[0].x[1] - 1, boxes[0].y[1] - 1])
        if boxes
        else None,
    }


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert relative_error(found, wanted) < 1e-4
    differ = (found > 0) != (wanted > 0)
    assert np.abs(wanted[differ]).max(initial=0) <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sam_from_pixels_to_masks(shape: tuple[int, ...]) -> None:
    ours, theirs = make_pair(TOY_SAM)
    pixels = pixels_of(shape)
    predictor, official = ImagePredictor(torch_model(ours)), sam_predictor(theirs)
    predictor.set_image(pixels)
    height, width = longest_side(shape[:2], TOY_SAM.image_size)
    resized = Image.fromarray(in_colour(pixels)).resize((width, height), Image.Resampling.BILINEAR)
    tensor = torch.as_tensor(np.array(resized)).permute(2, 0, 1)[None]
    official.set_torch_image(tensor, shape[:2])
    for prompts in FLOWS.values():
        predictor.reset()
        found = predictor.predict(*prompts)
        asked = as_upstream(prompts)
        is_open = len(prompts) == 1 and isinstance(prompts[0], Point)
        masks, ious, low_res = official.predict(
            **asked, multimask_output=is_open, return_logits=True
        )
        best = int(ious.argmax())
        assert_same(found.logits(), masks[best])
        assert found.confidence == pytest.approx(min(max(ious[best], 0), 1), abs=1e-4)
        # A click corrects it, as upstream's notebook has it.
        again = Point(y=20, x=15, positive=False)
        found = predictor.predict(again)
        masks, *_ = official.predict(
            **as_upstream([*prompts, again]),
            mask_input=low_res[best : best + 1],
            multimask_output=False,
            return_logits=True,
        )
        assert_same(found.logits(), masks[0])


def answer(theirs: nn.Module, image: np.ndarray, box: np.ndarray) -> Tensor:
    """Low-resolution logits (1, 1, 4 G, 4 G) of one box, which MedSAM's scripts make alike."""
    tensor = torch.tensor(image).float().permute(2, 0, 1)[None]
    features = theirs.image_encoder(tensor)
    box_torch = torch.as_tensor(box[None], dtype=torch.float)[:, None]
    sparse, dense = theirs.prompt_encoder(points=None, boxes=box_torch, masks=None)
    pe = theirs.prompt_encoder.get_dense_pe()
    return theirs.mask_decoder(features, pe, sparse, dense, multimask_output=False)[0]


def stretched(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / np.clip(image.max() - image.min(), a_min=1e-8, a_max=None)


def enlarged(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, shape[:2], mode="bilinear", align_corners=False)


def medsam_script(theirs: nn.Module, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """MedSAM_Inference.py (bowang-lab/MedSAM d71e8a1): probabilities."""
    transform = pytest.importorskip("skimage.transform")
    size, (height, width) = TOY_MEDSAM.image_size, pixels.shape[:2]
    resized = transform.resize(
        in_colour(pixels), (size, size), order=3, preserve_range=True, anti_aliasing=True
    ).astype(np.uint8)
    scaled = box / np.array([width, height, width, height]) * size
    low_res = answer(theirs, stretched(resized), scaled)
    return enlarged(low_res.sigmoid(), pixels.shape)[0, 0].numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_medsam_from_pixels_to_masks(shape: tuple[int, ...]) -> None:
    ours, theirs = make_pair(TOY_MEDSAM)
    pixels = pixels_of(shape)
    predictor = ImagePredictor(torch_model(ours))
    predictor.set_image(pixels)
    for y, x in (((0, 30), (20, 80)), ((5, 40), (11, 70))):
        found = predictor.predict(Box(y=y, x=x)).logits()
        wanted = medsam_script(theirs, pixels, np.array([x[0], y[0], x[1] - 1, y[1] - 1]))
        is_sure = np.abs(wanted - 0.5) > 1e-4
        np.testing.assert_array_equal((found > 0)[is_sure], (wanted > 0.5)[is_sure])
        np.testing.assert_allclose(1 / (1 + np.exp(-found)), wanted, atol=2e-4)
        assert 0.02 < (wanted > 0.5).mean() < 0.98


def lite_square(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """An image as LiteMedSAM's script prepares it (CVPR24_LiteMedSAM_infer.py, b0fab47), and its new shape."""
    cv2 = pytest.importorskip("cv2")
    height, width = longest_side(pixels.shape[:2], TOY_LITEMEDSAM.image_size)
    resized = cv2.resize(in_colour(pixels), (width, height), interpolation=cv2.INTER_AREA)
    size = TOY_LITEMEDSAM.image_size
    padded = np.pad(stretched(resized), ((0, size - height), (0, size - width), (0, 0)))
    return padded, (height, width)


def lite_script(theirs: nn.Module, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Probabilities of a box in the network's pixels."""
    square, (height, width) = lite_square(pixels)
    low_res = answer(theirs, square, box)[..., :height, :width]
    return enlarged(low_res, pixels.shape).sigmoid()[0, 0].numpy()


def lite_box(box: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
    ratio = TOY_LITEMEDSAM.image_size / max(shape[:2])
    return np.array([int(value * ratio) for value in box])


@pytest.mark.parametrize("shape", [(160, 120), (48, 70), (80, 66, 3)], ids=str)
def test_litemedsam_from_pixels_to_masks(shape: tuple[int, ...]) -> None:
    ours, theirs = make_pair(TOY_LITEMEDSAM)
    pixels = pixels_of(shape)
    predictor = ImagePredictor(torch_model(ours))
    predictor.set_image(pixels)
    for y, x in (((0, 30), (20, 63)), ((5, 40), (11, 60))):
        found = predictor.predict(Box(y=y, x=x)).logits()
        box = lite_box([x[0], y[0], x[1] - 1, y[1] - 1], shape)
        wanted = lite_script(theirs, pixels, box)
        is_sure = np.abs(wanted - 0.5) > 1e-4
        np.testing.assert_array_equal((found > 0)[is_sure], (wanted > 0.5)[is_sure])


def lite_volume_script(
    theirs: nn.Module, pixels: np.ndarray, box: Sequence[float], middle: int, z: tuple[int, int]
) -> np.ndarray:
    """The script's masks of a volume, upwards from the middle slice and then down; of an object whose label is 1."""
    size, shape = TOY_LITEMEDSAM.image_size, pixels.shape[1:]
    masks = np.zeros(pixels.shape, np.uint8)
    for order, before in (
        (range(middle, z[1]), -1),
        (range(middle - 1, z[0] - 1, -1), 1),
    ):
        for index in order:
            asked = lite_box(box, shape)
            if index != middle:
                height, width = longest_side(shape, size)
                mask = area_resize(masks[index + before], (height, width))
                rows, columns = np.where(mask > 0)
                if len(rows):
                    low = [columns.min() - GROWN_BY, rows.min() - GROWN_BY]
                    high = [columns.max() + GROWN_BY, rows.max() + GROWN_BY]
                    asked = np.array([*np.maximum(low, 0), *np.minimum(high, size)])
            masks[index] = lite_script(theirs, pixels[index], asked) > 0.5
    return masks


def test_a_box_is_followed_through_a_volume_as_litemedsams_script_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.predictors.slicewise.TRACKED_SIDE", TOY_LITEMEDSAM.image_size)
    ours, theirs = make_pair(TOY_LITEMEDSAM)
    pixels = volume(7, 60, 70)
    predictor = SlicewisePredictor(torch_model(ours))
    predictor.set_volume(pixels, "none")
    predictor.add(Box(slice=3, y=(14, 35), x=(20, 41)))
    result = predictor.propagate((1, 7))
    wanted = lite_volume_script(theirs, pixels, [20, 14, 40, 34], 3, (1, 7))
    assert predictor.num_encodings == 6
    assert 0.01 < wanted[1:].mean() < 0.9
    assert (result.mask() != wanted).mean() < 1e-3
    # Without what comes before, slices would be answered otherwise.
    alone = lite_script(theirs, pixels[6], lite_box([20, 14, 40, 34], (60, 70))) > 0.5
    assert (alone != wanted[6]).mean() > 1e-3


@pytest.mark.parametrize("variant", [TOY_MEDSAM, TOY_LITEMEDSAM], ids=lambda v: v.name)
def test_another_profile_would_give_other_masks(variant: Variant) -> None:
    """What the flows above prove, they prove of this profile alone."""
    ours = network(variant)
    ours.load_state_dict(random_state(ours, seed=7), strict=True)
    logits = []
    for profile in (variant.profile, "sam"):
        model = torch_model(ours)
        model.numbers = replace(model.numbers, profile=profile)
        predictor = ImagePredictor(model)
        predictor.set_image(pixels_of((200, 150)))
        logits.append(predictor.predict(Box(y=(10, 90), x=(20, 120))).logits())
    assert relative_error(*logits) > 0.02
