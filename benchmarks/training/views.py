"""How a training sequence is seen: the whole slice or a window about its object, turned, and with other grey levels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.phantoms.shapes import Rng
from benchmarks.training.cuts import MIN_AREA, Cut

WHOLE, ZOOMED, CROPPED = 0.25, 0.55, 0.2  # of the views
ZOOMS = (1.8, 5.0)  # sides of a zoomed window in extents of the object's box
MIN_WINDOW, MIN_CROP = 24, 112  # pixels of a slice
OFF_CENTRE = 0.08  # of a zoomed window: how far its object may lie from the middle
CORRUPT_SHARE = 0.12
MIN_VISIBLE = 20  # pixels of an object in the prompted view


def view(rng: Rng, cut: Cut, size: int, num_objects: int) -> tuple[Tensor, Tensor] | None:
    """The slices at the network's size, and masks of the leader and of others that are seen with it.

    Returns uint8 (T, S, S) and float (K, T, S, S), 1 <= K <= num_objects, or None where the leader is not seen.
    """
    grids = _grids(rng, cut, size)
    images = _sample(torch.from_numpy(cut.pixels.copy()).float()[:, None], grids)[:, 0] / 255
    first = F.grid_sample(
        torch.from_numpy(cut.labels[:1, None].astype(np.float32)),
        grids[:1],
        "nearest",
        align_corners=False,
    )
    seen = np.bincount(first.numpy().astype(np.uint8).ravel(), minlength=256)
    areas = np.bincount(cut.labels[0].ravel(), minlength=256)
    whole = (seen >= MIN_VISIBLE) & (areas >= MIN_AREA)
    others = [] if cut.is_flow and not cut.apart else np.flatnonzero(whole[1:]) + 1
    ids = [cut.leader, *(int(i) for i in rng.permutation(others) if i != cut.leader)][:num_objects]
    if seen[cut.leader] < MIN_VISIBLE:
        return None
    masks = torch.from_numpy(np.stack([cut.labels == i for i in ids], 1)).float()
    masks = (_sample(masks, grids) > 0.5).float().movedim(1, 0)
    masks = masks[masks[:, 0].flatten(1).sum(1) >= MIN_VISIBLE]
    return _regrade(rng, images, masks.contiguous()) if len(masks) else None


def _sample(stack: Tensor, grids: Tensor) -> Tensor:
    return F.grid_sample(stack, grids, "bilinear", align_corners=False)


def _grids(rng: Rng, cut: Cut, size: int) -> Tensor:
    """Where each pixel of each view is looked up, (T, S, S, 2) in `grid_sample`'s coordinates; black beyond."""
    side = cut.labels.shape[-1]
    window, middle = _window(rng, cut.labels[0] == cut.leader)
    turn = np.eye(2)[:: rng.choice([1, -1])] * rng.choice([-1.0, 1.0], (2, 1))
    thetas = []
    for index in range(len(cut.labels)):
        away, angle, scale = np.zeros(2), 0.0, 1.0
        if index and cut.apart:
            away = cut.apart * rng.uniform(-0.5, 0.5, 2) * window
            angle, scale = (
                cut.apart * rng.uniform(-1, 1),
                np.exp(cut.apart * rng.uniform(-0.3, 0.3)),
            )
        sin, cos = np.sin(angle), np.cos(angle)
        matrix = turn @ np.array([[cos, -sin], [sin, cos]]) * (scale * window / side)
        centre = 2 * (middle + away) / side - 1
        thetas.append(np.hstack([matrix, centre[:, None]]))
    theta = torch.from_numpy(np.stack(thetas)).float()
    return F.affine_grid(theta, [len(thetas), 1, size, size], align_corners=False)


def _window(rng: Rng, mask: NDArray[np.bool_]) -> tuple[float, NDArray[np.floating]]:
    """Side and middle (x, y) of a window that lies within the slice, in pixels."""
    side = mask.shape[-1]
    ys, xs = np.nonzero(mask)
    box = np.array([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]], float)
    extent, middle = float((box[1] - box[0]).max()), box.mean(0)
    how = rng.choice(3, p=(WHOLE, ZOOMED, CROPPED))
    if how == 0:
        return float(side), np.full(2, side / 2)
    if how == 1:
        window = max(extent * np.exp(rng.uniform(*np.log(ZOOMS))), MIN_WINDOW)
        middle = middle + rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2) * window
    else:
        window = rng.uniform(min(max(MIN_CROP, 1.25 * extent), side), side)
        middle = middle + rng.uniform(-0.3, 0.3, 2) * window
    window = min(window, side)
    return window, middle.clip(window / 2, side - window / 2)


def _regrade(rng: Rng, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Grey-level changes of a whole sequence, and now and then a ruined slice."""
    if rng.random() < 0.25:
        images = 1 - images
    if rng.random() < 0.3:
        images = images ** float(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.3:
        images = (images - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.2, 0.2)
    if rng.random() < 0.2:
        images = images + rng.uniform(0.01, 0.06) * _noise(rng, images)
    if len(images) > 2 and rng.random() < CORRUPT_SHARE:
        ruined = int(rng.integers(1, len(images)))
        how = rng.random()
        if how < 0.5:
            images[ruined] += rng.uniform(0.15, 0.6) * _noise(rng, images[ruined])
        else:  # nothing is left of it: black, or noise alone
            images[ruined] = 0 if how < 0.75 else 0.5 + 0.24 * _noise(rng, images[ruined])
            masks[:, ruined] = 0
    return (images.clamp(0, 1) * 255).to(torch.uint8), masks


def _noise(rng: Rng, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32))
