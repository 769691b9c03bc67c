"""A video: prompts on some frames, a label image for each frame from the first prompt on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import InputError, PromptError
from runtime.io.images import make_output_folder, read_images, write_label_image
from runtime.io.video import num_frames, read_video
from runtime.jobs.images import eight_bits
from runtime.jobs.job import REVIEW, Job, check_preview
from runtime.predictors.video import VideoPredictor
from runtime.preview import draw_gallery, write_preview
from runtime.result import Result, SliceMask
from runtime.window import parse_window

KEPT = 16  # frames kept for the preview, whatever the video's length


def segment_video(job: Job) -> dict[str, Any]:
    """Run a job; each mask is written when it has been made, and nothing else is kept. Returns its report."""
    check_preview(job.preview)
    frames, total = _frames(job)
    first = min(prompt.slice for _, prompts in job.calls for prompt in prompts)
    model = job.load()
    predictor = VideoPredictor(model, job.memory)
    folder = make_output_folder(job.output)
    sample = Sample()
    confidence: dict[int, dict[int, float]] = {object_id: {} for object_id, _ in job.calls}
    started = time.perf_counter()
    with tqdm(total=total, desc="segment", unit="frame", file=sys.stderr) as bar:
        for frame in frames:
            masks = predictor.push(frame)
            for object_id, prompts in job.calls:
                if prompts[0].slice == predictor.index:
                    masks[object_id] = predictor.add(*prompts, object_id=object_id)
            if predictor.index >= first:
                result = Result(
                    (frame.shape[:2],), {o: {0: mask} for o, mask in sorted(masks.items())}
                )
                write_label_image(folder, f"{predictor.index:06d}", result.labels_of(0))
                sample.offer(predictor.index, frame, masks)
            for object_id, mask in masks.items():
                confidence[object_id][predictor.index] = round(mask.confidence, 3)
            bar.update()
    seconds = time.perf_counter() - started
    last = max(prompt.slice for _, prompts in job.calls for prompt in prompts)
    if last > predictor.index:
        raise PromptError(f"there is no frame {last}: {job.input} ends with {predictor.index}")
    if job.preview:
        write_preview(job.preview, sample.draw(job, model.numbers.name))
    doubtful = sorted((c, i, o) for o, each in confidence.items() for i, c in each.items())
    return job.report(
        model,
        seconds,
        frames=predictor.index + 1,
        objects=[{"id": o, "confidence": each} for o, each in confidence.items()],
        review=[[i, o, c] for c, i, o in doubtful[:REVIEW]],
    )


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

    def draw(self, job: Job, title: str) -> Any:
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
    found = read_images(Path(job.input))
    if len(kinds := {a.ndim for a in found.arrays}) > 1:
        raise InputError(
            f"{job.input} mixes grey and colour images; wanted one kind, found {kinds}"
        )
    return (eight_bits(array, window) for array in found.arrays), len(found.names)
