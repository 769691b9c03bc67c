"""Raw uint8 slices to the encoder's input: Pillow's bicubic resize, then ImageNet normalisation.

The resize rounds to uint8 after each of its two passes, as upstream's frame loading does
(sam2/utils/misc.py load_video_frames); aspect ratio is not kept and nothing is padded. On a GPU the same integers are
computed from the same tables (Pillow's src/libImaging/Resample.c), so that both give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernels.kernel import Arrays, Kernel, KernelCase, Launch, Numbers, Shapes, blocks

THREADS = 256
CUBIC = -0.5  # Pillow's bicubic
CUBIC_SUPPORT = 2.0
PRECISION_BITS = 22  # of a tap


def preprocess(
    images: NDArray[np.uint8], size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Slices (n, h, w) or (n, h, w, 3) uint8 to normalised float32 (n, 3, size, size)."""
    shift, scale = (np.asarray(v, np.float32) for v in (mean, std))
    out = np.empty((len(images), 3, size, size), np.float32)
    for image, target in zip(images, out, strict=True):
        resized = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        planes = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
        # In place: temporaries of this size are pages that the system has to clear each time.
        np.divide(planes, np.float32(255), out=target[: len(planes)])
        for channel in reversed(range(3)):  # a grey image's only plane last
            np.subtract(target[min(channel, len(planes) - 1)], shift[channel], out=target[channel])
            target[channel] /= scale[channel]
    return out


@lru_cache(maxsize=64)
def bicubic_taps(size_in: int, size_out: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First input (size_out,) and integer taps (size_out, k) of Pillow's bicubic resize along one axis."""
    scale = size_in / size_out
    spread = max(scale, 1.0)
    support = CUBIC_SUPPORT * spread
    centres = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), size_in)
    reach = np.arange(int(np.ceil(support)) * 2 + 1)
    at = first[:, None] + reach
    weights = np.where(at < last[:, None], _cubic((at - centres[:, None] + 0.5) / spread), 0.0)
    # Pillow adds taps up one by one.
    total = np.cumsum(weights, 1)[:, -1:]
    scaled = weights / total * (1 << PRECISION_BITS)
    return first.astype(np.int32), np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resized(images: NDArray[np.uint8], size: int, axes: Sequence[int]) -> NDArray[np.uint8]:
    """Some axes of images resized by `bicubic_taps`, in this order: what the GPU does, in numpy."""
    for axis in axes:
        first, taps = bicubic_taps(images.shape[axis], size)
        lines = np.moveaxis(images, axis, -1).astype(np.int32)
        at = np.minimum(first[:, None] + np.arange(taps.shape[1]), lines.shape[-1] - 1)
        sums = np.einsum("...ok,ok->...o", lines[..., at], taps) + (1 << PRECISION_BITS - 1)
        clipped = (sums >> PRECISION_BITS).clip(0, 255).astype(np.uint8)
        images = np.moveaxis(clipped, -1, axis)
    return images


PROBED_PIXELS = 512


@lru_cache(maxsize=64)
def axis_order(height: int, width: int, size: int) -> tuple[int, int]:
    """Which axis of (n, height, width) Pillow resizes first: it depends on the shape and on Pillow's version.

    Rounding in between makes the order show, so that it is found by comparing both with Pillow once for each shape. On
    small images one probe may come out alike either way, hence as many as hold PROBED_PIXELS in the result.
    """
    count = -(-PROBED_PIXELS // (size * size))
    probes = np.random.default_rng(0).integers(0, 256, (count, height, width)).astype(np.uint8)
    cubic = Image.Resampling.BICUBIC
    truth = [np.asarray(Image.fromarray(probe).resize((size, size), cubic)) for probe in probes]
    columns_first = np.array_equal(resized(probes, size, (2, 1)), truth)
    return (2, 1) if columns_first else (1, 2)


def _channels(images: tuple[int, ...]) -> int:
    return images[3] if len(images) == 4 else 1


def _half_way(shapes: Shapes, size: int) -> tuple[int, ...]:
    """Shape after the first axis has been resized."""
    n, height, width = shapes["images"][:3]
    shape = [n, height, width, _channels(shapes["images"])]
    shape[axis_order(height, width, size)[0]] = size
    return tuple(shape)


def _outputs(shapes: Shapes, numbers: Numbers) -> dict[str, tuple[tuple[int, ...], str]]:
    n, size, channels = shapes["images"][0], numbers["size"], _channels(shapes["images"])
    return {
        "half_way": (_half_way(shapes, size), "uint8"),
        "resized": ((n, size, size, channels), "uint8"),
        "image": ((n, 3, size, size), "float32"),
    }


def _tables(shapes: Shapes, numbers: Numbers) -> Arrays:
    tables: dict[str, NDArray[Any]] = {}
    for axis in (1, 2):
        first, taps = bicubic_taps(shapes["images"][axis], numbers["size"])
        tables |= {f"first_{axis}": first, f"taps_{axis}": taps}
    return tables | {name: np.asarray(numbers[name], np.float32) for name in ("mean", "std")}


def _plan(shapes: Shapes, numbers: Numbers) -> list[Launch]:
    n, height, width = shapes["images"][:3]
    size, channels = numbers["size"], _channels(shapes["images"])
    first, second = axis_order(height, width, size)
    count, pixels = n * 3 * size * size, size * size
    before = (n, height, width, channels)
    return [
        _resize(first, before, size, ("images", "half_way")),
        _resize(second, _half_way(shapes, size), size, ("half_way", "resized")),
        Launch(
            "normalise",
            (blocks(count, THREADS), 1, 1),
            (THREADS, 1, 1),
            (
                "resized",
                "mean",
                "std",
                "image",
                np.int64(count),
                np.int32(pixels),
                np.int32(channels),
            ),
        ),
    ]


def _resize(axis: int, shape: tuple[int, ...], size: int, names: tuple[str, str]) -> Launch:
    count = math.prod(shape) // shape[axis] * size
    inner, num_taps = math.prod(shape[axis + 1 :]), bicubic_taps(shape[axis], size)[1].shape[1]
    read, written = names
    sizes = (np.int32(number) for number in (shape[axis], size, inner, num_taps))
    return Launch(
        "resize_axis",
        (blocks(count, THREADS), 1, 1),
        (THREADS, 1, 1),
        (read, f"first_{axis}", f"taps_{axis}", written, np.int64(count), *sizes),
    )


def _case(*shape: int, size: int) -> KernelCase:
    images = np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return KernelCase({"images": images}, {"size": size, "mean": mean, "std": std})


KERNEL = Kernel(
    "preprocess",
    "preprocess.cu",
    lambda images, size, mean, std: {"image": preprocess(images, size, mean, std)},
    _outputs,
    _plan,
    {
        "shrunk": lambda: _case(2, 70, 90, size=32),
        "enlarged": lambda: _case(1, 20, 17, size=48),
        "colour": lambda: _case(2, 33, 40, 3, size=32),
        "as it is": lambda: _case(1, 32, 32, size=32),
        "one axis": lambda: _case(1, 32, 57, size=32),
        "columns first": lambda: _case(1, 60, 20, size=32),
        "tiny": lambda: _case(1, 1, 2, size=16),
    },
    lambda: _case(16, 630, 630, size=512),
    tables=_tables,
)
