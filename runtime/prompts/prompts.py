"""Prompts in voxels, and their translation to what the decoder wants.

Users speak (y, x) indices and half-open boxes; (x, y) model pixels exist only in `PointPrompt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from kernels.resize import resize
from runtime.bundle.contract import (
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
    """A half-open box [y0, y1) x [x0, x1) around the object on a slice, in voxels.

    Fractions are taken as they are. A box narrower than a voxel stands for its centre.
    """

    y: tuple[float, float]
    x: tuple[float, float]
    slice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """The object itself on a slice: (y, x), one non-zero value inside. All zero says that it is absent there."""

    mask: NDArray[np.generic]
    slice: int = 0


Prompt = Point | Box | Mask
MAX_OBJECT_ID = 65535  # object ids become labels of at most sixteen bits
LONGEST = 100  # characters of a value that a message shows


def check_prompt(prompt: Prompt, shape: tuple[int, int, int]) -> None:
    """Raise PromptError unless the prompt is well formed and lies inside a volume of `shape` (z, y, x)."""
    check_kind(prompt)
    depth, height, width = shape
    if not is_whole(prompt.slice) or not 0 <= prompt.slice < depth:
        raise PromptError(
            f"there is no slice {shown(prompt.slice)}: slices are 0 to {depth - 1}, and z comes before y and x"
        )
    if isinstance(prompt, Mask):
        check_mask(prompt.mask, (height, width))
    elif isinstance(prompt, Point):
        if not isinstance(prompt.positive, bool | np.bool_):
            raise PromptError(f"point positive is {shown(prompt.positive)}; wanted True or False")
        for name, value, size in (("y", prompt.y, height), ("x", prompt.x, width)):
            _check_real(f"point {name}", value)
            if not 0 <= value <= size - 1:
                raise PromptError(
                    f"point {name} = {shown(value)} is outside the slice: 0 to {size - 1}"
                )
    else:
        for name, span, size in (("y", prompt.y, height), ("x", prompt.x, width)):
            _check_span(f"box {name}", span, size)


def check_kind(prompt: object) -> None:
    """Raise PromptError unless this is a prompt at all."""
    if not isinstance(prompt, Point | Box | Mask):
        raise PromptError(f"found {shown(prompt)}; wanted a Point, a Box or a Mask")


def kept(prompt: Prompt) -> Prompt:
    """A checked prompt that nobody else can change: what it was made of belongs to the caller, who may use it again."""
    if isinstance(prompt, Mask):
        return replace(prompt, mask=np.array(prompt.mask))
    if isinstance(prompt, Box):
        return replace(prompt, y=(prompt.y[0], prompt.y[1]), x=(prompt.x[0], prompt.x[1]))
    return prompt


def check_object_id(object_id: object) -> None:
    """Raise PromptError unless an id can be a label of sixteen bits."""
    if not is_whole(object_id) or not 1 <= object_id <= MAX_OBJECT_ID:
        raise PromptError(
            f"object id {shown(object_id)} is not a whole number from 1 to {MAX_OBJECT_ID}"
        )


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, Python's or numpy's; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_pair(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a tuple, a list or an array of two items."""
    if isinstance(value, np.ndarray):
        return bool(value.shape == (2,))
    return isinstance(value, tuple | list) and len(value) == 2


def shown(value: object) -> str:
    """A value as a message shows it, cut short."""
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except (ValueError, RecursionError):  # digits beyond Python's limit; nested too deeply
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _check_real(what: str, value: object) -> None:
    is_real = isinstance(value, int | float | np.integer | np.floating)
    if not is_real or isinstance(value, bool):
        raise PromptError(f"{what} is {shown(value)}; wanted a number")


def _check_span(what: str, span: object, size: int) -> None:
    if not is_pair(span):
        raise PromptError(f"{what} is {shown(span)}; wanted two numbers, start and stop")
    start, stop = span
    _check_real(what, start)
    _check_real(what, stop)
    if not 0 <= start < stop <= size:
        raise PromptError(
            f"{what} = [{shown(start)}, {shown(stop)}) does not fit: it must not be empty and lie within [0, {size})"
        )


def check_mask(mask: object, slice_shape: tuple[int, int]) -> None:
    """Raise PromptError unless a mask is an array (y, x) of the slice's shape with one value inside."""
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "buif":
        kind = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else shown(mask)
        raise PromptError(f"mask is {kind}; wanted a numpy array of numbers or bools")
    if np.ma.is_masked(mask):  # whose mask numpy drops without a word
        raise PromptError("mask has pixels that are masked; wanted all: fill them, mask.filled(0)")
    if mask.shape != slice_shape:
        raise PromptError(f"mask is {mask.shape}, slices are {slice_shape}")
    inside = mask[mask != 0]
    if mask.dtype.kind != "b" and not (inside == inside[:1]).all():  # NaN differs from itself
        values = ", ".join(shown(value) for value in np.unique(inside)[:4])
        raise PromptError(
            f"mask has several values ({values}) inside, as label images and probabilities have; "
            "wanted one: choose a label or a threshold, such as labels == 2"
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
    prompts: Sequence[Point | Box], slice_shape: tuple[int, int], prompt_size: int
) -> PointPrompt:
    """Clicks and at most one box of one slice of a shape (y, x), in decoder order: the box's corners first.

    The last voxel inside a half-open box is its second corner, as in upstream's tight boxes.
    """
    height, width = slice_shape
    boxes = [p for p in prompts if isinstance(p, Box)]
    points = [p for p in prompts if isinstance(p, Point)]
    xy = [c for b in boxes for c in zip(ends(b.x, width), ends(b.y, height), strict=True)]
    labels = [LABEL_BOX_START, LABEL_BOX_STOP] * len(boxes)
    xy += [(p.x, p.y) for p in points]
    labels += [LABEL_POSITIVE if p.positive else LABEL_NEGATIVE for p in points]
    scale = np.array([width, height], np.float32)
    coords = np.asarray(np.array(xy, np.float32) / scale * np.float32(prompt_size), np.float32)
    return PointPrompt(coords[None], np.array([labels], np.int64))


def ends(span: tuple[float, float], size: int) -> tuple[float, float]:
    """Indices of the first and the last voxel in a half-open span, fractions kept.

    The network's corners are indices of pixels and include the last one, so that a span is one shorter there; what is
    shorter than a voxel would turn round and is its centre instead, on both ends.
    """
    first, last = float(span[0]), float(span[1]) - 1
    if last < first:
        first = last = min(max((first + last) / 2, 0.0), size - 1.0)
    return first, last


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
    mask_size: int,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> MaskPrompt:
    """A mask (y, x) as upstream's `add_new_mask` and `_use_mask_as_output` see it.

    Args:
        mask: non-zero inside.
        mask_size: of the model, 16 G.
        weight, bias: of `mask_downsample`, a strided convolution whose kernel (4, 4) equals its stride.
    """
    inside = resize(np.asarray(mask) != 0, (mask_size, mask_size), antialias=True) >= 0.5
    step = weight.shape[0]
    side = mask_size // step
    logits = np.where(inside, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT).astype(np.float32)
    patches = inside.astype(np.float32).reshape(side, step, side, step)
    dense = np.einsum("yixj,ij->yx", patches, weight) + bias
    return MaskPrompt(
        resize(logits, (side, side), antialias=True),
        dense.astype(np.float32)[None, None],
        not inside.any(),
    )
