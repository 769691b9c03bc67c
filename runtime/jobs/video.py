"""A video: prompts on some frames, a label image for each frame from the first prompt on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from runtime.errors import InputError, PromptError
from runtime.io.images import make_output_folder, read_images, write_label_image
from runtime.io.video import num_frames, read_video
from runtime.jobs.images import eight_bits
from runtime.jobs.job import REVIEW, Job, check_preview
from runtime.predictors.prompted import check_prompts
from runtime.predictors.video import VideoPredictor
from runtime.preview import draw_gallery, write_preview
from runtime.result import Result, SliceMask
from runtime.window import parse_window

log = logging.getLogger("runtime")
KEPT = 16  # frames kept for the preview, whatever the video's length


def segment_video(job: Job) -> dict[str, Any]:
    """Run a job; each mask is written when it has been made, and no frame is kept. Returns its report."""
    check_preview(job.preview)
    frames, total = _frames(job)
    asked = [prompt.slice for _, prompts in job.calls for prompt in prompts]
    if min(asked) < 0 or (total is not None and max(asked) >= total):
        wrong = min(asked) if min(asked) < 0 else max(asked)
        raise PromptError(f"there is no frame {wrong}: {job.input} has {total}, numbered from 0")
    model = job.load()
    predictor = VideoPredictor(model, job.memory)
    label_type = np.uint16 if max(job.prompts) > np.iinfo(np.uint8).max else np.uint8
    sample, folder = Sample(), None
    notes: dict[int, dict[int, Note]] = {object_id: {} for object_id in job.prompts}
    started = time.perf_counter()
    with tqdm(total=total, desc="segment", unit="frame", file=sys.stderr) as bar:
        for frame in frames:
            if folder is None:
                _check_calls(job, frame)
                folder = make_output_folder(job.output)
            masks = predictor.push(frame)
            for object_id, prompts in job.calls:
                if prompts[0].slice == predictor.index:
                    masks[object_id] = predictor.add(*prompts, object_id=object_id)
            if predictor.index >= min(asked):
                shown = {object_id: {0: mask} for object_id, mask in sorted(masks.items())}
                labels = Result((frame.shape[:2],), shown).labels_of(0).astype(label_type)
                write_label_image(folder, f"{predictor.index:06d}", labels)
                sample.offer(predictor.index, frame, masks)
            for object_id, mask in masks.items():
                notes[object_id][predictor.index] = Note(mask.confidence, mask.memory_frames)
            bar.update()
    seconds = time.perf_counter() - started
    num_frames_read = predictor.index + 1
    if total is not None and num_frames_read < total:
        log.warning("%s says it has %d frames, %d came", job.input, total, num_frames_read)
    if max(asked) > predictor.index:
        raise PromptError(
            f"there is no frame {max(asked)}: {job.input} ends with {predictor.index}"
        )
    if job.preview:
        write_preview(job.preview, sample.draw(model.numbers.name))
    return job.report(model, seconds, frames=num_frames_read, **_figures(notes))


class Note(NamedTuple):
    """What a report says of one object on one frame."""

    confidence: float
    memory_frames: tuple[int, ...]


def _check_calls(job: Job, frame: NDArray[np.uint8]) -> None:
    """Raise PromptError unless all prompts fit the frames, before anything is computed."""
    for _, prompts in job.calls:
        check_prompts([replace(p, slice=0) for p in prompts], (1, *frame.shape[:2]))


def _figures(notes: dict[int, dict[int, Note]]) -> dict[str, Any]:
    objects, doubtful = [], []
    for object_id, by_frame in notes.items():
        objects.append(
            {
                "id": object_id,
                "confidence": {i: round(note.confidence, 3) for i, note in by_frame.items()},
                "in_memory": {
                    i: list(n.memory_frames) for i, n in by_frame.items() if n.memory_frames
                },
            }
        )
        doubtful += [(n.confidence, i, object_id) for i, n in by_frame.items() if n.memory_frames]
    review = [[i, object_id, round(c, 3)] for c, i, object_id in sorted(doubtful)[:REVIEW]]
    return {"objects": objects, "review": review}


class Sample:
    """Some frames, evenly spread over a video whose length nobody knows: every second one goes when it is full."""

    def __init__(self) -> None:
        self._stride = 1
        self._kept: dict[int, tuple[NDArray[np.uint8], dict[int, SliceMask]]] = {}

    def offer(self, index: int, frame: NDArray[np.uint8], masks: dict[int, SliceMask]) -> None:
        """Keep the next frame, or not."""
        if index % self._stride == 0:
            self._kept[index] = frame, masks
        while len(self._kept) > KEPT:
            self._stride *= 2
            self._kept = {i: kept for i, kept in self._kept.items() if i % self._stride == 0}

    def draw(self, title: str) -> Image.Image:
        """A sheet of them."""
        indices = list(self._kept)
        images = [self._kept[i][0] for i in indices]
        slices: dict[int, dict[int, SliceMask]] = {}
        for at, index in enumerate(indices):
            for object_id, mask in self._kept[index][1].items():
                slices.setdefault(object_id, {})[at] = mask
        result = Result(tuple(i.shape[:2] for i in images), slices)
        return draw_gallery(images, result, {}, [f"frame {i}" for i in indices], title)


def _frames(job: Job) -> tuple[Iterator[NDArray[np.uint8]], int | None]:
    """Frames of a file, or images of a folder in the order of their names; and their number if it is known."""
    if not job.input.is_dir():
        return read_video(job.input), num_frames(job.input)
    window = parse_window(job.window)
    found = read_images(job.input)
    if len(kinds := {a.ndim for a in found.arrays}) > 1:
        raise InputError(
            f"{job.input} mixes grey and colour images; wanted one kind, found {kinds}"
        )
    named = zip(found.names, found.arrays, strict=True)
    return (eight_bits(name, array, window) for name, array in named), len(found.names)
