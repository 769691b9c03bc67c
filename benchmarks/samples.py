"""Training sequences cut from a pool of phantoms: a few slices, some objects, a prompt, all augmented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor
from torch.utils.data import IterableDataset

from benchmarks.phantoms import TRAINING_SEEDS, make_flow, make_volume
from runtime.contract import LABEL_BOX_START, LABEL_BOX_STOP

Rng = np.random.Generator
FLOW_SHARE = 0.2  # of the pool
# Of the sequences: neighbouring slices; unrelated images; slices each moved and flipped, a step towards these.
VOLUME, FLOW, SCATTERED = 0.75, 0.12, 0.13
MIN_AREA, MAX_SHARE = (
    70,
    0.33,
)  # of an object on its prompted slice: pixels at 256, share of the slice
MIN_CONTRAST = 9  # grey levels between an object and its surroundings
VANISHING_SHARE = 0.6  # of sequences that prefer objects which end within them
CORRUPT_SHARE = 0.12


class Batch(NamedTuple):
    """B sequences of T slices with K objects each; rows are (sequence, object).

    images uint8 (B, T, S, S); truth float (B * K, T, S, S); boxes (B * K, 2, 2) and clicks (B * K, 3, 2) in model
    pixels (x, y); box_labels (B * K, 2), click_labels (B * K, 3); is_flow bool (B * K,).
    """

    images: Tensor
    truth: Tensor
    boxes: Tensor
    box_labels: Tensor
    clicks: Tensor
    click_labels: Tensor
    is_flow: Tensor


def fill_pool(folder: Path, count: int) -> None:
    """Make `count` phantoms, unless they are there already; each is a file of (2, z, y, x): pixels, labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        is_flow = index % round(1 / FLOW_SHARE) == 0
        path = folder / f"{'flow' if is_flow else 'volume'}{index:05d}.npy"
        if not path.exists():
            made = (make_flow if is_flow else make_volume)(TRAINING_SEEDS + index, 24)
            part = path.with_suffix(".part")
            with part.open("wb") as stream:
                np.save(stream, np.stack([made.pixels, made.labels]))
            part.rename(path)


