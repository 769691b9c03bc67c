"""The heart: what is computed for one slice, in which order. Nobody else knows that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from kernels.fill_holes import fill_holes
from runtime.backends import Buffer
from runtime.bundle.confidence import Confidence
from runtime.bundle.contract import LOW_RES_SCALE, MASK_PROMPT_LOGIT, PREVIOUS_LOGIT_LIMIT
from runtime.bundle.tensors import Decoded, Features, Fetched, LowResMask
from runtime.memory import MemoryBank, MemoryRead
from runtime.memory.arena import Arena
from runtime.memory.batch import Batch, pack
from runtime.model import Model
from runtime.prompts.prompts import NO_POINTS, MaskPrompt, PointPrompt
from runtime.steps.features import Cache

IOU = Confidence()
"""What confidence is unless somebody says otherwise: the predicted iou as the network gives it."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """One object on one slice.

    Attributes:
        low_res: low-resolution logits (4 G, 4 G), perhaps still to be read back; a plain array has no holes.
        iou: the model's own estimate of the mask's quality.
        object_score: logit that the object is on this slice.
        obj_ptr: object pointer (C,).
        memory_frames: slices that were in memory; empty where the slice was prompted.
        memory_weights: how much each of them weighed; 1 is SAM 2.
        quality: what the mask is worth if it is there, where that is not `iou` itself.
    """

    low_res: LowResMask | NDArray[np.float32]
    iou: float
    object_score: float
    obj_ptr: Buffer
    memory_frames: tuple[int, ...] = ()
    memory_weights: tuple[float, ...] = ()
    quality: float | None = None

    @property
    def logits(self) -> NDArray[np.float32]:
        """Low-resolution logits, holes filled; above zero is inside."""
        return self.low_res.filled if isinstance(self.low_res, LowResMask) else self.low_res

    @property
    def unfilled(self) -> NDArray[np.float32]:
        """Logits before holes were filled, of which memories of tracked slices are made."""
        return self.low_res.unfilled if isinstance(self.low_res, LowResMask) else self.low_res

    @property
    def nbytes(self) -> int:
        """Of its logits and its object pointer."""
        return self.low_res.nbytes + self.obj_ptr.nbytes

    @property
    def confidence(self) -> float:
        """What the mask is worth; 0 where the object is absent, and where the scores are no numbers."""
        return self._worth if self.is_finite and self.object_score > 0 else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether the scores are numbers; a tracked slice where they are not is never remembered."""
        return isfinite(self._worth) and isfinite(self.object_score)

    @property
    def _worth(self) -> float:
        return self.iou if self.quality is None else self.quality


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One line of a batch: a chain and the slice it has come to.

    Attributes:
        bank: the chain's memory.
        frame: number of the slice.
        encoding: number of its encoding in the cache, where that is of a part of the slice.
    """

    bank: MemoryBank
    frame: int
    encoding: int | None = None

    @property
    def number(self) -> int:
        """By which the cache knows what is segmented."""
        return self.frame if self.encoding is None else self.encoding

    def read(self, features: Cache) -> MemoryRead:
        """What the chain reads here."""
        seen = features[self.number].vision_features[0] if self.bank.looks_at_images else None
        return self.bank.read(self.frame, seen)


def track_step(
    model: Model,
    arena: Arena,
    features: Cache,
    rows: Sequence[BatchRow],
    confidence: Confidence = IOU,
) -> list[Segmented]:
    """Segment each row's slice from memory and remember the result: all objects and directions in one batch."""
    places = features.locate([row.number for row in rows])
    reads = [row.read(features) for row in rows]
    targets = [row.bank.take_targets() for row in rows]
    try:
        batch = model.steps.send(pack(reads, places, targets, model.steps.lengths(reads)))
        held = [*arena.tensors, *features.tensors]
        decoded = model.steps.replayed(batch, held, lambda: _step(model, arena, features, batch))
        fetched = model.steps.fetch(decoded)
        results = [_segmented(f, confidence, read) for f, read in zip(fetched, reads, strict=True)]
    except BaseException:
        for row, target in zip(rows, targets, strict=True):
            row.bank.give_up(target)
        raise
    for row, target, segmented in zip(rows, targets, results, strict=True):
        if segmented.is_finite:
            row.bank.keep(row.frame, target, segmented.confidence, segmented.object_score)
        else:
            row.bank.give_up(target)
    return results


