"""Synthetic volumes and image sets with ground truth, randomised over everything a scanner or a body may do.

Objects are implicit shapes (ellipsoids, blobs, boxes, tubes that may branch) that appear, drift, twist and vanish from
slice to slice, among look-alikes of the same classes. Images are formed as scanners do: partial volume, blur, bias
field, correlated noise, uneven slices, a window. Every volume is a pure function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.phantoms.shapes import FAMILIES, Array, Rng, object_opacity, smooth_field

TRAINING_SEEDS, CALIBRATION_SEEDS, HELD_OUT_SEEDS = 1_000_000, 8_000_000, 9_000_000


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with truth.

    Attributes:
        pixels: uint8 (z, y, x).
        labels: uint8 (z, y, x), 0 outside; of a flow, 1 marks the object that all images share.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Appearance:
    """An appearance that several objects of a volume share."""

    grey: float
    texture: float
    core: float  # how much the middle differs
    edge: float  # softness in pixels


def make_volume(seed: int, num_slices: int = 33, size: int = 256) -> Labelled:
    """A volume with 4 to 16 objects, labelled from 1; later ones lie over earlier ones."""
    rng = np.random.default_rng(seed)
    shape = (num_slices, size, size)
    image = _background(rng, shape)
    if rng.random() < 0.5:
        _draw_body(rng, image)
    labels = np.zeros(shape, np.uint8)
    looks = [_look(rng) for _ in range(rng.integers(2, 6))]
    for object_id in range(1, int(rng.integers(4, 17)) + 1):
        radius = float(np.exp(rng.uniform(np.log(5.5), np.log(40)))) * size / 256
        if rng.random() < 0.12:
            radius = rng.uniform(35, 70) * size / 256
        alpha = object_opacity(rng, shape, radius, (look := _pick(rng, looks)).edge)
        _paint(rng, image, labels, alpha, look, object_id)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(5, 26))):
            speck = object_opacity(rng, shape, rng.uniform(2, 6) * size / 256, 1.0)
            _paint(rng, image, labels, speck, _look(rng), 0)
    return Labelled(_scan(rng, image, across_slices=True), labels)


def make_flow(seed: int, num_images: int = 16, size: int = 256) -> Labelled:
    """Unrelated pictures that share one object's looks and kind; its place, pose and size differ in each."""
    rng = np.random.default_rng(seed)
    look = _look(rng)
    radius = float(np.exp(rng.uniform(np.log(12), np.log(45)))) * size / 256
    family = str(rng.choice(FAMILIES[:3]))
    images = np.empty((num_images, size, size), np.float32)
    labels = np.zeros((num_images, size, size), np.uint8)
    for image, label in zip(images, labels, strict=True):
        picture = _background(rng, (1, size, size))
        marks = np.zeros_like(picture, np.uint8)
        for _ in range(int(rng.integers(0, 6))):
            other = Appearance(1 - look.grey + rng.uniform(-0.15, 0.15), 0.02, 0.0, look.edge)
            alpha = object_opacity(rng, picture.shape, radius * rng.uniform(0.5, 1.3), other.edge)
            _paint(rng, picture, marks, alpha, other, 0)
        alpha = object_opacity(
            rng, picture.shape, radius * rng.uniform(0.75, 1.33), look.edge, family
        )
        _paint(rng, picture, marks, alpha, look, 1, is_shared=True)
        image[:], label[:] = picture[0], marks[0]
    return Labelled(_scan(rng, images, across_slices=False), labels)


def _background(rng: Rng, shape: tuple[int, int, int]) -> Array:
    deep = min(3, shape[0])
    side = int(rng.integers(2, 8))
    fields = [smooth_field(rng, shape, (deep, side, side)) for _ in range(rng.integers(1, 6))]
    greys = rng.random(len(fields)).astype(np.float32)
    image = greys[np.argmax(fields, 0)]
    if rng.random() < 0.6:
        side = int(rng.integers(3, 12))
        patch = smooth_field(rng, shape, (deep, side, side)) > rng.uniform(0.3, 1.5)
        image[patch] = rng.random()
    for _ in range(int(rng.integers(0, 3))):
        side = int(rng.integers(4, 65))
        image += rng.uniform(0.01, 0.1) * smooth_field(rng, shape, (min(4, shape[0]), side, side))
    return image


