"""A model without weights, for tests of host logic in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.bundle.contract import MASK_SCALE, PIXEL_MEAN, PIXEL_STD, ModelNumbers
from runtime.model import Model
from tests.fake_backend import Answer, FakeBackend

FAKE_NUMBERS = ModelNumbers(
    "fake",
    kind="volume",
    profile="sam2",
    image_size=64,
    prompt_size=64,
    grid=4,
    d_model=8,
    has_high_res=True,
    mem_dim=4,
    memory_tokens=16,
    keys_per_memory=16,
    num_maskmem=7,
    max_obj_ptrs=16,
)
IMAGE_NUMBERS = ModelNumbers(
    "still", "image", "sam", image_size=64, prompt_size=64, grid=4, d_model=8, has_high_res=False
)
"""Of a network that segments single images."""

NO_EMBEDDING = 0.25  # the mark of features that did not pass memory attention

Inputs = Mapping[str, np.ndarray]


def fake_model(
    answers: Mapping[str, Answer] | None = None,
    numbers: ModelNumbers = FAKE_NUMBERS,
    at_once: int = 1,
) -> tuple[Model, FakeBackend]:
    """A model on the fake back end, whose engines want so many rows at once, and that back end."""
    backend = FakeBackend(numbers, answers, at_once)
    constants = {
        "mask_downsample_weight": np.full((MASK_SCALE, MASK_SCALE), 0.0625, np.float32),
        "mask_downsample_bias": np.float32(0.0),
        "no_obj_ptr": np.full(numbers.d_model, -1.0, np.float32),
    }
    return Model(numbers, backend, constants), backend


def encode(inputs: Inputs) -> Inputs:
    """The grey of a slice, which also turns the direction of its embedding."""
    level = inputs["image"][:, :1, :1, :1]
    cells = FAKE_NUMBERS.grid
    features = np.ones((len(level), FAKE_NUMBERS.d_model, cells, cells), np.float32)
    features[:, :1] = level
    return {
        "vision_features": features,
        "attended_features": features.reshape(len(level), FAKE_NUMBERS.d_model, -1).swapaxes(1, 2),
        "projected_features": features,
    }


def condition(inputs: Inputs) -> Inputs:
    """Everything that is read leaves a mark: memories and pointers, their codes and their weights."""
    memory = inputs["memory"][..., 0, 0] * (1 + inputs["memory_time"])
    pointers = inputs["obj_ptrs"][..., 0] * (1 + inputs["obj_ptr_pos"])
    mark = _mean(memory, inputs["memory_weight"]) + _mean(pointers, inputs["obj_ptr_weight"])
    tokens = inputs["attended_features"].swapaxes(1, 2)
    features = tokens.reshape(*tokens.shape[:2], FAKE_NUMBERS.grid, FAKE_NUMBERS.grid).copy()
    features[:, 0] += (0.1 * mark).astype(np.float32)[:, None, None]
    return {"conditioned_features": features}


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of rows, added up one by one, so that padding of weight 0 changes no bit."""
    total = np.cumsum(weights, axis=1, dtype=np.float64)[:, -1]
    return np.cumsum(values * weights, axis=1, dtype=np.float64)[:, -1] / np.maximum(total, 1)


def decode(inputs: Inputs) -> Inputs:
    """A square as high as the features say, moved by prompts and by the mask before."""
    level = inputs["features"][:, :1, :1, :1] + 3 + inputs["point_coords"].mean() / 64
    level = level + NO_EMBEDDING * inputs["add_no_mem_embed"][:, None, None, None]
    before = inputs["mask_input"].mean((1, 2, 3)) * inputs["has_mask_input"]
    level = level + 0.1 * before[:, None, None, None]
    side = FAKE_NUMBERS.low_res
    masks = np.full((len(level), 1, side, side), -4.0, np.float32)
    masks[..., 4:12, 4:12] = level
    flat = level[:, 0, 0]
    return {
        "low_res_masks": masks,
        "obj_ptr": flat,
        "ious": 0.4 + 0.5 * np.abs(np.sin(9 * flat[:, 0])),
    }


def memorise(inputs: Inputs) -> Inputs:
    """The height of the mask, which also turns the direction of the memory."""
    masks = inputs["low_res_masks"]
    memory = np.ones((len(masks), FAKE_NUMBERS.memory_tokens, FAKE_NUMBERS.mem_dim), np.float32)
    memory[..., 0] = masks.max((1, 2, 3))[:, None] + NO_EMBEDDING * inputs["binarize"][:, None]
    return {"memory": memory}


TELLING: Mapping[str, Answer] = {
    "image_encoder": encode,
    "memory_attention": condition,
    "mask_decoder": decode,
    "memory_encoder": memorise,
}
"""Answers in which whatever was asked leaves its mark, so that a wrong question changes the masks."""


def encode_sight(inputs: Inputs) -> Inputs:
    """A slice's grey tells how sure the network is of it: 0 is absent, 250 is certain."""
    answers = dict(encode(inputs))
    grey = 255 * (inputs["image"][:, 0, 0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0])
    features = answers["vision_features"].copy()
    features[:, 1] = (np.rint(grey) / 250)[:, None, None]
    tokens = features.reshape(*features.shape[:2], -1).swapaxes(1, 2)
    return {
        "vision_features": features,
        "attended_features": tokens,
        "projected_features": features,
    }


def decode_sight(inputs: Inputs) -> Inputs:
    """As sure as the slice's grey says."""
    sure = inputs["features"][:, 1, 0, 0]
    score = np.where(sure > 0.02, 5.0, -5.0).astype(np.float32)
    return {**decode(inputs), "ious": sure, "object_score_logits": score}


AS_SURE_AS_GREY: Mapping[str, Answer] = {
    **TELLING,
    "image_encoder": encode_sight,
    "mask_decoder": decode_sight,
}
"""Answers that also tell where the object is, and how surely, from the greys of slices."""


BRIGHT = 100  # grey from which a pixel belongs to what SEEING draws


def see(inputs: Inputs) -> Inputs:
    """`encode`, and where the slice is bright."""
    red = inputs["image"][:, :1] * PIXEL_STD[0] + PIXEL_MEAN[0]
    low, cells = FAKE_NUMBERS.low_res, FAKE_NUMBERS.image_size // FAKE_NUMBERS.low_res
    pooled = red.reshape(len(red), 1, low, cells, low, cells).mean((3, 5))
    return {**encode(inputs), "high_res_feats_0": pooled.astype(np.float32)}


def draw(inputs: Inputs) -> Inputs:
    """Whatever is bright, as high as `decode`'s square, and sure."""
    level = decode(inputs)["low_res_masks"][..., 4:5, 4:5]
    bright = inputs["high_res_feats_0"][:, :1] > BRIGHT / 255
    is_there = bright.any((1, 2, 3))
    return {
        "low_res_masks": np.where(bright, 2 + np.abs(level), -4.0).astype(np.float32),
        "obj_ptr": level[:, 0, 0],
        "ious": np.full(len(level), 0.9, np.float32),
        "object_score_logits": np.where(is_there, 5.0, -5.0).astype(np.float32),
    }


SEEING: Mapping[str, Answer] = {**TELLING, "image_encoder": see, "mask_decoder": draw}
"""The same of a network that finds whatever is bright in what it is shown."""
