"""A set of images: prompts on some of them, a label image for each."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import PromptError
from runtime.io import Volume
from runtime.io.images import make_output_folder, read_images, write_label_image
from runtime.jobs.job import REVIEW, Job, check_preview, memory_report
from runtime.predictors.flow import FlowPredictor
from runtime.preview import draw_gallery, write_preview
from runtime.result import Result, SliceMask
from runtime.window import Window, apply_window, parse_window


def segment_images(job: Job) -> dict[str, Any]:
    """Run a job; each mask is written when it has been made. Returns its report."""
    check_preview(job.preview)
    window = parse_window(job.window)
    found = read_images(job.input)
    images = [eight_bits(*named, window) for named in zip(found.names, found.arrays, strict=True)]
    for _, prompts in job.calls:
        for prompt in prompts:
            if not 0 <= prompt.slice < len(images):
                raise PromptError(
                    f"there is no image {prompt.slice}: {job.input} holds {len(images)}, 0 to {len(images) - 1}"
                )
    model = job.load()
    predictor = FlowPredictor(model, job.memory, job.max_memory)
    predictor.set_images(images)
    started = time.perf_counter()
    for object_id, prompts in job.calls:
        predictor.add(*prompts, object_id=object_id)
    folder = make_output_folder(job.output)
    slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id, _ in job.calls}
    result = Result(tuple(i.shape[:2] for i in images), slices, is_ordered=False)
    missing = dict.fromkeys(range(len(images)), len(slices))
    with tqdm(total=predictor.num_results(), desc="segment", unit="image", file=sys.stderr) as bar:
        for mask in predictor.stream(job.order):
            slices[mask.object_id][mask.slice] = mask
            missing[mask.slice] -= 1
            if missing[mask.slice] == 0:
                write_label_image(folder, found.names[mask.slice], result.labels_of(mask.slice))
            bar.update()
    seconds = time.perf_counter() - started
    if job.preview:
        picture = draw_gallery(images, result, job.prompts, found.names, model.numbers.name)
        write_preview(job.preview, picture)
    return job.report(
        model,
        seconds,
        order=job.order,
        images=list(found.names),
        objects=_objects(result),
        review=[[found.names[i], o, round(c, 3)] for i, o, c in result.review(REVIEW)],
    )


def eight_bits(name: str, array: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Grey images go through the window one by one, since they need not share a scale; colour is 8 bits already."""
    if array.ndim == 3:
        return np.asarray(array, np.uint8)
    volume = replace(Volume.from_array(array[None]), source=name)
    pixels: NDArray[np.uint8] = apply_window(volume, window)[0][0]
    return pixels


def _objects(result: Result) -> list[dict[str, Any]]:
    objects = []
    for object_id, masks in sorted(result.slices.items()):
        objects.append(
            {
                "id": object_id,
                "pixels": {i: int(m.mask().sum()) for i, m in sorted(masks.items())},
                "confidence": {i: round(m.confidence, 3) for i, m in sorted(masks.items())},
                "in_memory": memory_report(masks),
            }
        )
    return objects
