"""The runtime's loop over a sequence of slices, with gradients, and what a slice costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.phantoms.shapes import Rng
from benchmarks.training.corrections import draw_corrections
from benchmarks.training.samples import TrainingBatch
from export.model.sam2 import Sam2
from runtime.bundle.contract import (
    LABEL_PAD,
    LABEL_POSITIVE,
    NO_OBJ_SCORE,
    PIXEL_MEAN,
    PIXEL_STD,
    PREVIOUS_LOGIT_LIMIT,
    ModelNumbers,
)

FOCAL_WEIGHT, ABSENT_WEIGHT = 20.0, 2.0
# Upstream has none: what is drawn where nothing is would then grow through the memory.
ABSENT_MASK_WEIGHT = 0.5
REACH = 15  # pointers are normalised as in long volumes
Heads = tuple[Tensor, Tensor, Tensor, Tensor]  # masks, ious, tokens, object score


def normalise(images: Tensor) -> Tensor:
    """uint8 (n, S, S) to the encoder's input (n, 3, S, S)."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    return (images.float()[:, None] / 255 - mean) / std


@dataclass(slots=True)
class Memory:
    """What later slices of a sequence read."""

    memories: list[Tensor]
    pointers: list[Tensor]
    is_flow: Tensor

    def read(self, step: int, numbers: ModelNumbers) -> dict[str, Tensor]:
        """Inputs of `Sam2.condition` for a step; the prompted slice is number 0. Flows have no temporal code."""
        num_maskmem = numbers.num_maskmem
        recent = range(max(1, step - num_maskmem + 1), step)
        times = [num_maskmem - 1, *(step - earlier - 1 for earlier in recent)]
        memory = torch.stack([self.memories[i] for i in (0, *recent)], 1)
        pointers = torch.stack(self.pointers[:step], 1)
        is_flow = self.is_flow[:, None]
        distance = torch.tensor([(step - earlier) / REACH for earlier in range(step)])
        return {
            "memory": memory,
            "memory_time": torch.where(is_flow, numbers.no_time, torch.tensor(times)),
            "memory_weight": torch.ones(memory.shape[:2]),
            "obj_ptrs": pointers,
            "obj_ptr_pos": torch.where(is_flow, 0.0, distance),
            "obj_ptr_weight": torch.ones(pointers.shape[:2]),
        }


