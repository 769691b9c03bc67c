"""Which slices of a phantom a training sequence shows, and which object leads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from benchmarks.phantoms.shapes import Rng

MIN_AREA, MAX_SHARE = 50, 0.33  # of an object on its prompted slice: pixels, share of the slice
MIN_CONTRAST = 7  # grey levels between an object and its surroundings
# Of sequences whose leading object ends within them, where there is such an object.
ENDING_SHARE = 0.85
STRIDES, STRIDE_SHARES = (1, 2, 3), (0.7, 0.2, 0.1)
GAP_SHARE, GAPS = 0.35, (1, 6)  # between the prompted slice and the next one


@dataclass(frozen=True, slots=True)
class Cut:
    """Slices of a sequence, the prompted one first.

    Attributes:
        pixels, labels: uint8 (T, h, w).
        leader: the label about which windows are laid.
        apart: how much each slice is moved, turned and scaled on its own, from 0 (as scanned) to 1 (anywhere).
        is_flow: the slices have no order, so that memories carry no temporal code.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    leader: int
    apart: float = 0.0
    is_flow: bool = False


Source = NDArray[np.uint8]  # (2, z, y, x): pixels, labels


def cut_volume(rng: Rng, source: Source, num_slices: int) -> Cut | None:
    """Slices in order, up or down, from one where an object can be prompted; often the object ends on the way."""
    pixels, labels = source if rng.random() < 0.5 else source[:, ::-1]
    steps = np.arange(num_slices) * int(rng.choice(STRIDES, p=STRIDE_SHARES))
    steps[1:] += int(rng.integers(*GAPS)) if rng.random() < GAP_SHARE else 0
    areas = np.stack([np.bincount(label.ravel(), minlength=256)[1:] for label in labels])
    fits = (areas >= MIN_AREA) & (areas <= MAX_SHARE * labels[0].size)
    fits = fits[: max(len(pixels) - steps[-1], 0)]
    ending = fits & (areas[steps[-1] :][: len(fits)] == 0)
    if rng.random() < ENDING_SHARE and ending.any():
        fits = ending
    if not fits.any():
        return None
    leader = int(rng.choice(np.flatnonzero(fits.any(0))))
    chosen = int(rng.choice(np.flatnonzero(fits[:, leader]))) + steps
    leader += 1  # labels begin with it
    if not stands_out(pixels[chosen[0]], labels[chosen[0]] == leader):
        return None
    return Cut(pixels[chosen], labels[chosen], leader)


def cut_scattered(rng: Rng, source: Source, num_slices: int) -> Cut | None:
    """Slices of a volume, each moved on its own: from neighbours to what is nearly a flow."""
    cut = cut_volume(rng, source, num_slices)
    return cut and replace(cut, apart=float(rng.random()), is_flow=True)


def cut_flow(rng: Rng, source: Source, num_slices: int) -> Cut | None:
    """Pictures of a flow, in any order."""
    chosen = rng.permutation(source.shape[1])[:num_slices]
    pixels, labels = source[:, chosen]
    if (labels[0] == 1).sum() < MIN_AREA or not stands_out(pixels[0], labels[0] == 1):
        return None
    return Cut(pixels, labels, 1, is_flow=True)


CUTS: dict[str, tuple[Callable[[Rng, Source, int], Cut | None], tuple[str, ...], float]] = {
    "volume": (cut_volume, ("volume", "scan"), 0.80),
    "scattered": (cut_scattered, ("volume", "scan"), 0.12),
    "flow": (cut_flow, ("flow",), 0.08),
}
"""How a sequence is cut, of which phantoms, and how often."""


def stands_out(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    """Whether an object's mean grey differs from that of a ring about it."""
    ring = binary_dilation(mask, iterations=4) & ~binary_dilation(mask)
    if not ring.any():
        return False
    return bool(abs(float(image[mask].mean()) - float(image[ring].mean())) > MIN_CONTRAST)
