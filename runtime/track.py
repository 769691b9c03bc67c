"""The heart: what is computed for one slice, in which order. Nobody else knows that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.fill_holes import fill_holes
from runtime.arena import Arena
from runtime.backends import Buffer
from runtime.contract import MASK_PROMPT_LOGIT, PREVIOUS_LOGIT_LIMIT
from runtime.features import FeatureCache
from runtime.memory import MemoryBank
from runtime.memory.gather import gather
from runtime.model import Features, Model
from runtime.prompts import NO_POINTS, MaskPrompt, PointPrompt


@dataclass(frozen=True, slots=True)
class Segmented:
    """One object on one slice.

    Attributes:
        logits: low-resolution logits (4 G, 4 G), holes filled; above zero is inside.
        iou: the model's own estimate of the mask's quality.
        object_score: logit that the object is on this slice.
        obj_ptr: object pointer (C,).
        memory_frames: slices that were in memory; empty where the slice was prompted.
    """

    logits: NDArray[np.float32]
    iou: float
    object_score: float
    obj_ptr: Buffer
    memory_frames: tuple[int, ...] = ()

    @property
    def confidence(self) -> float:
        """Predicted iou, 0 where the object is absent."""
        return self.iou if self.object_score > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a batch: a chain and the slice it has come to."""

    bank: MemoryBank
    frame: int


def track_step(
    model: Model, arena: Arena, features: FeatureCache, rows: Sequence[Row]
) -> list[Segmented]:
    """Segment each row's slice from memory and remember the result: all objects and directions in one batch."""
    slices = stack([features[row.frame] for row in rows])
    reads = [row.bank.read(row.frame) for row in rows]
    conditioned = model.condition(vision_features=slices.vision_features, **gather(arena, reads))
    decoded = model.decode(**decoder_inputs(slices, conditioned, NO_POINTS, add_no_mem_embed=False))
    memories = model.memorise(
        vision_features=slices.vision_features,  # the raw features, not the conditioned ones
        low_res_masks=decoded.low_res_masks,  # before holes are filled, as upstream
        object_score_logits=decoded.object_score_logits,
        binarize=np.zeros(len(rows), bool),
    )
    results = []
    for i, (row, read) in enumerate(zip(rows, reads, strict=True)):
        segmented = Segmented(
            fill_holes(decoded.low_res_masks[i, 0]),
            float(decoded.ious[i]),
            float(decoded.object_score_logits[i]),
            decoded.obj_ptr[i],
            read.frames,
        )
        row.bank.offer(
            row.frame, memories[i], segmented.obj_ptr, segmented.confidence, segmented.object_score
        )
        results.append(segmented)
    return results


def segment_points(
    model: Model, features: Features, prompt: PointPrompt, previous: Segmented | None
) -> Segmented:
    """Segment a prompted slice without memory; `previous` is this slice's result so far, to be corrected."""
    mask = None
    if previous is not None:
        limit = PREVIOUS_LOGIT_LIMIT
        mask = previous.logits.clip(-limit, limit)[None, None]
    inputs = decoder_inputs(features, features.vision_features, prompt, mask, add_no_mem_embed=True)
    decoded = model.decode(**inputs)
    return Segmented(
        fill_holes(decoded.low_res_masks[0, 0]),
        float(decoded.ious[0]),
        float(decoded.object_score_logits[0]),
        decoded.obj_ptr[0],
    )


def segment_mask(model: Model, features: Features, prompt: MaskPrompt) -> Segmented:
    """Take a mask as the result; only the object pointer comes from the decoder, on features without embedding."""
    inputs = decoder_inputs(
        features, features.vision_features, NO_POINTS, prompt.decoder_input, add_no_mem_embed=False
    )
    inputs["multimask"][:] = False
    pointer = (
        model.constants["no_obj_ptr"] if prompt.is_empty else model.decode(**inputs).obj_ptr[0]
    )
    score = -MASK_PROMPT_LOGIT if prompt.is_empty else MASK_PROMPT_LOGIT
    return Segmented(fill_holes(prompt.low_res_logits), 1.0, score, pointer)


def memorise_prompted(model: Model, features: Features, segmented: Segmented) -> Buffer:
    """The memory (T, M) of a prompted slice: of its filled, binarised mask."""
    memory: Buffer = model.memorise(
        vision_features=features.vision_features,
        low_res_masks=segmented.logits[None, None],
        object_score_logits=np.array([segmented.object_score], np.float32),
        binarize=np.ones(1, bool),
    )[0]
    return memory


def stack(features: Sequence[Features]) -> Features:
    """Encodings of several slices as one batch; a single one is passed through."""
    if len(features) == 1:
        return features[0]
    return Features(
        np.concatenate([f.vision_features for f in features]),
        np.concatenate([f.high_res_feats_0 for f in features]),
        np.concatenate([f.high_res_feats_1 for f in features]),
    )


def decoder_inputs(
    slices: Features,
    features: Buffer,
    prompt: PointPrompt,
    mask: Buffer | None = None,
    *,
    add_no_mem_embed: bool,
) -> dict[str, Buffer]:
    """Inputs of `mask_decoder` for b rows with one prompt in common and an optional dense mask (1, 1, 4 G, 4 G)."""
    rows = len(features)
    side = slices.high_res_feats_0.shape[-1]
    return {
        "features": features,
        "high_res_feats_0": slices.high_res_feats_0,
        "high_res_feats_1": slices.high_res_feats_1,
        "point_coords": np.repeat(prompt.coords, rows, 0),
        "point_labels": np.repeat(prompt.labels, rows, 0),
        "mask_input": np.zeros((rows, 1, side, side), np.float32) if mask is None else mask,
        "has_mask_input": np.full(rows, mask is not None),
        "multimask": np.full(rows, prompt.multimask),
        "add_no_mem_embed": np.full(rows, add_no_mem_embed),
    }
