"""A folder of phantoms to cut training sequences from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.phantoms.phantoms import TRAINING_SEEDS, Labelled, make_flow, make_volume
from benchmarks.phantoms.scans import make_scan
from benchmarks.phantoms.shapes import Rng
from runtime.files.atomic import write_whole

NUM_SLICES = 24
MAKERS: dict[str, Callable[[int, int], Labelled]] = {
    "volume": make_volume,
    "scan": make_scan,
    "flow": make_flow,
}
CYCLE = (  # kinds of the numbers 0, 1, 2, ...
    "volume",
    "scan",
    "flow",
    "volume",
    "scan",
    "volume",
    "scan",
    "flow",
)


@dataclass(frozen=True)
class Pool:
    """Phantoms by number, made when they are first asked for and kept; those of a kind are spread evenly.

    Attributes:
        folder: where they are kept; made if missing.
        count: numbers are below it. It may grow from run to run.
    """

    folder: Path
    count: int

    def draw(self, rng: Rng, kinds: tuple[str, ...]) -> NDArray[np.uint8]:
        """Any phantom of these kinds: pixels and labels (2, z, y, x), read-only, on the disk."""
        while (kind := CYCLE[(index := int(rng.integers(self.count))) % len(CYCLE)]) not in kinds:
            pass
        path = self.folder / f"{kind}{index:05d}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            phantom = MAKERS[kind](TRAINING_SEEDS + index, NUM_SLICES)
            write_whole(
                path, lambda part: np.save(part, np.stack([phantom.pixels, phantom.labels]))
            )
        return cast(NDArray[np.uint8], np.load(path, mmap_mode="r"))
