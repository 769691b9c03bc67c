"""How networks that see single images want them: one image to the encoder's input, and logits back to its pixels.

Each of these families prepares images in its own way, and a wrong one gives bad masks without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernels.area_resize import area_resize
from kernels.resize import resize
from kernels.spline_resize import spline_resize

Floats = NDArray[np.float32]
Shape = tuple[int, int]

SAM_MEAN = (123.675, 116.28, 103.53)  # segment_anything/build_sam.py
SAM_STD = (58.395, 57.12, 57.375)
TRUNCATION_SLACK = 1e-9
LEAST_RANGE = 1e-8  # MedSAM's and LiteMedSAM's guard against images of one value
LARGEST_PROBABILITY = 1 - 2**-24


@dataclass(frozen=True, slots=True)
class Profile:
    """What one family does.

    Attributes:
        fitted: shape (y, x) of an image and side S of the network's to the shape that it is resized to; what is left
            of the square, on the right and below, is zeros.
        prepared: an image and the fitted shape to three planes of that shape, or one for all three.
        restored: low-resolution logits (4 G, 4 G), S, the fitted shape and the image's, to logits of the image's
            shape, of which those above zero are inside.
        whole_pixels: whether corners of boxes are cut off to whole pixels of the network's square.
        one_scale: whether coordinates are scaled by the longest side along both axes.
        boxes_alone: whether the family was trained with one box for an object, and nothing else.
    """

    fitted: Callable[[Shape, int], Shape]
    prepared: Callable[[NDArray[np.uint8], Shape], Floats]
    restored: Callable[[Floats, int, Shape, Shape], Floats]
    whole_pixels: bool = False
    one_scale: bool = False
    boxes_alone: bool = False

    def image(self, image: NDArray[np.uint8], size: int) -> Floats:
        """An image, uint8 (y, x) or (y, x, 3), as the encoder takes it: float32 (1, 3, size, size)."""
        height, width = fitted = self.fitted(image.shape[:2], size)
        out = np.zeros((1, 3, size, size), np.float32)
        out[0, :, :height, :width] = self.prepared(image, fitted)
        return out

    def scale(self, shape: Shape, size: int) -> tuple[float, float]:
        """Pixels of a square of `size` for each pixel of an image of `shape`, along y and x."""
        if self.one_scale:
            return (size / max(shape),) * 2
        fitted = self.fitted(shape, size)
        return fitted[0] / shape[0], fitted[1] / shape[1]

    def logits(self, low_res: Floats, size: int, shape: Shape) -> Floats:
        """Low-resolution logits (4 G, 4 G) at the size of an image of `shape`; above zero is inside."""
        return self.restored(low_res, size, self.fitted(shape, size), shape)


def longest_side(shape: Shape, size: int) -> Shape:
    """The shape of an image whose longer side becomes `size`; segment_anything/utils/transforms.py."""
    scale = size / max(shape)
    height, width = (max(int(side * scale + 0.5), 1) for side in shape)
    return height, width


def _square(shape: Shape, size: int) -> Shape:
    return size, size


def _planes(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """(y, x) or (y, x, 3) to (1 or 3, y, x)."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _sam(image: NDArray[np.uint8], shape: Shape) -> Floats:
    """Pillow's antialiased bilinear filter, then mean and deviation of ImageNet."""
    resized = Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (SAM_MEAN, SAM_STD))
    return np.asarray((_planes(np.asarray(resized)).astype(np.float32) - mean) / std, np.float32)


def _medsam(image: NDArray[np.uint8], shape: Shape) -> Floats:
    """Cubic splines, cut off to whole numbers, then stretched from 0 to 1.

    Upstream leaves to rounding whether what was a whole number before stays one or becomes the next lower one, as it
    does in flat areas; here it stays.
    """
    whole = np.floor(spline_resize(image, shape) + TRUNCATION_SLACK)
    return _stretched(whole)


def _litemedsam(image: NDArray[np.uint8], shape: Shape) -> Floats:
    """Area averages, then stretched from 0 to 1, before zeros are put around."""
    return _stretched(area_resize(image, shape).astype(np.float64))


def _stretched(image: NDArray[np.float64]) -> Floats:
    lowest = image.min()
    return _planes((image - lowest) / max(image.max() - lowest, LEAST_RANGE)).astype(np.float32)


def _sam_logits(low_res: Floats, size: int, fitted: Shape, shape: Shape) -> Floats:
    """To the network's square, without what was not image, and from there to the image: upstream rounds twice."""
    part = resize(low_res, (size, size))[: fitted[0], : fitted[1]]
    return resize(part, shape)


def _medsam_logits(low_res: Floats, size: int, fitted: Shape, shape: Shape) -> Floats:
    """Probabilities are interpolated, not logits, which puts borders elsewhere."""
    with np.errstate(over="ignore"):
        probability = resize(1 / (1 + np.exp(-low_res)), shape)
    p = probability.astype(np.float64).clip(1 - LARGEST_PROBABILITY, LARGEST_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)), np.float32)


def _litemedsam_logits(low_res: Floats, size: int, fitted: Shape, shape: Shape) -> Floats:
    """Low-resolution logits have the size of the network's square already."""
    return resize(low_res[: fitted[0], : fitted[1]], shape)


IMAGE_PROFILES: Mapping[str, Profile] = {
    "sam": Profile(longest_side, _sam, _sam_logits),
    "medsam": Profile(_square, _medsam, _medsam_logits, boxes_alone=True),
    "litemedsam": Profile(
        longest_side,
        _litemedsam,
        _litemedsam_logits,
        whole_pixels=True,
        one_scale=True,
        boxes_alone=True,
    ),
}
"""By the name that a bundle's manifest has. Sources: segment_anything (dca509f) predictor.py and utils/transforms.py;
MedSAM (d71e8a1) MedSAM_Inference.py; its branch LiteMedSAM (b0fab47) CVPR24_LiteMedSAM_infer.py."""
