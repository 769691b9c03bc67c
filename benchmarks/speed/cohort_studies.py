"""Studies for the trial of a cohort's promises: labelled phantoms, real stacks, and files that are broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import trange

from benchmarks.phantoms.phantoms import HELD_OUT_SEEDS, make_volume
from runtime.files.atomic import write_whole

SIZE, SLICES, OBJECTS, TURNS = 96, (12, 24), 2, 8
BROKEN = 3  # exit code of a study that cannot be read, or is asked for nothing


def write_studies(folder: Path, num_phantoms: int, lesions: Path | None) -> dict[str, int]:
    """Studies of all kinds in a new folder. Returns names to the exit codes that they should have."""
    folder.mkdir()
    codes = {}
    for number, (pixels, labels) in enumerate(_phantoms(num_phantoms)):
        kept = np.unique(labels[labels > 0])[:OBJECTS]
        arrays = {"imgs": pixels, "gts": np.where(np.isin(labels, kept), labels, 0)}
        write_whole(
            folder / f"phantom{number:03}.npz",
            lambda part, arrays=arrays: np.savez_compressed(part, **arrays),
        )
        codes[f"phantom{number:03}"] = 0
    for path in sorted(lesions.glob("*.npz")) if lesions else ():
        (folder / path.name).write_bytes(path.read_bytes())
        codes[path.stem] = 0
    return codes | _write_broken(folder, (folder / "phantom000.npz").read_bytes())


def _phantoms(count: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Voxels and labels; each phantom stands for eight studies, turned over along its axes, of as many depths."""
    bases = -(-count // TURNS)
    for number in trange(bases, desc="phantoms", unit="phantom", file=sys.stderr):
        phantom = make_volume(HELD_OUT_SEEDS + number, SLICES[1], SIZE)
        for turn in range(min(TURNS, count - TURNS * number)):
            axes = tuple(axis for axis in range(3) if turn >> axis & 1)
            depth = SLICES[0] + (number + turn) % (SLICES[1] - SLICES[0] + 1)
            pixels, labels = (np.flip(a, axes)[:depth] for a in (phantom.pixels, phantom.labels))
            yield pixels, labels


def _write_broken(folder: Path, whole: bytes) -> dict[str, int]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    with np.load(folder / "phantom000.npz") as arrays:
        pixels, labels = arrays["imgs"], arrays["gts"]
    np.savez(folder / "broken-unasked.npz", imgs=pixels)
    np.savez(folder / "broken-without-an-object.npz", imgs=pixels, gts=np.zeros_like(labels))
    np.savez(folder / "broken-other-grid.npz", imgs=pixels, gts=labels[1:])
    asked = {"objects": [{"prompts": [{"slice": 1, "box": {"y": [2, 9], "x": [2, 9]}}]}]}
    for name, content in {
        "words.json": json.dumps(asked).encode(),
        "cut.npz": whole[: len(whole) // 2],
        "flipped.npz": bytes(flipped),
        "empty.npz": b"",
        "words.nrrd": b"this is no volume",
        "words.nii.gz": b"nor is this",
    }.items():
        (folder / f"broken-{name}").write_bytes(content)
    stems = {path.name.removesuffix(".gz").rpartition(".")[0] for path in folder.glob("broken-*")}
    twice = {
        "broken-words.nrrd",
        "broken-words.nii.gz",
    }  # of one stem, so that they keep their suffix
    return dict.fromkeys((stems - {"broken-words"}) | twice, BROKEN)