def _draw_body(rng: Rng, image: Array) -> None:
    """Air around a noisy ellipse, sometimes with a rim like bone or skin."""
    depth, height, width = image.shape
    y, x = np.ogrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    wave = smooth_field(rng, image.shape, (min(2, depth), 5, 5)) * 0.04
    away = (
        np.hypot(y / rng.uniform(0.3, 0.56), x / rng.uniform(0.3, 0.56)).astype(np.float32) + wave
    )
    if rng.random() < 0.5:
        image[np.abs(away - 0.95) < rng.uniform(0.02, 0.07)] = rng.choice([0.05, 0.95])
    image[away > 1] = rng.choice([0.0, rng.uniform(0, 0.15)])


def _look(rng: Rng) -> Appearance:
    return Appearance(
        grey=float(rng.uniform(0.02, 0.98)),
        texture=float(rng.choice([0, rng.uniform(0.01, 0.08)])),
        core=float(rng.choice([0, 0, rng.uniform(-0.3, 0.3)])),
        edge=float(np.exp(rng.uniform(np.log(0.6), np.log(5)))),
    )


def _pick(rng: Rng, looks: list[Appearance]) -> Appearance:
    return looks[int(rng.integers(len(looks)))]


def _paint(
    rng: Rng,
    image: Array,
    labels: NDArray[np.uint8],
    alpha: Array,
    look: Appearance,
    object_id: int,
    is_shared: bool = False,
) -> None:
    """Draw an object over what is there; its grey is the look's own if it must be the same in every image."""
    present = alpha > 0
    if not present.any():
        return
    grey = look.grey
    if (
        not is_shared and rng.random() < 0.4
    ):  # relative to what is there, so that contrast may be low
        contrast = np.exp(rng.uniform(np.log(0.07), np.log(0.6))) * rng.choice([-1, 1])
        grey = (
            float(np.clip(image[alpha > 0.5].mean() + contrast, 0, 1))
            if (alpha > 0.5).any()
            else grey
        )
    value = np.full(int(present.sum()), grey, np.float32)
    value += look.core * (alpha[present] ** 4)
    value += look.texture * rng.standard_normal(len(value)).astype(np.float32)
    image[present] += alpha[present] * (value - image[present])
    labels[alpha > 0.5] = object_id


def _scan(rng: Rng, image: Array, across_slices: bool) -> NDArray[np.uint8]:
    """Image formation; where slices are unrelated, nothing is blurred across them."""
    from scipy.ndimage import gaussian_filter

    depth_sigma = (
        rng.uniform(0, 0.7) if across_slices and image.shape[0] > 1 and rng.random() < 0.4 else 0
    )
    in_plane = rng.uniform(0.3, 1.4)
    image = gaussian_filter(image, (depth_sigma, in_plane, in_plane))
    image = image * (
        1 + rng.uniform(0, 0.25) * smooth_field(rng, image.shape, (min(2, len(image)), 3, 3))
    )
    sigma = np.exp(rng.uniform(np.log(0.004), np.log(0.08)))
    noise = rng.standard_normal(image.shape).astype(np.float32)
    if rng.random() < 0.5:
        noise = gaussian_filter(noise, (0, 0.8, 0.8))
        noise /= noise.std()
    image = np.hypot(image + sigma * noise, sigma) if rng.random() < 0.3 else image + sigma * noise
    image = image * (1 + rng.normal(0, 0.02, (len(image), 1, 1)))
    low, high = np.quantile(image[:, ::4, ::4], [rng.uniform(0, 0.05), rng.uniform(0.95, 1)])
    image = np.clip((image - low) / max(high - low, 1e-3), 0, 1) ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.2:
        image = 1 - image
    return (image * 255).astype(np.uint8)