def _step(model: Model, arena: Arena, features: Cache, batch: Batch) -> Decoded:
    """What is computed: from slots to slots, with no look at any number, so that it can be replayed."""
    slices = features.gather(batch.slices)
    conditioned = model.condition(attended_features=slices.attended_features, **arena.gather(batch))
    decoded = model.decode(**decoder_inputs(slices, conditioned, NO_POINTS, add_no_mem_embed=False))
    memories = model.memorise(
        projected_features=slices.projected_features,  # not of the conditioned ones
        low_res_masks=decoded.low_res_masks,  # before holes are filled, as upstream
        object_score_logits=decoded.object_score_logits,
        binarize=np.zeros(len(batch.slices), bool),
    )
    arena.store(batch, memories, decoded.obj_ptr, slices.vision_features)
    return decoded


def segment_points(
    model: Model,
    features: Features,
    prompt: PointPrompt,
    previous: Segmented | None,
    confidence: Confidence = IOU,
    conditioned: Buffer | None = None,
) -> Segmented:
    """Segment a prompted slice.

    Args:
        model, features, prompt, confidence: what to run on what.
        previous: this slice's result so far, to be corrected.
        conditioned: the slice's features (1, C, G, G) conditioned on memory, if tracking had reached it before it
            was prompted; a slice prompted first is segmented without memory (sam2_base.py is_init_cond_frame).
    """
    mask = None
    if previous is not None:
        limit = PREVIOUS_LOGIT_LIMIT
        mask = previous.logits.clip(-limit, limit)[None, None]
    is_first = conditioned is None
    slice_features = features.vision_features if conditioned is None else conditioned
    inputs = decoder_inputs(features, slice_features, prompt, mask, add_no_mem_embed=is_first)
    (fetched,) = model.steps.fetch(model.decode(**inputs))
    return _segmented(fetched, confidence)


def segment_mask(model: Model, features: Features, prompt: MaskPrompt) -> Segmented:
    """Take a mask as the result; only the object pointer comes from the decoder, on features without embedding."""
    inputs = decoder_inputs(
        features, features.vision_features, NO_POINTS, prompt.decoder_input, add_no_mem_embed=False
    )
    inputs["multimask"][:] = False
    pointer = (
        model.constants["no_obj_ptr"]
        if prompt.is_empty
        else model.device_memory.get(model.decode(**inputs).obj_ptr[0])
    )
    score = -MASK_PROMPT_LOGIT if prompt.is_empty else MASK_PROMPT_LOGIT
    return Segmented(fill_holes(prompt.low_res_logits), 1.0, score, pointer)


def memorise_prompted(model: Model, features: Features, segmented: Segmented) -> Buffer:
    """The memory (L, M) of a prompted slice: of its filled, binarised mask."""
    return _memorise(model, features, segmented.logits, segmented, binarize=True)


def memorise_tracked(model: Model, features: Features, segmented: Segmented) -> Buffer:
    """The memory (L, M) of a tracked slice: of its mask's probabilities, holes and all."""
    return _memorise(model, features, segmented.unfilled, segmented, binarize=False)


def _memorise(
    model: Model,
    features: Features,
    logits: NDArray[np.float32],
    segmented: Segmented,
    binarize: bool,
) -> Buffer:
    memory: Buffer = model.memorise(
        projected_features=features.projected_features,
        low_res_masks=logits[None, None],
        object_score_logits=np.array([segmented.object_score], np.float32),
        binarize=np.full(1, binarize),
    )[0]
    return memory


def _segmented(
    fetched: Fetched, confidence: Confidence, read: MemoryRead | None = None
) -> Segmented:
    return Segmented(
        fetched.mask,
        fetched.iou,
        fetched.object_score,
        fetched.obj_ptr,
        read.frames if read else (),
        read.weights if read else (),
        confidence(fetched.mask, fetched.iou),
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
    rows = features.shape[0]
    side = LOW_RES_SCALE * features.shape[-1]
    return {
        "features": features,
        **slices.high_res,
        "point_coords": np.repeat(prompt.coords, rows, 0),
        "point_labels": np.repeat(prompt.labels, rows, 0),
        "mask_input": np.zeros((rows, 1, side, side), np.float32) if mask is None else mask,
        "has_mask_input": np.full(rows, mask is not None),
        "multimask": np.full(rows, prompt.multimask),
        "add_no_mem_embed": np.full(rows, add_no_mem_embed),
    }
