"""A volume: prompts on some slices, a label volume on the same grid."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from runtime.bundle.bundle import Bundle, open_bundle
from runtime.errors import InputError, PromptError
from runtime.io import Volume, check_mask_path, read_volume, write_mask
from runtime.io.dicom.rtstruct import check_structures, write_structures
from runtime.io.dicom.seg import Algorithm, Written, check_segmentation, write_segmentation
from runtime.io.window import parse_window
from runtime.io.write import is_segmentation, is_structures
from runtime.jobs.clock import Clock
from runtime.jobs.job import REVIEW, Job, check_preview, check_spares, check_without_memory
from runtime.jobs.notices import about_grid, about_objects, about_prompts, about_range, about_window
from runtime.jobs.object_report import object_reports
from runtime.jobs.report import Source, make_report
from runtime.model import Model
from runtime.predictors.clean import clean
from runtime.predictors.orientations import check_planes, fuse_orientations
from runtime.predictors.presets import PRESETS, add_prompts, finish
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.slicewise import SlicewisePredictor
from runtime.predictors.spaced import SpacedSlices, slices_within
from runtime.predictors.stop import End, StopRule, ends
from runtime.predictors.volume import VolumePredictor
from runtime.predictors.volume_plan import check_z_range
from runtime.preview.preview import SEPARATOR, draw_preview, write_preview
from runtime.preview.view import has_spacing, view_of
from runtime.prompts.prompts import check_prompt

log = logging.getLogger("runtime")


def segment_volume(job: Job, model: Model | None = None) -> dict[str, Any]:
    """Run a job; everything is read and checked before any computing starts. Returns its report.

    `model` is that of the job where it has been loaded before.
    """
    _check_output(job)
    check_preview(job)
    clock, asked = Clock(), parse_window(job.window)
    with clock("read"):
        volume = read_volume(job.input, job.series, job.affine)
        job = job.asking(volume)
        _check(job, volume)
        spaced = _spaced(job, volume)
    with clock("load"):
        bundle, model = open_bundle(job.bundle), model or job.load()
        job = job.settled(model.numbers.kind, model.defaults)
        predictor = _predictor(job, model)
        used = predictor.set_volume(volume, asked)
        pixels = predictor.pixels
        if spaced and isinstance(predictor, VolumePredictor):
            predictor.set_slices(*spaced.source(pixels), volume.spacing_mm[1:])
        modality = volume.modality or "unknown modality"
        log.info("%s, %s: window %s", job.input.name, modality, used.describe)
    with clock("prompt"):
        for object_id, prompts in job.calls:
            given = spaced.prompts(prompts) if spaced else prompts
            add_prompts(predictor, given, object_id, PRESETS.get(job.preset or ""))
    with clock("propagate"):
        found = _propagate(predictor, volume, job, spaced)
        whole = spaced.filled(found) if spaced else found
        result, num_across = _finish(predictor, volume, job, whole)
    with clock("write"):
        # Drawn before anything is written: what fails leaves nothing behind.
        title = SEPARATOR.join((job.input.name, model.numbers.name, f"window {used.describe}"))
        picture = _draw(job, pixels, volume, result, title) if job.preview else None
        written = _write(job, result, volume, bundle, model)
        if picture and job.preview:
            write_preview(job.preview, picture)
    first = (spaced.filled(found) if spaced else predictor.current()).slices
    objects = object_reports(result.slices, job.prompted, _ends(job, found), first)
    source = Source(
        "volume",
        volume.shape[0],
        volume.shape[1:],
        used.describe,
        volume.spacing_mm if has_spacing(volume) else None,
        volume.modality,
        view_of(volume).plane,
    )
    prompted = {i: pixels[i] for slices in job.prompted.values() for i in slices}
    notices = [
        *about_window(volume, asked, used),
        *about_grid(volume),
        *about_prompts(prompted, job.prompts),
        *about_objects(objects),
        # Without memory the range is where the object lies, as far as anybody has said.
        *(
            about_range(objects, job.z_range, volume.shape[0])
            if model.numbers.kind == "volume"
            else ()
        ),
    ]
    review = result.review(REVIEW)
    costs = clock, predictor.num_encodings + num_across
    return make_report(job, source, bundle, model, objects, review, notices, *costs, written)


def _check_output(job: Job) -> None:
    """Raise InputError or MissingInput unless the mask can be written and leaves what is read as it is."""
    check_spares(check_mask_path(job.output), job)
    output, source = os.path.realpath(job.output), os.path.realpath(job.input)
    is_dicom = is_segmentation(job.output) or is_structures(job.output)
    if is_dicom and os.path.dirname(output) == source:
        raise InputError(
            f"{job.output} would lie among the slices of the input, which would be two series then; choose another "
            "folder"
        )


def _write(
    job: Job, result: Result, volume: Volume, bundle: Bundle, model: Model
) -> Written | None:
    """Write the masks; what was written is told of a DICOM Segmentation, whose segments have numbers."""
    if not (is_segmentation(job.output) or is_structures(job.output)):
        write_mask(job.output, result, like=volume)
        return None
    parameters = {
        "backend": model.backend.description,
        "memory": job.memory.policy,
        "zoom": str(job.zoom),
        "smooth": str(job.smooth),
    }
    algorithm = Algorithm(
        model=model.numbers.name, serial=bundle.fingerprint, parameters=parameters
    )
    options = replace(job.segmentation, algorithm=algorithm)
    if is_structures(job.output):
        write_structures(job.output, result, volume, options, job.identity)
        return None
    return write_segmentation(job.output, result, volume, options, job.identity)


def _check(job: Job, volume: Volume) -> None:
    """Raise PromptError, InputError or SeriesError for what does not fit the volume, or its images."""
    for _, prompts in job.calls:
        for prompt in prompts:
            check_prompt(prompt, volume.shape)
    if job.z_range:
        check_z_range(job.z_range, volume.shape[0])
    if job.fuse:
        check_planes(volume.shape, volume.spacing_mm)
    if is_segmentation(job.output):
        check_segmentation(volume, job.segmentation)
    if is_structures(job.output):
        check_structures(volume, job.segmentation)


def _predictor(job: Job, model: Model) -> VolumePredictor | SlicewisePredictor:
    """By what the model can do. Raises InputError for options that it cannot have."""
    if model.numbers.kind == "volume":
        bound = job.max_memory
        return VolumePredictor(model, job.memory, bound, zoom=job.zoom, smooth=job.smooth)
    check_without_memory(job, model)
    if job.z_range is None:
        raise InputError(
            f"{model.numbers.name} has no memory and does not tell where an object ends; say between which slices it "
            "lies, such as --z-range 50,64"
        )
    return SlicewisePredictor(model, job.max_memory)


def _spaced(job: Job, volume: Volume) -> SpacedSlices | None:
    """Which slices are tracked; None for all. Raises InputError or PromptError for what does not fit."""
    if job.track_every_mm is None:
        return None
    every = slices_within(job.track_every_mm, volume.spacing_mm[0])
    prompted = sorted(set().union(*job.prompted.values()))
    start, stop = job.z_range or (0, volume.shape[0])
    if outside := [index for index in prompted if not start <= index < stop]:
        raise PromptError(
            f"there is a prompt on slice {outside[0]}, outside the z-range [{start}, {stop})"
        )
    return SpacedSlices.of(job.z_range, volume.shape[0], prompted, every)


def _propagate(
    predictor: VolumePredictor | SlicewisePredictor,
    volume: Volume,
    job: Job,
    spaced: SpacedSlices | None,
) -> Result:
    """Masks of all slices that were tracked."""
    slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id, _ in job.calls}
    z_range = None if spaced else job.z_range  # outside it nothing is tracked
    total = predictor.num_results(z_range)
    with tqdm(total=total, desc="segment", unit="slice", file=sys.stderr) as bar:
        for found in predictor.stream(z_range, stop=job.stop):
            slice_mask = spaced.slice_mask(found) if spaced else found
            slices[slice_mask.object_id][slice_mask.slice] = slice_mask
            bar.update()
        bar.total = bar.n  # fewer where objects have ended
    depth, height, width = volume.shape
    return Result(((height, width),) * depth, slices)


def _finish(
    predictor: VolumePredictor | SlicewisePredictor, volume: Volume, job: Job, result: Result
) -> tuple[Result, int]:
    """What was found, fused with other axes and cleaned where that was asked for, and what was encoded for that."""
    across: list[int] = []
    if job.fuse and isinstance(predictor, VolumePredictor):
        with tqdm(desc="other axes", unit="slice", file=sys.stderr) as bar:

            def tell(total: int) -> None:
                bar.total = total
                bar.update()

            result = fuse_orientations(
                predictor, result, volume.spacing_mm, job.fuse, tell, across.append
            )
    return clean(finish(result, PRESETS.get(job.preset or "")), job.clean), sum(across)


def _ends(job: Job, result: Result) -> dict[int, list[End]]:
    """Where and why following each object ended."""
    rule = job.stop if isinstance(job.stop, StopRule) else None
    return {
        object_id: ends(
            {i: mask.segmented for i, mask in masks.items()},
            job.prompted[object_id],
            rule,
            job.z_range,
            len(result.shapes),
        )
        for object_id, masks in result.slices.items()
    }


def _draw(
    job: Job, pixels: NDArray[np.uint8], volume: Volume, result: Result, title: str
) -> Image.Image:
    spacing_yx_mm = volume.spacing_mm[1:] if has_spacing(volume) else None
    view = view_of(volume)
    return draw_preview(pixels, result, job.prompts, spacing_yx_mm, title, view, job.preview_tiles)
