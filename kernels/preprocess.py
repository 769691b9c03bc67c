"""Raw uint8 slices to the encoder's input: Pillow's bicubic resize, then ImageNet normalisation.

The resize rounds to uint8 after each of its two passes, as upstream's frame loading does
(sam2/utils/misc.py load_video_frames); aspect ratio is not kept and nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def preprocess(
    images: NDArray[np.uint8], size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Slices (n, h, w) or (n, h, w, 3) uint8 to normalised float32 (n, 3, size, size)."""
    shift, scale = (np.asarray(v, np.float32)[:, None, None] for v in (mean, std))
    out = np.empty((len(images), 3, size, size), np.float32)
    for image, target in zip(images, out, strict=True):
        resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        planes = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
        target[:] = (planes.astype(np.float32) / np.float32(255) - shift) / scale
    return out