def sequence_loss(
    model: Sam2, batch: TrainingBatch, kind: str, teacher: float, corrected: float
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over a batch of sequences, and figures of its first and last slices.

    Args:
        model: computes.
        batch: of sequences.
        kind: of the prompt on the first slice: "box", "click", "clicks", "scribble" or "mask".
        teacher: probability that memory holds the truth.
        corrected: share of the slices, the first among them, that get clicks where they are wrong.
    """
    num_slices = batch.images.shape[1]
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    encoded = model.encode(normalise(batch.images.flatten(0, 1)))
    raw, attended, projected, high0, high1 = (
        e.unflatten(0, (-1, num_slices))[batch.sequence] for e in encoded
    )
    past = Memory([], [], batch.is_flow)
    total: Tensor = torch.zeros(())
    figures: dict[str, float] = {}
    for step in range(num_slices):
        truth = batch.truth[:, step]
        features = raw[:, step]
        if step:
            features = model.condition(attended[:, step], **past.read(step, model.numbers))
        high = (high0[:, step], high1[:, step])
        masks, ious, tokens, score = _heads(model, features, high, batch, kind, step)
        loss, dice = slice_loss(masks, ious, score, truth)
        total = total + loss * (0.3 if kind == "mask" and step == 0 else 1.0)
        _note(figures, batch.is_flow, step, num_slices, dice, ious, score, truth)
        if rng.random() < corrected:
            if step == 0:
                features = features + model.no_mem_embed.reshape(1, -1, 1, 1)
            points = _points(batch, kind) if step == 0 else None
            masks, ious, tokens, score = _correct(
                model, features, high, masks, ious, truth, points, rng
            )
            loss, dice = slice_loss(masks, ious, score, truth)
            total = total + loss
            _note_correction(figures, dice, ious, truth)
        best = ious.argmax(1)
        if step + 1 < num_slices:
            rows = torch.arange(len(best))
            use_truth = (torch.rand(len(best)) < teacher) | (kind == "mask" and step == 0)
            _remember(
                model,
                past,
                projected[:, step],
                masks[rows, best],
                tokens[rows, best],
                score,
                truth,
                use_truth,
                step,
            )
    return total / num_slices, figures


def _heads(
    model: Sam2,
    features: Tensor,
    high: tuple[Tensor, Tensor],
    batch: TrainingBatch,
    kind: str,
    step: int,
) -> Heads:
    """Candidate masks (b, n, 4 G, 4 G) with ious, tokens and score: one of a certain prompt, three of a vague one."""
    rows = len(features)
    coords, labels = torch.zeros(rows, 1, 2), torch.full((rows, 1), LABEL_PAD)
    multimask = step > 0 or kind == "click"
    side = features.shape[-1] * 4
    dense, has_dense = torch.zeros(rows, 1, side, side), torch.zeros(rows, dtype=torch.bool)
    if step == 0 and kind == "mask":
        dense, has_dense = (
            model.mask_downsample(batch.truth[:, :1]),
            torch.ones(rows, dtype=torch.bool),
        )
    elif step == 0:
        features = features + model.no_mem_embed.reshape(1, -1, 1, 1)
        coords, labels = _points(batch, kind)
    prompts = model.sam_prompt_encoder
    masks, ious, tokens, score = model.sam_mask_decoder(
        features + prompts.dense(dense, has_dense),
        prompts.image_position(),
        prompts.points(coords, labels),
        high,
    )
    chosen = slice(1, None) if multimask else slice(0, 1)
    return masks[:, chosen], ious[:, chosen], tokens[:, chosen], score


def _points(batch: TrainingBatch, kind: str) -> tuple[Tensor, Tensor]:
    """Coordinates and labels of the prompts of the first slice; none where it is a mask."""
    if kind == "box":
        return batch.boxes, batch.box_labels
    if kind == "scribble":
        return batch.scribbles, torch.full(batch.scribbles.shape[:2], LABEL_POSITIVE)
    count = {"click": 1, "clicks": batch.clicks.shape[1], "mask": 0}[kind]
    return batch.clicks[:, :count], batch.click_labels[:, :count]


def _correct(
    model: Sam2,
    features: Tensor,
    high: tuple[Tensor, Tensor],
    logits: Tensor,
    ious: Tensor,
    truth: Tensor,
    points: tuple[Tensor, Tensor] | None,
    rng: Rng,
) -> Heads:
    """The decoder again, with the best mask so far, the points before and clicks on what is wrong.

    As `runtime.predictors.prompted`: three candidates of one point, else one.
    """
    best = logits[torch.arange(len(logits)), ious.argmax(1)].detach()
    limit = PREVIOUS_LOGIT_LIMIT
    coords, labels = draw_corrections(rng, best, truth, truth.shape[-1])
    if points is not None:
        coords, labels = (torch.cat(pair, 1) for pair in zip(points, (coords, labels), strict=True))
    prompts = model.sam_prompt_encoder
    given = torch.ones(len(best), dtype=torch.bool)
    corrected = model.sam_mask_decoder(
        features + prompts.dense(best.clamp(-limit, limit)[:, None], given),
        prompts.image_position(),
        prompts.points(coords, labels),
        high,
    )
    chosen = slice(1, None) if coords.shape[1] == 1 else slice(0, 1)
    masks, ious, tokens, score = corrected
    return masks[:, chosen], ious[:, chosen], tokens[:, chosen], score


def _remember(
    model: Sam2,
    past: Memory,
    features: Tensor,
    logits: Tensor,
    token: Tensor,
    score: Tensor,
    truth: Tensor,
    use_truth: Tensor,
    step: int,
) -> None:
    present = truth.flatten(1).amax(1) > 0
    true_logits = 20 * F.interpolate(truth[:, None], logits.shape[-2:], mode="area") - 10
    score = torch.where(use_truth, 20.0 * present - 10, score[:, 0].detach())
    logits = torch.where(use_truth[:, None, None, None], true_logits, logits[:, None])
    logits = torch.where((score > 0)[:, None, None, None], logits, NO_OBJ_SCORE)
    prompted = torch.full((len(score),), step == 0)
    past.memories.append(model.memorise(features, logits, score, prompted))
    past.pointers.append(
        torch.where((score > 0)[:, None], model.obj_ptr_proj(token), model.no_obj_ptr)
    )


def slice_loss(masks: Tensor, ious: Tensor, score: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss of the best candidate, error of predicted ious, and the object score's cross entropy.

    Where the object is absent every candidate should be empty.

    Args:
        masks: logits (b, n, h, w).
        ious: (b, n).
        score: (b, 1).
        truth: 0 or 1, (b, S, S).

    Returns the loss and each candidate's Dice (b, n).
    """
    masks, ious, score = masks.float(), ious.float(), score.float()  # whatever computed them
    side = max(truth.shape[-1] // 2, masks.shape[-1])
    target = F.interpolate(truth[:, None], (side, side), mode="area")
    logits = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    p = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    focal = (0.5 * (p - target).abs() ** 2 * cross).mean((2, 3))
    overlap = (p * target).sum((2, 3))
    dice_loss = 1 - (2 * overlap + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    with torch.no_grad():
        mask, true = logits > 0, target > 0.5
        both = (mask & true).sum((2, 3)).float()
        sizes = mask.sum((2, 3)) + true.sum((2, 3))
        true_ious = both / (sizes - both).clamp(min=1)
        dice = 2 * both / sizes.clamp(min=1)
    present = (truth.flatten(1).amax(1) > 0).float()
    candidates = FOCAL_WEIGHT * focal + dice_loss
    empty = ABSENT_MASK_WEIGHT * candidates.mean(1)
    mask_loss = torch.where(present > 0, candidates.amin(1), empty)
    iou_loss = (ious - true_ious).abs().mean(1)
    weight = 1 + (ABSENT_WEIGHT - 1) * (1 - present)
    score_loss = F.binary_cross_entropy_with_logits(score[:, 0], present, weight=weight)
    return (mask_loss + iou_loss).mean() + score_loss, dice


def _note(
    figures: dict[str, float],
    is_flow: Tensor,
    step: int,
    num_slices: int,
    dice: Tensor,
    ious: Tensor,
    score: Tensor,
    truth: Tensor,
) -> None:
    """Dice on the first and last slice, and how often presence and absence are told, as sums and counts.

    "flow" is the last slice's Dice where slices have no order, "last" where they have one.
    """
    present = truth.flatten(1).amax(1) > 0
    chosen = dice[torch.arange(len(dice)), ious.argmax(1)]
    right = (score[:, 0] > 0) == present
    parts = {"present": right[present].float(), "absent": right[~present].float()} if step else {}
    if step == 0:
        parts["first"] = chosen[present]
    if step == num_slices - 1:
        parts["last"], parts["flow"] = chosen[present & ~is_flow], chosen[present & is_flow]
    _add(figures, parts)


def _note_correction(figures: dict[str, float], dice: Tensor, ious: Tensor, truth: Tensor) -> None:
    """Dice of corrected slices where the object is, as sum and count."""
    present = truth.flatten(1).amax(1) > 0
    chosen = dice[torch.arange(len(dice)), ious.argmax(1)]
    _add(figures, {"corrected": chosen[present]})


def _add(figures: dict[str, float], parts: dict[str, Tensor]) -> None:
    for key, values in parts.items():
        figures[key] = figures.get(key, 0.0) + float(values.sum())
        figures[f"{key}_count"] = figures.get(f"{key}_count", 0.0) + len(values)