@dataclass
class Sequences(IterableDataset[Batch]):
    """Endless batches.

    Attributes:
        folder: a filled pool; files that appear later are found.
        num_slices: T.
        size: S.
        num_sequences: B.
        num_objects: K.
        seed: of the first worker.
    """

    folder: Path
    num_slices: int
    size: int
    num_sequences: int
    num_objects: int
    seed: int

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        torch.manual_seed(int(rng.integers(2**31)))
        while True:
            files = sorted(self.folder.glob("*.npy"))
            drawn = [self._sequence(rng, files) for _ in range(self.num_sequences)]
            yield Batch(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    def _sequence(self, rng: Rng, files: list[Path]) -> Batch:
        cuts = (self._cut_volume, self._cut_flow, self._cut_scattered)
        kind = int(rng.choice(len(cuts), p=(VOLUME, FLOW, SCATTERED)))
        cut, is_flow = cuts[kind], kind > 0
        # A pool may be too small to hold any flow.
        fitting = [
            f for f in files if f.name.startswith("flow") == (cut == self._cut_flow)
        ] or files
        while True:
            pixels, labels = np.load(fitting[rng.integers(len(fitting))], mmap_mode="r")
            if (found := cut(rng, pixels, labels)) is None:
                continue
            images, masks = augment(rng, *found, self.size)
            if min(int(mask[0].sum()) for mask in masks) < 20:
                continue
            prompts = [draw_prompts(rng, mask[0].numpy() > 0) for mask in masks]
            drawn = (torch.stack(p) for p in zip(*prompts, strict=True))
            return Batch(images[None], masks, *drawn, torch.full((len(masks),), is_flow))

    def _cut_flow(
        self, rng: Rng, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        chosen = rng.permutation(len(pixels))[: self.num_slices]
        mask = labels[chosen] == 1
        if mask[0].sum() < MIN_AREA:
            return None
        return pixels[chosen], np.repeat(mask[None], self.num_objects, 0)

    def _cut_scattered(
        self, rng: Rng, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        if (found := self._cut_volume(rng, pixels, labels)) is None:
            return None
        images, masks = (array.copy() for array in found)
        for index in range(len(images)):
            away = tuple(rng.integers(-side // 4, side // 4 + 1) for side in images.shape[1:])
            flips = [axis for axis in (-2, -1) if rng.random() < 0.5]
            for array in (images[index], masks[:, index]):
                array[...] = np.flip(np.roll(array, away, (-2, -1)), flips)
        return images, masks

    def _cut_volume(
        self, rng: Rng, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        stride = 1 if rng.random() < 0.75 else 2
        gap = int(rng.integers(1, 6)) if rng.random() < 0.25 else 0
        steps = np.arange(self.num_slices) * stride
        steps[1:] += gap
        if steps[-1] >= len(pixels):
            return None
        first = int(rng.integers(0, len(pixels) - steps[-1]))
        chosen = first + steps
        if rng.random() < 0.5:
            chosen = len(pixels) - 1 - chosen
        start, last = labels[chosen[0]], labels[chosen[-1]]
        counts = np.bincount(start.ravel())
        ids = [i for i in range(1, len(counts)) if MIN_AREA <= counts[i] <= MAX_SHARE * start.size]
        rng.shuffle(ids)
        if rng.random() < VANISHING_SHARE:
            ids.sort(key=lambda i: bool((last == i).any()))
        ids = [i for i in ids[: 3 * self.num_objects] if _stands_out(pixels[chosen[0]], start == i)]
        if not ids:
            return None
        ids = (ids * self.num_objects)[: self.num_objects]
        own = np.asarray(labels[chosen])
        return pixels[chosen], np.stack([own == i for i in ids])


def _stands_out(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    ring = binary_dilation(mask, iterations=4) & ~binary_dilation(mask)
    return (
        bool(ring.any())
        and abs(float(image[mask].mean()) - float(image[ring].mean())) > MIN_CONTRAST
    )


def augment(
    rng: Rng, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], size: int
) -> tuple[Tensor, Tensor]:
    """Flips, a zoomed crop, grey-level changes and now and then a ruined slice.

    pixels (T, h, w) and masks (K, T, h, w) to uint8 (T, S, S) and float (K, T, S, S).
    """
    a = torch.from_numpy(np.array(pixels)).float() / 255
    b = torch.from_numpy(masks).float()
    for axis in (-1, -2):
        if rng.random() < 0.5:
            a, b = a.flip(axis), b.flip(axis)
    if rng.random() < 0.5:
        a, b = a.transpose(-1, -2), b.transpose(-1, -2)
    side = a.shape[-1]
    if rng.random() < 0.6:
        ys, xs = np.nonzero(b[0, 0].numpy())
        extent = max(int(np.ptp(ys)), int(np.ptp(xs)))
        crop = int(rng.uniform(min(max(112, 1.25 * extent), side), side + 1))
        y, x = (
            int(np.clip(v.mean() - crop * rng.uniform(0.2, 0.8), 0, side - crop)) for v in (ys, xs)
        )
        a, b = a[..., y : y + crop, x : x + crop], b[..., y : y + crop, x : x + crop]
    if a.shape[-1] != size:
        a, b = (
            F.interpolate(
                v.reshape(-1, 1, *v.shape[-2:]), (size, size), mode="bilinear", antialias=True
            ).reshape(*v.shape[:-2], size, size)
            for v in (a, b)
        )
        b = (b > 0.5).float()
    if rng.random() < 0.25:
        a = 1 - a
    if rng.random() < 0.3:
        a = a ** float(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.3:
        a = ((a - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.2, 0.2)).clamp(0, 1)
    if rng.random() < 0.2:
        a = (a + torch.randn(a.shape) * rng.uniform(0.01, 0.06)).clamp(0, 1)
    if len(a) > 2 and rng.random() < CORRUPT_SHARE:
        ruined = int(rng.integers(1, len(a)))
        if rng.random() < 0.7:
            a[ruined] = (a[ruined] + torch.randn(a[ruined].shape) * rng.uniform(0.15, 0.6)).clamp(
                0, 1
            )
        else:
            a[ruined], b[:, ruined] = 0, 0
    return (a * 255).to(torch.uint8), b


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
