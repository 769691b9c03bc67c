"""Prompts of one object on one image, answered by a network without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.contract import MASK_PROMPT_LOGIT
from runtime.bundle.tensors import Features
from runtime.errors import PromptError
from runtime.model import Model
from runtime.predictors.framing import Corners, Framing
from runtime.prompts.prompts import Box, Mask, Point, PointPrompt, Prompt
from runtime.track import Segmented

NO_POINTER = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SinglePrompted:
    """All points, after at most one box, given so far on an image, and the result."""

    prompts: tuple[Point | Box, ...]
    segmented: Segmented

    @property
    def box(self) -> Box | None:
        """The box, if there is one."""
        return next((p for p in self.prompts if isinstance(p, Box)), None)


def prompt_single(
    model: Model,
    features: Features,
    framing: Framing,
    prompts: Sequence[Prompt],
    before: SinglePrompted | None = None,
) -> SinglePrompted:
    """Segment an image from its prompts.

    Points join those given before, and the box, and correct the mask that stood there: its logits are given to the
    network again, as `segment_anything`'s examples do it. A box starts the image anew.

    Args:
        model: of kind `image`.
        features: of the image.
        framing: of the image.
        prompts: of one call, checked.
        before: what was prompted here earlier.

    Raises PromptError for what the network does not take.
    """
    check_single(model, prompts)
    asked = [p for p in prompts if isinstance(p, Point | Box)]
    is_anew = before is None or any(isinstance(p, Box) for p in asked)
    everything = tuple(asked if before is None or is_anew else [*before.prompts, *asked])
    boxes = [p for p in everything if isinstance(p, Box)]
    points = [p for p in everything if isinstance(p, Point)]
    corners = framing.corners(boxes[0]) if boxes else None
    previous = None if before is None or is_anew else before.segmented
    prompt = framing.point_prompt(points, corners)
    # Upstream advises three candidates where a single click leaves a choice.
    is_open = not boxes and len(points) == 1
    return SinglePrompted(everything, _decode(model, features, prompt, is_open, previous))


def segment_corners(
    model: Model, features: Features, framing: Framing, corners: Corners
) -> Segmented:
    """Segment an image from a box in the network's own pixels."""
    return _decode(model, features, framing.point_prompt([], corners), False, None)


def check_single(model: Model, prompts: Sequence[Prompt]) -> None:
    """Raise PromptError for prompts that a network of kind `image` does not take."""
    name = model.numbers.name
    if any(isinstance(p, Mask) for p in prompts):
        raise PromptError(
            f"{name} segments single images: a mask would be its own answer; give a box or points"
        )
    profile = Framing.of(model.numbers, (1, 1)).profile
    if profile.boxes_alone and any(isinstance(p, Point) for p in prompts):
        raise PromptError(
            f"{name} was trained with boxes alone, and points would mislead it; give a box, such as "
            "--box 0,310,420,500,610"
        )


def _decode(
    model: Model,
    features: Features,
    prompt: PointPrompt,
    multimask: bool,
    previous: Segmented | None,
) -> Segmented:
    side = model.numbers.low_res
    mask = np.zeros((side, side), np.float32) if previous is None else previous.logits
    outputs = model.run(
        "mask_decoder",
        {
            "features": features.vision_features,
            "point_coords": prompt.coords,
            "point_labels": prompt.labels,
            "mask_input": mask[None, None],
            "has_mask_input": np.array([previous is not None]),
            "multimask": np.array([multimask]),
        },
    )
    get = model.device_memory.get
    return segmented_of(get(outputs["low_res_masks"])[0, 0], float(get(outputs["ious"])[0]))


def segmented_of(logits: NDArray[np.float32], iou: float) -> Segmented:
    """An answer in the form that all networks' have.

    These tell no presence: an object is present where its mask holds anything. Their estimate of the overlap is not
    kept between 0 and 1 by the network.
    """
    is_there = bool((logits > 0).any())
    score = MASK_PROMPT_LOGIT if is_there else -MASK_PROMPT_LOGIT
    return Segmented(np.asarray(logits, np.float32), min(max(iou, 0.0), 1.0), score, NO_POINTER)
