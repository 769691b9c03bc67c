"""Volumes that look like CT: a body of fat, muscle, organs, bone and vessels in Hounsfield units, lesions, a window.

`benchmarks.phantoms.phantoms` draws everything that a picture may be; here contrasts are those of soft tissue, 10 to 60
HU between a lesion and what surrounds it, under noise as grainy as a reconstruction's. For training alone: what is held
out to measure with are phantoms. No scan of a patient was used for any number here; they are textbook values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.phantoms.phantoms import Labelled
from benchmarks.phantoms.shapes import Array, Rng, object_opacity, smooth_field

AIR, LUNG, FAT, MUSCLE = -1000.0, -840.0, -100.0, 55.0
ORGAN_HU, VESSEL_HU, BONE_HU, NODULE_HU = (20, 130), (40, 260), (250, 900), (-20, 60)
CONTRAST_HU = (10, 60)  # of a lesion in soft tissue
NOISE_HU = (4, 22)
AERATED = -400.0  # what is darker is lung or air, where a lesion is as bright as water
# Level and width: abdomen, mediastinum, liver, lung, bone.
WINDOWS = ((40, 400), (50, 350), (80, 180), (-600, 1500), (300, 1800))
WINDOW_SHARES = (0.35, 0.2, 0.2, 0.15, 0.1)


def make_scan(seed: int, num_slices: int = 24, size: int = 256) -> Labelled:
    """A volume with 4 to 12 lesions, labelled from 1; several share a density, as metastases do."""
    rng = np.random.default_rng(seed)
    shape = (num_slices, size, size)
    image = _body(rng, shape)
    for _ in range(int(rng.integers(1, 6))):
        _fill(image, _blob(rng, shape, (35, 90)), rng.uniform(*ORGAN_HU), rng.uniform(0, 6), rng)
    if rng.random() < 0.35:
        for _ in range(2):
            _fill(image, _blob(rng, shape, (50, 100)), LUNG, 25, rng)
    for ends, radii, count in ((VESSEL_HU, (2, 9), (3, 14)), (BONE_HU, (6, 22), (0, 4))):
        for _ in range(int(rng.integers(*count))):
            family = "branch" if ends is VESSEL_HU else "ellipsoid"
            _fill(image, _blob(rng, shape, radii, family), rng.uniform(*ends), 5, rng)
    labels = np.zeros(shape, np.uint8)
    differences = rng.uniform(*CONTRAST_HU, 3) * rng.choice([-1, -1, 1], 3)
    for lesion in range(1, int(rng.integers(4, 13)) + 1):
        opacity = _blob(rng, shape, (4, 36), None, edge=float(np.exp(rng.uniform(-0.5, 1.6))))
        if not (inside := opacity > 0.5).any():
            continue
        level = _lesion_level(rng, float(np.median(image[inside])), differences)
        _fill(image, opacity, level, rng.choice([0, rng.uniform(0, 10)]), rng)
        labels[inside] = lesion
    return Labelled(_reconstruct(rng, image), labels)


def _lesion_level(rng: Rng, around: float, differences: NDArray[np.floating]) -> float:
    """HU of a lesion: a little off the tissue that it grows in, or near that of water where this is lung."""
    if around < AERATED:
        return float(rng.uniform(*NODULE_HU))
    return around + float(rng.choice(differences))


def _body(rng: Rng, shape: tuple[int, int, int]) -> Array:
    """Muscle within fat within air; in half of the volumes the picture lies within the body."""
    depth, height, width = shape
    reach = rng.uniform(0.35, 0.55) if rng.random() < 0.5 else 1.5
    y, x = np.ogrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    away = np.hypot(y / (reach * rng.uniform(0.65, 1)), x / reach)
    away = away + 0.05 * smooth_field(rng, shape, (min(2, depth), 5, 5))
    image = np.where(smooth_field(rng, shape, (min(3, depth), 6, 6)) > 0.3, MUSCLE, FAT)
    image[away > rng.uniform(0.75, 0.92)] = FAT
    image[away > 1] = AIR
    return image.astype(np.float32)


def _blob(
    rng: Rng,
    shape: tuple[int, int, int],
    radii: tuple[float, float],
    family: str | None = "blob",
    edge: float = 1.0,
) -> Array:
    """An opacity of a log-uniform radius, given in pixels of a slice of 256."""
    radius = float(np.exp(rng.uniform(*np.log(radii)))) * shape[2] / 256
    return object_opacity(rng, shape, radius, edge, family)


def _fill(image: Array, opacity: Array, level: float, grain: float, rng: Rng) -> None:
    """Blend a tissue in: its level in HU, and how much it varies from place to place."""
    inside = opacity > 0
    value = np.float32(level) + np.float32(grain) * rng.standard_normal(
        int(inside.sum()), np.float32
    )
    image[inside] += opacity[inside] * (value - image[inside])


def _reconstruct(rng: Rng, image: Array) -> NDArray[np.uint8]:
    """Blur in plane and across slices, noise with a grain, a window."""
    across = rng.uniform(0, 0.8) if len(image) > 1 and rng.random() < 0.5 else 0.0
    in_plane = rng.uniform(0.4, 1.3)
    image = gaussian_filter(image, (across, in_plane, in_plane))
    noise = np.zeros_like(image)
    for grain, share in ((rng.uniform(0.4, 0.9), 1.0), (rng.uniform(1.2, 3), rng.uniform(0, 0.6))):
        white = rng.standard_normal(image.shape, np.float32)
        coloured = gaussian_filter(white, (across / 2, grain, grain))
        noise += share * coloured / (coloured.std() + 1e-6)
    sigma = float(np.exp(rng.uniform(*np.log(NOISE_HU))))
    level, width = WINDOWS[int(rng.choice(len(WINDOWS), p=WINDOW_SHARES))]
    level, width = level + width * rng.uniform(-0.15, 0.15), width * rng.uniform(0.75, 1.4)
    image = image + sigma * noise / (noise.std() + 1e-6)
    return (np.clip((image - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)
