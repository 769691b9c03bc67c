"""A video: prompts on some frames, a label image for each frame from the first prompt on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from runtime.bundle.bundle import open_bundle
from runtime.errors import InputError, PromptError
from runtime.io.pictures.images import (
    check_output_folder,
    make_output_folder,
    read_images,
    write_label_image,
)
from runtime.io.pictures.video import num_frames, read_video
from runtime.io.window import parse_window
from runtime.jobs.clock import Clock
from runtime.jobs.images import eight_bits, telling_if_unfinished
from runtime.jobs.job import REVIEW, Job, check_preview
from runtime.jobs.notices import Notice, about_objects, about_prompts
from runtime.jobs.object_report import ObjectReport, SliceReport
from runtime.jobs.report import Source, make_report
from runtime.predictors.chosen import AUTO
from runtime.predictors.prompted import check_prompts
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.stop import End, StopRule
from runtime.predictors.tracker import FORWARD
from runtime.predictors.video import VideoPredictor
from runtime.preview.preview import SEPARATOR, TILES, draw_gallery, write_preview
from runtime.prompts.prompts import Prompt

KEPT = 16  # frames kept for the preview, whatever the video's length


def segment_video(job: Job) -> dict[str, Any]:
    """Run a job; each mask is written when it has been made, and no frame is kept. Returns its report."""
    check_preview(job)
    check_output_folder(job.output)
    clock, window = Clock(), parse_window(job.window)
    with clock("read"):
        frames, total = _frames(job)
        asked = _check_frames(job, total)
    with clock("load"):
        bundle, model = open_bundle(job.bundle), job.load()
        job = job.settled("video", model.defaults)
        rule = job.stop if isinstance(job.stop, StopRule) else None
        zoom, smooth = (None if asked == AUTO else asked for asked in (job.zoom, job.smooth))
        predictor = VideoPredictor(model, job.memory, rule, zoom, smooth)
    run = VideoRun(job, predictor, clock, min(asked))
    with (
        telling_if_unfinished(job.output),
        tqdm(total=total, desc="segment", unit="frame", file=sys.stderr) as bar,
    ):
        while True:
            with clock("read"):
                frame = next(frames, None)
            if frame is None:
                break
            run.push(frame)
            bar.update()
    if max(asked) > run.index:
        raise PromptError(f"there is no frame {max(asked)}: {job.input} ends with {run.index}")
    with clock("write"):
        if job.preview:
            title = SEPARATOR.join((job.input.name, model.numbers.name))
            write_preview(job.preview, run.sample.draw(title, job.prompts))
    described = (
        f"{window.describe}, frame by frame" if job.input.is_dir() else "none (8-bit already)"
    )
    source = Source("video", run.index + 1, run.shape, described)
    objects = run.objects()
    notices = [*_missing(job, total, run.index + 1), *run.notices, *about_objects(objects, "frame")]
    review, num_encodings = _review(objects), predictor.num_encodings
    return make_report(job, source, bundle, model, objects, review, notices, clock, num_encodings)


def _check_frames(job: Job, total: int | None) -> list[int]:
    """Numbers of the frames with prompts. Raises PromptError for those that are known not to be there."""
    asked = [prompt.slice for _, prompts in job.calls for prompt in prompts]
    if min(asked) < 0 or (total is not None and max(asked) >= total):
        wrong = min(asked) if min(asked) < 0 else max(asked)
        raise PromptError(f"there is no frame {wrong}: {job.input} has {total}, numbered from 0")
    return asked


def _missing(job: Job, total: int | None, came: int) -> list[Notice]:
    if total is None or came >= total:
        return []
    message = f"{job.input} says it has {total} frames, {came} came; is it cut short?"
    return [Notice("frames_missing", message, None, tuple(range(came, total)))]


def _review(objects: Sequence[ObjectReport]) -> list[tuple[int, int, float]]:
    """Tracked frames, the least confident first."""
    tracked = [
        (row.confidence, row.slice, report.object_id)
        for report in objects
        for row in report.rows
        if not row.is_prompted
    ]
    return [(index, object_id, confidence) for confidence, index, object_id in sorted(tracked)][
        :REVIEW
    ]


class VideoRun:
    """A video on its way: what is known so far, without any frame but those for the preview.

    Args:
        job: what was asked for.
        predictor: new.
        clock: counts the stages.
        first: the first frame with a prompt; masks are written from there on.
    """

    def __init__(self, job: Job, predictor: VideoPredictor, clock: Clock, first: int) -> None:
        self._job, self._predictor, self._clock, self._first = job, predictor, clock, first
        self._prompted = job.prompted
        self._rows: dict[int, list[SliceReport]] = {object_id: [] for object_id in job.prompts}
        self._folder: Path | None = None
        self.sample = Sample()
        self.shape = (0, 0)
        self.notices: list[Notice] = []

    @property
    def index(self) -> int:
        """Of the latest frame."""
        return self._predictor.index

    def push(self, frame: NDArray[np.uint8]) -> None:
        """Segment the next frame and write its mask."""
        if self._folder is None:
            _check_calls(self._job, frame)
            self._folder = make_output_folder(self._job.output)
            self.shape = frame.shape[0], frame.shape[1]
        with self._clock("propagate"):
            masks = self._predictor.push(frame)
        with self._clock("prompt"):
            masks |= self._prompt(frame)
        for object_id, mask in masks.items():
            is_prompted = self.index in self._prompted[object_id]
            self._rows[object_id].append(SliceReport.of(self.index, mask, is_prompted))
        if self.index >= self._first:
            with self._clock("write"):
                self._write(self._folder, masks)
            is_prompted = any(self.index in slices for slices in self._prompted.values())
            self.sample.offer(self.index, frame, masks, is_prompted)

    def _prompt(self, frame: NDArray[np.uint8]) -> dict[int, SliceMask]:
        masks = {}
        for object_id, prompts in self._job.calls:
            if prompts[0].slice == self.index:
                masks[object_id] = self._predictor.add(*prompts, object_id=object_id)
                self.notices += about_prompts({self.index: frame}, {object_id: prompts}, "frame")
        return masks

    def _write(self, folder: Path, masks: dict[int, SliceMask]) -> None:
        dtype = np.min_scalar_type(max(self._job.prompts))  # of every frame alike
        shown = {object_id: {0: mask} for object_id, mask in sorted(masks.items())}
        labels = Result((self.shape,), shown).labels_of(0)
        write_label_image(folder, f"{self.index:06d}", labels.astype(dtype))

    def objects(self) -> list[ObjectReport]:
        """What was found so far."""
        ended, last = self._predictor.ends, End(FORWARD, self.index, "input")
        return [
            ObjectReport(i, tuple(rows), (ended.get(i, last),))
            for i, rows in sorted(self._rows.items())
        ]


def _check_calls(job: Job, frame: NDArray[np.uint8]) -> None:
    """Raise PromptError unless all prompts fit the frames, before anything is computed."""
    for _, prompts in job.calls:
        check_prompts([replace(p, slice=0) for p in prompts], (1, *frame.shape[:2]))


class Sample:
    """Some frames, evenly spread over a video whose length nobody knows: every second one goes when it is full.

    The first prompted ones stay, which somebody will want to see.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._kept: dict[int, tuple[NDArray[np.uint8], dict[int, SliceMask]]] = {}
        self._prompted: dict[int, tuple[NDArray[np.uint8], dict[int, SliceMask]]] = {}

    def offer(
        self,
        index: int,
        frame: NDArray[np.uint8],
        masks: dict[int, SliceMask],
        is_prompted: bool = False,
    ) -> None:
        """Keep the next frame, or not."""
        if is_prompted and len(self._prompted) < TILES // 2:
            self._prompted[index] = frame, masks
        elif index % self._stride == 0:
            self._kept[index] = frame, masks
        while len(self._kept) > KEPT:
            self._stride *= 2
            self._kept = {i: drawn for i, drawn in self._kept.items() if i % self._stride == 0}

    def draw(self, title: str, prompts: Mapping[int, Sequence[Prompt]]) -> Image.Image:
        """A sheet of them."""
        shown = dict(sorted({**self._kept, **self._prompted}.items()))
        images = [frame for frame, _ in shown.values()]
        places = {index: at for at, index in enumerate(shown)}
        slices: dict[int, dict[int, SliceMask]] = {}
        for index, (_, masks) in shown.items():
            for object_id, mask in masks.items():
                slices.setdefault(object_id, {})[places[index]] = mask
        drawn = {
            object_id: [replace(p, slice=places[p.slice]) for p in own if p.slice in places]
            for object_id, own in prompts.items()
        }
        result = Result(tuple(i.shape[:2] for i in images), slices)
        return draw_gallery(images, result, drawn, [f"frame {i}" for i in shown], title)


def _frames(job: Job) -> tuple[Iterator[NDArray[np.uint8]], int | None]:
    """Frames of a file, or images of a folder in the order of their names; and their number if it is known."""
    if not job.input.is_dir():
        return read_video(job.input), num_frames(job.input)
    window = parse_window(job.window)
    pictures = read_images(job.input)
    if len(kinds := {a.ndim for a in pictures.arrays}) > 1:
        raise InputError(
            f"{job.input} mixes grey and colour images; wanted one kind, found {kinds}"
        )
    named = zip(pictures.names, pictures.arrays, strict=True)
    return (eight_bits(name, array, window) for name, array in named), len(pictures.names)
