"""Do masks of phantoms stay as good in eight bits? Decided on the machine that exports, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.bundle.bundle import Bundle
from runtime.devices.machine import instruction_sets, machine_name
from runtime.errors import Mismatch
from runtime.measure.phantom import NUM_OBJECTS, Phantom, make_phantom
from runtime.model import Model, load
from runtime.predictors import ImagePredictor, VolumePredictor

MAX_DICE_DROP = 0.005
PHANTOMS, PHANTOM_SLICES = 6, 9


def check_dice(bundle: Bundle, max_drop: float = MAX_DICE_DROP) -> dict[str, Any]:
    """Mean Dice of a bundle in fp32 and in eight bits on phantoms, each object boxed on the middle slice and followed
    both ways, if the network can follow.

    Returns the figures, for the manifest. Raises Mismatch unless eight bits have lost at most `max_drop`.
    """
    with tqdm(total=2 * PHANTOMS, desc="check int8", unit="phantom", file=sys.stderr) as bar:
        before, after = (mean_dice(bundle, name, bar.update) for name in ("ort", "ort-int8"))
    figures = {
        "dice_fp32": round(before, 4),
        "dice_int8": round(after, 4),
        "phantoms": PHANTOMS,
        "machine": machine_name(),
        "instructions": ", ".join(instruction_sets()),
    }
    if not before - after <= max_drop:
        raise Mismatch(
            f"eight bits lower the mean Dice on {PHANTOMS} phantoms from {before:.4f} to {after:.4f}, by "
            f"{before - after:.4f}; allowed are {max_drop:g} (--max-dice-drop). Export without --precision int8"
        )
    return figures


def mean_dice(bundle: Bundle, backend: str, progress: Callable[[], object] = lambda: None) -> float:
    """Mean over phantoms and objects of the Dice of an object's whole mask; of that on the middle slice where the
    network has no memory.
    """
    model, size = load(bundle, backend).plain(), bundle.model.image_size
    judge = _dice_on_the_middle if bundle.model.kind == "image" else _dice_of_objects
    scores = []
    for seed in range(PHANTOMS):
        scores += judge(model, make_phantom((PHANTOM_SLICES, size, size), seed))
        progress()
    return float(np.mean(scores))


def _dice_on_the_middle(model: Model, phantom: Phantom) -> list[float]:
    middle = len(phantom.pixels) // 2
    predictor = ImagePredictor(model)
    predictor.set_image(phantom.pixels[middle])
    return [
        _dice(
            predictor.predict(replace(phantom.box(middle, object_id), slice=0)).mask(),
            phantom.labels[middle] == object_id,
        )
        for object_id in range(1, NUM_OBJECTS + 1)
    ]


def _dice_of_objects(model: Model, phantom: Phantom) -> list[float]:
    predictor, middle = VolumePredictor(model), len(phantom.pixels) // 2
    predictor.set_volume(phantom.pixels, "none")
    for object_id in range(1, NUM_OBJECTS + 1):
        predictor.add(phantom.box(middle, object_id), object_id=object_id)
    result = predictor.propagate()
    return [
        _dice(
            np.stack([masks[i].mask() for i in range(len(phantom.pixels))]),
            phantom.labels == object_id,
        )
        for object_id, masks in result.slices.items()
    ]


def _dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = int(mask.sum() + truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0
