"""Prompts of one object on one slice, and what the network makes of them without any memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.backends import Buffer
from runtime.bundle.confidence import Confidence
from runtime.bundle.tensors import Features
from runtime.errors import PromptError
from runtime.model import Model
from runtime.prompts.prompts import Box, Mask, Point, Prompt, check_prompt, to_mask, to_points
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


@dataclass(frozen=True, slots=True)
class Tracked:
    """What tracking found on a slice, and how to condition its features (1, C, G, G) on memory again."""

    segmented: Segmented
    condition: Callable[[], Buffer]


def prompt_slice(
    model: Model,
    features: Callable[[], Features],
    slice_shape: tuple[int, int],
    prompts: Sequence[Prompt],
    before: PromptedSlice | None = None,
    tracked: Tracked | None = None,
    confidence: Confidence = IOU,
) -> PromptedSlice:
    """Segment a slice from its prompts.

    Points join those given before and correct the mask that stood there, as upstream's `clear_old_points=False`
    does; a box or a mask starts the slice anew.

    Args:
        model: runs the decoder.
        features: gives those of the slice; asked once nothing else needs features of other slices.
        slice_shape: (y, x) in pixels.
        prompts: of one call, all on this slice and checked.
        before: what was prompted here earlier.
        tracked: what tracking found here, for points to correct.
        confidence: how the result is valued.
    """
    first = prompts[0]
    if isinstance(first, Mask):
        constants = model.constants
        mask = to_mask(
            first.mask,
            model.numbers.image_size,
            constants["mask_downsample_weight"],
            constants["mask_downsample_bias"],
        )
        return PromptedSlice((first,), segment_mask(model, features(), mask))
    points = [p for p in prompts if isinstance(p, Point | Box)]
    previous, conditioned = None, None
    if not any(isinstance(p, Box) for p in points):
        if before:
            points = [*(p for p in before.prompts if not isinstance(p, Mask)), *points]
            previous, conditioned = before.segmented, before.conditioned
        elif tracked:
            previous, conditioned = tracked.segmented, tracked.condition()
    prompt = to_points(points, slice_shape, model.numbers.image_size)
    found = segment_points(model, features(), prompt, previous, confidence, conditioned)
    return PromptedSlice(tuple(points), found, conditioned)


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
