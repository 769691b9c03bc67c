"""What a viewer marks: the crop of a scribble or lasso, or a mask of the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, PromptError
from runtime.prompts.prompts import shown
from runtime.serve.planes import Position, Spans, part_of, whole


def marking(array: object, bbox: object, shape: Position) -> tuple[NDArray[np.bool_], Spans]:
    """What is marked (non-zero; above zero in floats) in a box of an image, and that box.

    Args:
        array: (k, j, i) of the box's size; of the image's if there is no box.
        bbox: [[k0, k1], [j0, j1], [i0, i1]] in the image's voxels, rounded first; what reaches beyond the image is
            cut off. None: the tight one about what is marked.
        shape: of the image.

    Raises PromptError for sizes that do not agree, and where nothing is marked within the image.
    """
    marked = _marked(array)
    if bbox is None:
        _check_shape(marked, shape, "the image")
        spans = tight(marked)
        if spans is None:
            raise PromptError("nothing is marked; wanted at least one voxel that is not zero")
        return part_of(marked, spans), spans
    sides = _sides(bbox)
    _check_shape(marked, tuple(stop - start for start, stop in sides), f"its box {shown(bbox)}")
    cut = [
        (max(start, 0), min(stop, size)) for (start, stop), size in zip(sides, shape, strict=True)
    ]
    if any(stop <= start for start, stop in cut):
        raise PromptError(f"the box {shown(bbox)} lies outside the image, whose shape is {shape}")
    k, j, i = cut
    inside = marked[
        tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(cut, sides, strict=True))
    ]
    if not inside.any():
        raise PromptError("nothing is marked; wanted at least one voxel that is not zero")
    return inside, (k, j, i)


def whole_mask(array: object, shape: Position) -> NDArray[np.bool_]:
    """A mask of the whole image. Raises PromptError for another shape or kind of array."""
    mask = _marked(array)
    _check_shape(mask, shape, "the image")
    return mask


def check_buffer(buffer: object, shape: Position) -> None:
    """Raise InputError unless an array can be written with a mask of an image of this shape."""
    if not isinstance(buffer, np.ndarray) or buffer.dtype.kind not in "bui":
        kind = f"an array of {buffer.dtype}" if isinstance(buffer, np.ndarray) else shown(buffer)
        raise InputError(f"the target buffer is {kind}; wanted a numpy array of bools or integers")
    if buffer.shape != shape:
        raise InputError(f"the target buffer has the shape {buffer.shape}, the image {shape}")
    if not buffer.flags.writeable:
        raise InputError("the target buffer cannot be written to; wanted one that can")


def tight(mask: NDArray[np.bool_]) -> Spans | None:
    """The tight box about what is set in a mask (k, j, i); None where nothing is."""
    first = np.flatnonzero(mask.any((1, 2)))
    if not len(first):
        return None
    held = np.any(mask[first[0] : first[-1] + 1], 0)
    rows, columns = np.flatnonzero(held.any(1)), np.flatnonzero(held.any(0))
    k, j, i = ((int(line[0]), int(line[-1]) + 1) for line in (first, rows, columns))
    return k, j, i


def _marked(array: object) -> NDArray[np.bool_]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else shown(array)
        raise PromptError(f"what is marked is {kind}; wanted a numpy array of numbers or bools")
    if np.ma.is_masked(array):  # whose mask numpy drops without a word
        raise PromptError("what is marked is masked in part; wanted all: fill it, array.filled(0)")
    voxels: NDArray[Any] = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if voxels.ndim != 3:
        raise PromptError(
            f"what is marked has the shape {array.shape}; wanted three axes (k, j, i)"
        )
    if voxels.dtype == np.bool_:
        return voxels
    return np.asarray(voxels > 0 if voxels.dtype.kind == "f" else voxels != 0, np.bool_)


def _check_shape(marked: NDArray[np.bool_], shape: tuple[int, ...], of: str) -> None:
    if marked.shape != shape:
        raise PromptError(
            f"what is marked has the shape {marked.shape}, {of} {shape}; wanted the same"
        )


def _sides(bbox: object) -> list[tuple[int, int]]:
    """Rounded sides, wherever they lie; none is empty."""
    sides = []
    pairs = list(bbox) if isinstance(bbox, list | tuple | np.ndarray) else []
    for pair in pairs:
        if not isinstance(pair, list | tuple | np.ndarray) or len(pair) != 2:
            break
        start, stop = (whole(value, "a box's side") for value in pair)
        if stop <= start:
            break
        sides.append((start, stop))
    if len(sides) != 3 or len(pairs) != 3:
        raise PromptError(
            f"a box is {shown(bbox)}; wanted [[k0, k1], [j0, j1], [i0, i1]], each start below its stop"
        )
    return sides
