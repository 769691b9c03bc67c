"""Prompts in voxels, and their translation to what the decoder wants.

Users speak (y, x) indices and half-open boxes; (x, y) model pixels exist only in `PointPrompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.contract import (
    LABEL_BOX_START,
    LABEL_BOX_STOP,
    LABEL_NEGATIVE,
    LABEL_PAD,
    LABEL_POSITIVE,
    MASK_PROMPT_LOGIT,
)
from runtime.errors import PromptError


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A click on voxel (y, x) of a slice: inside the object, or outside it if not `positive`."""

    y: float
    x: float
    slice: int = 0
    positive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A half-open box [y0, y1) x [x0, x1) around the object on a slice, in voxels."""

    y: tuple[float, float]
    x: tuple[float, float]
    slice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """The object itself on a slice: (y, x), non-zero inside. All zero says that it is absent there."""

    mask: NDArray[np.generic]
    slice: int = 0


Prompt = Point | Box | Mask


def check_prompt(prompt: Prompt, shape: tuple[int, int, int]) -> None:
    """Raise PromptError unless the prompt lies inside a volume of `shape` (z, y, x)."""
    depth, height, width = shape
    if not isinstance(prompt.slice, int | np.integer) or not 0 <= prompt.slice < depth:
        raise PromptError(f"there is no slice {prompt.slice}: slices are 0 to {depth - 1}")
    if isinstance(prompt, Mask):
        if prompt.mask.shape != (height, width):
            raise PromptError(f"mask is {prompt.mask.shape}, slices are {(height, width)}")
    elif isinstance(prompt, Point):
        for name, value, size in (("y", prompt.y, height), ("x", prompt.x, width)):
            if not 0 <= value <= size - 1:
                raise PromptError(f"point {name} = {value:g} is outside the slice: 0 to {size - 1}")
    else:
        for name, (start, stop), size in (("y", prompt.y, height), ("x", prompt.x, width)):
            if not 0 <= start < stop <= size:
                raise PromptError(
                    f"box {name} = [{start:g}, {stop:g}) does not fit: it must hold a voxel and lie within [0, {size})"
                )


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """Points and box corners of one slice in model pixels: coords (1, q, 2) in (x, y), labels (1, q)."""

    coords: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def multimask(self) -> bool:
        """Upstream asks for three candidates only where a single click (or nothing) leaves a choice."""
        return int(self.labels.shape[1]) <= 1


NO_POINTS = PointPrompt(np.zeros((1, 1, 2), np.float32), np.full((1, 1), LABEL_PAD, np.int64))
"""What a step without prompts feeds: one pad point (the graph adds upstream's second)."""


def to_points(
    prompts: Sequence[Point | Box], slice_shape: tuple[int, int], image_size: int
) -> PointPrompt:
    """Clicks and at most one box of one slice, in decoder order: the box's corners first.

    The last voxel inside a half-open box is its second corner, as in upstream's tight boxes.
    """
    boxes = [p for p in prompts if isinstance(p, Box)]
    points = [p for p in prompts if isinstance(p, Point)]
    xy = [c for b in boxes for c in ((b.x[0], b.y[0]), (b.x[1] - 1, b.y[1] - 1))]
    labels = [LABEL_BOX_START, LABEL_BOX_STOP] * len(boxes)
    xy += [(p.x, p.y) for p in points]
    labels += [LABEL_POSITIVE if p.positive else LABEL_NEGATIVE for p in points]
    height, width = slice_shape
    scale = np.array([width, height], np.float32)
    coords = np.asarray(np.array(xy, np.float32) / scale * np.float32(image_size), np.float32)
    return PointPrompt(coords[None], np.array([labels], np.int64))


@dataclass(frozen=True, slots=True)
class MaskPrompt:
    """A mask prompt at model scale, all float32.

    Attributes:
        low_res_logits: (4 G, 4 G), what upstream outputs for the prompted slice itself.
        decoder_input: (1, 1, 4 G, 4 G), the dense prompt from which the object pointer is made.
        is_empty: no voxel is set: the object is absent on this slice.
    """

    low_res_logits: NDArray[np.float32]
    decoder_input: NDArray[np.float32]
    is_empty: bool


def to_mask(
    mask: NDArray[np.generic],
    image_size: int,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> MaskPrompt:
    """A mask (y, x) as upstream's `add_new_mask` and `_use_mask_as_output` see it.

    Args:
        mask: non-zero inside.
        image_size: S.
        weight, bias: of `mask_downsample`, a strided convolution whose kernel (4, 4) equals its stride.
    """
    inside = resize(np.asarray(mask) != 0, (image_size, image_size), antialias=True) >= 0.5
    step = weight.shape[0]
    side = image_size // step
    logits = np.where(inside, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT).astype(np.float32)
    patches = inside.astype(np.float32).reshape(side, step, side, step)
    dense = np.einsum("yixj,ij->yx", patches, weight) + bias
    return MaskPrompt(
        resize(logits, (side, side), antialias=True),
        dense.astype(np.float32)[None, None],
        not inside.any(),
    )
