"""A volume: prompts on some slices, a label volume on the same grid."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.errors import InputError
from runtime.io import Volume, check_mask_path, read_volume, write_mask
from runtime.jobs.job import REVIEW, Job, check_preview, memory_report
from runtime.predictors.orientations import fuse_orientations
from runtime.predictors.presets import PRESETS, add_prompts, finish
from runtime.predictors.volume import VolumePredictor, check_z_range
from runtime.preview import SEPARATOR, draw_preview, write_preview
from runtime.prompts import check_prompt
from runtime.result import Result, SliceMask
from runtime.view import view_of
from runtime.window import parse_window


def segment_volume(job: Job) -> dict[str, Any]:
    """Run a job; everything is read and checked before any computing starts. Returns its report."""
    if check_mask_path(job.output).resolve() == job.input.resolve():
        raise InputError(f"{job.output} is the input itself; name another file for the mask")
    check_preview(job.preview)
    window = parse_window(job.window)
    volume = read_volume(job.input, job.series, job.affine)
    for _, prompts in job.calls:
        for prompt in prompts:
            check_prompt(prompt, volume.shape)
    if job.z_range:
        check_z_range(job.z_range, volume.shape[0])
    model = job.load()
    predictor = VolumePredictor(model, job.memory, job.max_memory)
    used = predictor.set_volume(volume, window)
    started = time.perf_counter()
    first_mask_s = _prompt(predictor, job)
    result = _propagate(predictor, volume, job)
    seconds = time.perf_counter() - started
    picture = None
    if job.preview:  # drawn before anything is written: what fails leaves nothing behind
        title = SEPARATOR.join((job.input.name, model.numbers.name, f"window {used.describe}"))
        spacing_yx_mm, view = volume.spacing_mm[1:], view_of(volume)
        picture = draw_preview(predictor.pixels, result, job.prompts, spacing_yx_mm, title, view)
    write_mask(job.output, result, like=volume)
    if picture and job.preview:
        write_preview(job.preview, picture)
    return job.report(
        model,
        seconds,
        window=used.describe,
        shape=list(volume.shape),
        objects=_objects(result, volume),
        review=[[i, object_id, round(c, 3)] for i, object_id, c in result.review(REVIEW)],
        first_mask_seconds=round(first_mask_s, 3),
    )


def _prompt(predictor: VolumePredictor, job: Job) -> float:
    """Seconds until the first mask."""
    started = time.perf_counter()
    first_mask_s = 0.0
    for object_id, prompts in job.calls:
        add_prompts(predictor, prompts, object_id, PRESETS.get(job.preset or ""))
        first_mask_s = first_mask_s or time.perf_counter() - started
    return first_mask_s


def _propagate(predictor: VolumePredictor, volume: Volume, job: Job) -> Result:
    slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id, _ in job.calls}
    total = predictor.num_results(job.z_range)
    with tqdm(total=total, desc="segment", unit="slice", file=sys.stderr) as bar:
        for found in predictor.stream(job.z_range):
            slices[found.object_id][found.slice] = found
            bar.update()
    depth, height, width = volume.shape
    result = Result(((height, width),) * depth, slices)
    if job.fuse:
        with tqdm(desc="other axes", unit="slice", file=sys.stderr) as bar:
            result = fuse_orientations(
                predictor, result, volume.spacing_mm, job.fuse, on_slice=bar.update
            )
    return finish(result, PRESETS.get(job.preset or ""))


def _objects(result: Result, volume: Volume) -> list[dict[str, Any]]:
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    objects = []
    for object_id in result.object_ids:
        mask = result.mask(object_id)
        present = np.flatnonzero(mask.any((1, 2)))
        confidence = result.confidence_of(object_id)
        seen = np.flatnonzero(~np.isnan(confidence))
        objects.append(
            {
                "id": object_id,
                "voxels": int(mask.sum()),
                "volume_ml": round(int(mask.sum()) * voxel_ml, 3),
                "z": [int(present[0]), int(present[-1]) + 1] if len(present) else None,
                "confidence": {int(index): round(float(confidence[index]), 3) for index in seen},
                "in_memory": memory_report(result.slices[object_id]),
            }
        )
    return objects
