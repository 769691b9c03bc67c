"""Figures of one case: one object, one prompt, one way of remembering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.overlap import compare, dice
from export.damage import DAMAGED_AT
from export.labelled import Case, draw_prompt
from runtime import FlowPredictor, MemoryRules, Model, Result, VolumePredictor
from runtime.predictors.spaced import SpacedSlices
from runtime.prompts.prompts import Prompt

DISTANCES = (1, 2, 4, 8, 16)
# Distances at which SAM 2's memory holds the ruined slice.
AFTER = range(DAMAGED_AT + 1, DAMAGED_AT + 7)
PLAIN = MemoryRules()


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to segment a case.

    Attributes:
        name: for people.
        prompt: a kind of prompt.
        rules: of memory; None prompts every slice anew with the same prompt, without memory.
        is_ruined: some slices of the volume are noise.
        zoom: as for predictors.
        has_defaults: memory, zoom, smoothing and stop rule are the bundle's own.
        every: tracks one slice of so many, and interpolates between them.
    """

    name: str
    prompt: str = "box"
    rules: MemoryRules | None = PLAIN
    is_ruined: bool = False
    zoom: float | None = None
    has_defaults: bool = False
    every: int = 1


def segment(model: Model, case: Case, pixels: NDArray[np.uint8], setting: Setting) -> Result:
    """Segment a case's pixels (z, y, x) after their window."""
    prompt = draw_prompt(setting.prompt, case.truth, case.key)
    predictor: FlowPredictor | VolumePredictor
    if case.is_flow:
        predictor = FlowPredictor(model, setting.rules, zoom=setting.zoom)
        predictor.set_images(list(pixels))
    else:
        predictor = (
            VolumePredictor(model)
            if setting.has_defaults
            else VolumePredictor(model.plain(), setting.rules, zoom=setting.zoom)
        )
        predictor.set_volume(replace(case.volume, array=pixels), "none")
    if setting.every > 1 and isinstance(predictor, VolumePredictor):
        return _segment_spaced(predictor, case, pixels, prompt, setting.every)
    if setting.rules is not None:
        predictor.add(prompt)
        return predictor.propagate()
    slices = {}
    for index in range(len(pixels)):
        slices[index] = predictor.add(replace(prompt, slice=index))
        predictor.reset()
    return Result((pixels.shape[1:],) * len(pixels), {1: slices}, is_ordered=not case.is_flow)


def _segment_spaced(
    predictor: VolumePredictor, case: Case, pixels: NDArray[np.uint8], prompt: Prompt, every: int
) -> Result:
    spaced = SpacedSlices.of(None, len(pixels), [case.key], every)
    predictor.set_slices(*spaced.source(pixels), case.volume.spacing_mm[1:])
    predictor.add(*spaced.prompts([prompt]))
    masks = {mask.slice: mask for mask in map(spaced.slice_mask, predictor.stream())}
    return spaced.filled(Result((pixels.shape[1:],) * len(pixels), {1: masks}))


def judge(case: Case, setting: Setting, result: Result, ruined: list[int]) -> dict[str, Any]:
    """Figures of a result. NaN stands for what does not exist in this case."""
    mask, truth, key = result.mask(1), case.truth, case.key
    present = truth.any((1, 2))
    others = [i for i in np.flatnonzero(present) if i != key]
    drawn = mask.any((1, 2))
    limited = mask & present[:, None, None]
    agreement = compare(mask, truth, case.volume.spacing_mm)
    return {
        "case": case.name,
        "setting": setting.name,
        "prompt": setting.prompt,
        "is_flow": case.is_flow,
        "dice": agreement.dice,
        "iou": agreement.iou,
        "hd95_mm": agreement.hd95_mm,
        "nsd": agreement.nsd,
        "dice_where_present": dice(limited, truth),
        "prompted_slice": dice(mask[key], truth[key]),
        "other_slices": mean_dice(mask, truth, others),
        "copy_of_mask": mean_dice(np.repeat(truth[key][None], len(truth), 0), truth, others),
        "by_distance": {
            d: value
            for d in DISTANCES
            if not np.isnan(value := mean_dice(mask, truth, near(key, d, present)))
        },
        "drawn_where_absent": float(drawn[~present].mean()) if not present.all() else float("nan"),
        "lost_where_present": float((~drawn[present]).mean()),
        "tracked_slices": float(sum(bool(m.memory_frames) for m in result.slices[1].values())),
        **(_ruined_figures(mask, truth, key, present, result, ruined) if ruined else {}),
    }


def _ruined_figures(
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    key: int,
    present: NDArray[np.bool_],
    result: Result,
    ruined: list[int],
) -> dict[str, float]:
    after = [i for d in AFTER for i in near(key, d)]
    slices = result.slices[1]
    reads = [bool(set(ruined) & set(slices[i].memory_frames)) for i in after if i in slices]
    return {
        "ruined_slices": mean_dice(mask, truth, [i for i in ruined if present[i]]),
        "after_ruined": mean_dice(mask, truth, [i for i in after if i < len(truth) and present[i]]),
        "ruined_in_memory": float(np.mean(reads)) if reads else float("nan"),
    }


def near(key: int, distance: int, present: NDArray[np.bool_] | None = None) -> list[int]:
    """The slices at a distance on both sides, as far as there are any (that hold the object)."""
    both = [i for i in (key - distance, key + distance) if i >= 0]
    return both if present is None else [i for i in both if i < len(present) and present[i]]


def mean_dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_], slices: list[int]) -> float:
    """Mean Dice over some slices, NaN over none."""
    return float(np.mean([dice(mask[i], truth[i]) for i in slices])) if slices else float("nan")


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over cases of each setting, volumes and flows apart."""
    summary: dict[str, Any] = {}
    for is_flow, group in ((False, "volumes"), (True, "flows")):
        settings = dict.fromkeys(r["setting"] for r in rows if r["is_flow"] == is_flow)
        for name in settings:
            chosen = [r for r in rows if r["is_flow"] == is_flow and r["setting"] == name]
            summary.setdefault(group, {})[name] = {"cases": len(chosen), **_means(chosen)}
    return summary


def _means(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    names = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, float))
    means: dict[str, Any] = {name: _mean([row.get(name, np.nan) for row in rows]) for name in names}
    means["by_distance"] = {
        d: _mean([row["by_distance"].get(d, np.nan) for row in rows]) for d in DISTANCES
    }
    return means


def _mean(values: list[float]) -> float | None:
    numbers = [v for v in values if not np.isnan(v)]
    return round(float(np.mean(numbers)), 4) if numbers else None
