"""A set of images: prompts on some of them, a label image for each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.bundle.bundle import open_bundle
from runtime.errors import PromptError
from runtime.io import Volume
from runtime.io.pictures.images import (
    Images,
    check_output_folder,
    make_output_folder,
    read_images,
    write_label_image,
)
from runtime.io.window import Window, apply_window, parse_window
from runtime.jobs.clock import Clock
from runtime.jobs.job import REVIEW, Job, check_preview, check_without_memory
from runtime.jobs.notices import about_images, about_objects, about_prompts
from runtime.jobs.object_report import object_reports
from runtime.jobs.report import Source, make_report
from runtime.model import Model
from runtime.predictors.chosen import AUTO
from runtime.predictors.flow import FlowPredictor
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.stills import StillsPredictor
from runtime.preview.preview import SEPARATOR, draw_gallery, write_preview
from runtime.process.counted import counted

log = logging.getLogger("runtime")


def segment_images(job: Job) -> dict[str, Any]:
    """Run a job; each mask is written when it has been made. Returns its report."""
    check_preview(job)
    check_output_folder(job.output)
    clock, window = Clock(), parse_window(job.window)
    with clock("read"):
        pictures, images = _read(job, window)
    with clock("load"):
        bundle, model = open_bundle(job.bundle), job.load()
        job = job.settled("images", model.defaults)
        predictor = _predictor(job, model)
        predictor.set_images(images)
    with clock("prompt"):
        for object_id, prompts in job.calls:
            predictor.add(*prompts, object_id=object_id)
    folder = make_output_folder(job.output)
    with clock("propagate"), telling_if_unfinished(folder):
        result = _propagate(predictor, job, pictures.names, [i.shape[:2] for i in images], folder)
    with clock("write"):
        if job.preview:
            title = SEPARATOR.join((job.input.name, model.numbers.name))
            picture = draw_gallery(images, result, job.prompts, pictures.names, title)
            write_preview(job.preview, picture)
    objects = object_reports(result.slices, job.prompted)
    shapes = set(result.shapes)
    source = Source(
        "images",
        len(images),
        shapes.pop() if len(shapes) == 1 else None,
        f"{window.describe}, image by image",
        names=tuple(pictures.names),
    )
    notices = [
        *about_images(pictures.arrays, pictures.names, window),
        *about_prompts(dict(enumerate(images)), job.prompts, "image"),
        *about_objects(objects, "image"),
    ]
    review = result.review(REVIEW)
    num_encodings = predictor.num_encodings
    return make_report(job, source, bundle, model, objects, review, notices, clock, num_encodings)


def _read(job: Job, window: Window) -> tuple[Images, list[NDArray[np.uint8]]]:
    """The images, and what the network sees of them. Raises PromptError for prompts on others."""
    pictures = read_images(job.input)
    images = [
        eight_bits(*named, window) for named in zip(pictures.names, pictures.arrays, strict=True)
    ]
    for _, prompts in job.calls:
        for prompt in prompts:
            if not 0 <= prompt.slice < len(images):
                raise PromptError(
                    f"there is no image {prompt.slice}: {job.input} holds {len(images)}, 0 to {len(images) - 1}"
                )
    return pictures, images


def _predictor(job: Job, model: Model) -> FlowPredictor | StillsPredictor:
    """By what the model can do. Raises InputError for options that it cannot have."""
    if model.numbers.kind == "volume":
        zoom, smooth = (None if asked == AUTO else asked for asked in (job.zoom, job.smooth))
        return FlowPredictor(model, job.memory, job.max_memory, zoom, smooth)
    check_without_memory(job, model)
    return StillsPredictor(model, job.max_memory)


def _propagate(
    predictor: FlowPredictor | StillsPredictor,
    job: Job,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    folder: Path,
) -> Result:
    """Every image's masks, each written as soon as all objects are known there."""
    slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id, _ in job.calls}
    result = Result(tuple((y, x) for y, x in shapes), slices, is_ordered=False)
    missing = dict.fromkeys(range(len(shapes)), len(slices))
    if isinstance(predictor, StillsPredictor):
        missing = {index: predictor.on_image(index) for index in missing}
        if without := sum(count == 0 for count in missing.values()):
            log.info(
                "%s no prompts, and no masks from a network without memory",
                counted(without, "image has", "images have"),
            )
        masks = predictor.stream()
    else:
        masks = predictor.stream(job.order)
    with tqdm(total=predictor.num_results(), desc="segment", unit="image", file=sys.stderr) as bar:
        for mask in masks:
            slices[mask.object_id][mask.slice] = mask
            missing[mask.slice] -= 1
            if missing[mask.slice] == 0:
                write_label_image(folder, names[mask.slice], result.labels_of(mask.slice))
            bar.update()
    return result


@contextmanager
def telling_if_unfinished(folder: Path) -> Iterator[None]:
    """Say of a folder that it holds some of the masks alone, whatever ends the work."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if count := sum(1 for _ in folder.glob("*.png")):
                log.warning(
                    "ended early: %s holds %s and not all; empty it, or name another folder, to make them all",
                    folder,
                    counted(count, "mask"),
                )
        raise


def eight_bits(name: str, array: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Grey images go through the window one by one, since they need not share a scale; colour is 8 bits already."""
    if array.ndim == 3:
        return np.asarray(array, np.uint8)
    volume = replace(Volume.from_array(array[None]), source=name)
    pixels: NDArray[np.uint8] = apply_window(volume, window)[0][0]
    return pixels
