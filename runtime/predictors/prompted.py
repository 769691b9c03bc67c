"""Prompts of one object on one slice, and what the network makes of them without any memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.backends import Buffer
from runtime.bundle.confidence import Confidence
from runtime.bundle.contract import PREVIOUS_LOGIT_LIMIT
from runtime.bundle.tensors import Features
from runtime.errors import PromptError
from runtime.model import Model
from runtime.predictors.region import Region, Shape
from runtime.prompts.prompts import (
    Box,
    Mask,
    MaskPrompt,
    Point,
    Prompt,
    check_prompt,
    kept,
    to_mask,
    to_points,
)
from runtime.track import IOU, Segmented, segment_mask, segment_points


@dataclass(frozen=True, slots=True, eq=False)
class PromptedSlice:
    """All points (after at most one box), or the mask, given so far on a slice, and the result.

    Two are equal only if they are one.
    """

    prompts: tuple[Prompt, ...]
    segmented: Segmented
    conditioned: Buffer | None = None
    """Features (1, C, G, G) conditioned on memory, where the prompts correct what tracking had found."""
    crop: Region | None = None
    """The part of the slice that the network was shown; None is all of it."""

    @property
    def is_empty(self) -> bool:
        """Whether this is the word that the object is absent here, which says nothing about where it is elsewhere."""
        return len(self.prompts) == 1 and Region.of_prompts(self.prompts) is None


@dataclass(frozen=True, slots=True)
class Tracked:
    """What tracking found on a slice, in which crop, and how to condition its features (1, C, G, G) on memory again."""

    segmented: Segmented
    condition: Callable[[], Buffer]
    crop: Region | None = None


def prompt_slice(
    model: Model,
    features: Callable[[], Features],
    slice_shape: Shape,
    prompts: Sequence[Prompt],
    before: PromptedSlice | None = None,
    tracked: Tracked | None = None,
    confidence: Confidence = IOU,
    crop: Region | None = None,
) -> PromptedSlice:
    """Segment a slice from its prompts.

    Points join those given before and correct the mask that stood there, as upstream's `clear_old_points=False`
    does; a box or a mask starts the slice anew. What memory said of another crop is not asked again in this one.

    Args:
        model: runs the decoder.
        features: gives those of the slice, or of its crop; asked once nothing else needs features of other slices.
        slice_shape: (y, x) in pixels.
        prompts: of one call, all on this slice and checked, and within the crop, as are those before.
        before: what was prompted here earlier.
        tracked: what tracking found here, for points to correct.
        confidence: how the result is valued.
        crop: what the network is shown; None is the whole slice.
    """
    first = prompts[0]
    if isinstance(first, Mask):
        mask = first.mask if crop is None else crop.of(first.mask)
        segmented = segment_mask(model, features(), as_mask(model, mask))
        return PromptedSlice((kept(first),), segmented, crop=crop)
    points = [p for p in prompts if isinstance(p, Point | Box)]
    previous, conditioned = None, None
    if not any(isinstance(p, Box) for p in points):
        if before:
            points = [*(p for p in before.prompts if not isinstance(p, Mask)), *points]
            previous = seen_in(before.segmented, before.crop, crop, slice_shape)
            conditioned = before.conditioned if before.crop == crop else None
        elif tracked:
            previous = seen_in(tracked.segmented, tracked.crop, crop, slice_shape)
            conditioned = tracked.condition() if tracked.crop == crop else None
    part = crop or Region.whole(slice_shape)
    prompt = to_points(part.moved(points), part.shape, model.numbers.prompt_size)
    segmented = segment_points(model, features(), prompt, previous, confidence, conditioned)
    return PromptedSlice(tuple(map(kept, points)), segmented, conditioned, crop)


def as_mask(model: Model, mask: NDArray[np.generic]) -> MaskPrompt:
    """A mask (y, x) of what the network is shown as a prompt."""
    constants = model.constants
    return to_mask(
        mask,
        model.numbers.mask_size,
        constants["mask_downsample_weight"],
        constants["mask_downsample_bias"],
    )


def seen_in(
    segmented: Segmented, before: Region | None, crop: Region | None, shape: Shape
) -> Segmented:
    """What was found in one crop of a slice of a shape (y, x), with its logits as they lie in another one."""
    if before == crop:
        return segmented
    logits = segmented.logits
    whole = resize(logits, shape)
    if before is not None:
        whole = before.put_back(logits, shape, -PREVIOUS_LOGIT_LIMIT)
    part = whole if crop is None else crop.of(whole)
    return replace(segmented, low_res=resize(part, logits.shape, antialias=True))


def mask_in(
    model: Model,
    features: Features,
    segmented: Segmented,
    before: Region | None,
    crop: Region | None,
    shape: Shape,
) -> Segmented:
    """What was found in one crop of a slice of a shape (y, x), given to the network as a mask in another one.

    `features` are those of the other one; scores stay what they were.
    """
    logits = segmented.logits
    whole = resize(logits, shape) if before is None else before.put_back(logits, shape)
    mask = as_mask(model, (whole if crop is None else crop.of(whole)) > 0)
    from_mask = segment_mask(model, features, mask)
    score = from_mask.object_score if mask.is_empty else segmented.object_score
    return replace(from_mask, iou=segmented.iou, quality=segmented.quality, object_score=score)


def check_prompts(prompts: Sequence[Prompt], shape: tuple[int, int, int]) -> None:
    """Raise PromptError unless the prompts lie inside a volume of `shape` and can be given in one call.

    Together they must lie on one slice and be one mask, or points and at most one box.
    """
    if not prompts:
        raise PromptError("no prompt given; wanted a Point, a Box or a Mask")
    for prompt in prompts:
        check_prompt(prompt, shape)
    if len(slices := {p.slice for p in prompts}) > 1:
        raise PromptError(
            f"prompts on slices {sorted(slices)} in one call; add those of each slice separately"
        )
    if len(prompts) > 1 and any(isinstance(p, Mask) for p in prompts):
        raise PromptError(
            "a mask is the whole answer for its slice; add it alone, then correct it with points"
        )
    if sum(isinstance(p, Box) for p in prompts) > 1:
        raise PromptError(
            "two boxes for one object on one slice; give each object an object_id of its own"
        )
