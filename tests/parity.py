"""One task run by the official predictor and by this runtime, on the same weights and pixels."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.official import official_state
from runtime.model import Model
from runtime.predictors import VolumePredictor
from runtime.prompts.prompts import Box, Mask, Point, Prompt

Calls = Mapping[int, Sequence[Sequence[Prompt]]]
Tracks = dict[tuple[int, int], np.ndarray]
"""(object, slice) to logits."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Task:
    """Prompts by object, each inner list one call; direction +1 or -1.

    Each round of `later` corrects what a propagation has found, and another propagation follows.
    """

    prompts: Calls
    direction: int = 1
    num_slices: int = 24
    later: Sequence[Calls] = ()


def volume(num_slices: int, height: int = 96, width: int = 112, seed: int = 0) -> np.ndarray:
    """Blobs that drift and change size from slice to slice, uint8 (z, y, x)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[:num_slices, :height, :width]
    out = 60 + 25 * np.sin(y / 7.0) * np.cos(x / 11.0 + z / 5.0)
    for level, cy, cx, radius in ((90, 0.4, 0.4, 16), (-50, 0.6, 0.7, 12), (60, 0.7, 0.3, 9)):
        away = (y - cy * height - 0.6 * z) ** 2 + (x - cx * width + 0.4 * z) ** 2
        out = out + level * (away < (radius * (1 - 0.5 * z / num_slices)) ** 2)
    out = out + rng.normal(0, 6, out.shape)
    return out.clip(0, 255).astype(np.uint8)


def encode_once(predictor: torch.nn.Module) -> torch.nn.Module:
    """The same official predictor, which encodes an image only once: tasks of a module have their slices in common.

    What it answers is a copy each time. Its weights must not change any more.
    """
    encode, seen = predictor.forward_image, {}

    def forward_image(image: torch.Tensor) -> dict[str, Any]:
        key = hashlib.sha256(image.numpy()).digest()
        if key not in seen:
            seen[key] = encode(image)
        return copy.deepcopy(seen[key])

    predictor.forward_image = forward_image
    return predictor


@torch.no_grad()
def run_official(
    predictor: torch.nn.Module, pixels: np.ndarray, task: Task
) -> tuple[Tracks, Tracks]:
    """Low-resolution and full-size logits of `SAM2VideoPredictor`, in one direction, from a fresh state."""
    frames, is_reverse = _frames(pixels, predictor.image_size), task.direction < 0
    state = official_state(predictor, frames, *pixels.shape[1:])
    _add_all(predictor, state, task.prompts)
    for calls in task.later:
        for _ in predictor.propagate_in_video(state, reverse=is_reverse):
            pass
        _add_all(predictor, state, calls)
        _forget_tracked(state)
    low, full = {}, {}
    for index, ids, masks in predictor.propagate_in_video(state, reverse=is_reverse):
        for i, object_id in enumerate(ids):
            outputs = state["output_dict_per_obj"][state["obj_id_to_idx"][object_id]]
            found = (
                outputs["cond_frame_outputs"].get(index) or outputs["non_cond_frame_outputs"][index]
            )
            low[object_id, index] = found["pred_masks"][0, 0].numpy()
            full[object_id, index] = masks[i, 0].numpy()
    return low, full


def run_ours(model: Model, pixels: np.ndarray, task: Task) -> tuple[Tracks, Tracks]:
    """The same from `VolumePredictor`."""
    predictor = VolumePredictor(model)
    predictor.set_volume(pixels)
    for object_id, prompts in _each(task.prompts):
        predictor.add(*prompts, object_id=object_id)
    for calls in task.later:
        predictor.propagate(directions=(task.direction,))
        for object_id, prompts in _each(calls):
            predictor.add(*prompts, object_id=object_id)
    low, full = {}, {}
    first = min(
        p.slice for calls in (task.prompts, *task.later) for _, c in _each(calls) for p in c
    )
    for found in predictor.stream(directions=(task.direction,)):
        if (
            found.slice - first
        ) * task.direction >= 0:  # upstream leaves out what lies behind its start
            low[found.object_id, found.slice] = found.segmented.logits
            full[found.object_id, found.slice] = found.logits()
    return low, full


def worst_difference(ours: Tracks, official: Tracks) -> float:
    """Largest error over all slices, each relative to the largest magnitude on its slice."""
    assert ours.keys() == official.keys()
    differences = [
        np.abs(ours[key] - official[key]).max() / np.abs(official[key]).max() for key in official
    ]
    return float(np.max(differences))  # NaN if any is, which is below nothing


def same_masks(ours: Tracks, official: Tracks, tolerance: float) -> bool:
    """Whether masks agree, pixels within `tolerance` of the largest magnitude from zero aside."""
    for key, truth in official.items():
        differ = (ours[key] > 0) != (truth > 0)
        if not np.abs(truth[differ]).max(initial=0.0) <= tolerance * np.abs(truth).max():
            return False
        if not np.isfinite(ours[key]).all():
            return False
    return True


def _frames(pixels: np.ndarray, size: int) -> torch.Tensor:
    images = [Image.fromarray(plane).convert("RGB").resize((size, size)) for plane in pixels]
    frames = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (frames / 255.0 - mean) / std


def _each(calls: Calls) -> Iterator[tuple[int, Sequence[Prompt]]]:
    for object_id, of_object in calls.items():
        for prompts in of_object:
            yield object_id, prompts


def _add_all(predictor: torch.nn.Module, state: dict[str, Any], calls: Calls) -> None:
    for object_id, prompts in _each(calls):
        _add(predictor, state, object_id, prompts)


def _forget_tracked(state: dict[str, Any]) -> None:
    """Leave the next run only prompted slices to read, as ours starts an object anew once its prompts change.

    Every run starts at the lowest prompted slice. After a correction in reverse, upstream does not visit the slices
    above that one again and would read them as the run before has left them.
    """
    for outputs in state["output_dict_per_obj"].values():
        outputs["non_cond_frame_outputs"].clear()


def _add(
    predictor: torch.nn.Module, state: dict[str, Any], object_id: int, prompts: Sequence[Prompt]
) -> None:
    first = prompts[0]
    if isinstance(first, Mask):
        predictor.add_new_mask(state, first.slice, object_id, first.mask)
        return
    points = [p for p in prompts if isinstance(p, Point)]
    box = next((p for p in prompts if isinstance(p, Box)), None)
    predictor.add_new_points_or_box(
        state,
        first.slice,
        object_id,
        points=np.array([[p.x, p.y] for p in points], np.float32) if points else None,
        labels=np.array([p.positive for p in points], np.int32) if points else None,
        clear_old_points=box is not None,
        box=None if box is None else np.array([box.x[0], box.y[0], box.x[1] - 1, box.y[1] - 1]),
    )
