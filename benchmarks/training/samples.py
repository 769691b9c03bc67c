"""Training sequences cut from a pool of phantoms: a few slices, some objects, a prompt, all augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.phantoms.shapes import Rng
from benchmarks.training.cuts import CUTS
from benchmarks.training.pool import Pool
from benchmarks.training.views import view
from runtime.bundle.contract import LABEL_BOX_START, LABEL_BOX_STOP
from runtime.serve.strokes import MAX_POINTS

Shape = tuple[int, int]  # slices of a sequence, sequences of a batch


class TrainingBatch(NamedTuple):
    """B sequences of T slices with R objects in all.

    images uint8 (B, T, S, S); sequence int64 (R,), the sequence of each object; truth float (R, T, S, S); boxes
    (R, 2, 2), clicks (R, 3, 2) and scribbles (R, MAX_POINTS, 2) in model pixels (x, y); box_labels (R, 2),
    click_labels (R, 3); is_flow bool (R,).
    """

    images: Tensor
    sequence: Tensor
    truth: Tensor
    boxes: Tensor
    box_labels: Tensor
    clicks: Tensor
    click_labels: Tensor
    scribbles: Tensor
    is_flow: Tensor


@dataclass(frozen=True)
class Sequences(Dataset[TrainingBatch]):
    """Batches by number: each is a function of seed, number, rank and pool, so that runs resume exactly.

    Attributes:
        pool: of phantoms.
        shapes: of batches, all as likely: long sequences in small batches, short ones in large.
        size: S.
        num_objects: of a sequence, at most.
        seed: of the run.
        rank: whose batches these are; a number has the same shape for all ranks, so that none waits long for others.
    """

    pool: Pool
    shapes: tuple[Shape, ...]
    size: int
    num_objects: int
    seed: int
    rank: int = 0

    def __getitem__(self, number: int) -> TrainingBatch:
        shape = np.random.default_rng([self.seed, number]).integers(len(self.shapes))
        num_slices, num_sequences = self.shapes[int(shape)]
        rng = np.random.default_rng([self.seed, number, self.rank])
        drawn = [self._sequence(rng, num_slices) for _ in range(num_sequences)]
        images, masks, flows = zip(*drawn, strict=True)
        counts = torch.tensor([len(mask) for mask in masks])
        truth = torch.cat(masks)
        first = [mask[0].numpy() > 0 for mask in truth]
        prompts = [draw_prompts(rng, mask) for mask in first]
        scribbles = torch.stack([draw_scribble(rng, mask) for mask in first])
        return TrainingBatch(
            torch.stack(images),
            torch.arange(len(counts)).repeat_interleave(counts),
            truth,
            *(torch.stack(part) for part in zip(*prompts, strict=True)),
            scribbles,
            torch.tensor(flows).repeat_interleave(counts),
        )

    def _sequence(self, rng: Rng, num_slices: int) -> tuple[Tensor, Tensor, bool]:
        while True:
            kind = str(rng.choice(list(CUTS), p=[share for *_, share in CUTS.values()]))
            cut, sources, _ = CUTS[kind]
            source = self.pool.draw(rng, sources)
            if (sequence := cut(rng, source, num_slices)) is None:
                continue
            if (seen := view(rng, sequence, self.size, self.num_objects)) is not None:
                return *seen, sequence.is_flow


def draw_prompts(rng: Rng, mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A jittered box and three clicks, the first inside; coordinates (x, y) with labels."""
    ys, xs = np.nonzero(mask)
    low, high = np.array([xs.min(), ys.min()]), np.array([xs.max(), ys.max()])
    extent = high - low + 1
    jitter = rng.normal(0, 0.06, (2, 2)) * extent * (rng.random() < 0.8)
    box = (np.stack([low, high]) + jitter.clip(-8, 8)).clip(0, mask.shape[0] - 1)
    pick = rng.integers(len(ys))
    first = (xs[pick], ys[pick])
    if rng.random() < 0.5:
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), mask.shape)
        first = (x, y)
    clicks, labels = [first], [1]
    while len(clicks) < 3:
        if rng.random() < 0.6:
            pick = rng.integers(len(ys))
            clicks.append((xs[pick], ys[pick]))
        else:
            near = rng.normal((low + high) / 2, extent).clip(0, mask.shape[0] - 1).astype(int)
            clicks.append((near[0], near[1]))
        labels.append(int(mask[clicks[-1][1], clicks[-1][0]]))
    corner_labels = torch.tensor([LABEL_BOX_START, LABEL_BOX_STOP])
    return (
        torch.tensor(box, dtype=torch.float32),
        corner_labels,
        torch.tensor(np.array(clicks), dtype=torch.float32),
        torch.tensor(labels),
    )


def draw_scribble(rng: Rng, mask: NDArray[np.bool_]) -> Tensor:
    """Points (MAX_POINTS, 2) as (x, y) of a stroke within a mask: a cross or a bent line; short ones repeat points."""
    inside = np.argwhere(mask)
    start = inside[rng.integers(len(inside))] if rng.random() < 0.5 else np.median(inside, 0)
    extent = np.sqrt(len(inside)) * rng.uniform(0.05, 0.5)
    along = np.linspace(-1, 1, 65)[:, None]
    if rng.random() < 0.5:
        one, other = rng.normal(size=2), rng.normal(0, 0.5, 2)
        stroke = along * one / np.hypot(*one) + along**2 * other
    else:
        stroke = np.concatenate([along * axis for axis in np.eye(2)])
    near = (start + extent * stroke).round().astype(int).clip(0, np.array(mask.shape) - 1)
    drawn = near[mask[near[:, 0], near[:, 1]]]
    if not len(drawn):  # a thin object that the stroke leaves at once
        drawn = inside[rng.integers(len(inside))][None]
    chosen = drawn[np.linspace(0, len(drawn) - 1, MAX_POINTS).round().astype(int)]
    return torch.tensor(chosen[:, ::-1].copy(), dtype=torch.float32)
