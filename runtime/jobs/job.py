"""One call of the command: what to read, what to ask, where to write."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.bundle.defaults import Defaults
from runtime.errors import InputError
from runtime.files.atomic import check_destination
from runtime.io.dicom.query import Choice
from runtime.io.dicom.seg import SegmentationOptions
from runtime.io.pictures.images import holds_dicom, holds_pictures, is_picture
from runtime.io.pictures.video import VIDEO_SUFFIXES
from runtime.io.volumes.volume import Volume
from runtime.memory import MemoryRules
from runtime.model import Model, load
from runtime.predictors.chosen import AUTO, Auto, stop_of
from runtime.predictors.flow import Order
from runtime.predictors.stop import StopRule
from runtime.preview.preview import PREVIEW_SUFFIXES, TILES
from runtime.prompts.label_map import calls_of_labels
from runtime.prompts.prompt_file import Calls
from runtime.prompts.prompts import Prompt
from runtime.prompts.recist import Recist

log = logging.getLogger("runtime")
HOW_TO_MEASURE = (
    "the bundle has no defaults of memory, zoom, smoothing and stop rule, so these are as in SAM 2; what suits its "
    "network is measured by: medsam2 calibrate %s --defaults --folder labelled/"
)
KINDS = ("volume", "images", "video")
REVIEW = 10  # masks worth a look that a report lists


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a call of the command asks for; options that belong to one kind are at their defaults elsewhere.

    Attributes:
        input, output, preview: paths.
        preview_tiles: slices that are drawn at the most (volumes).
        calls: prompts by object and slice, in the order in which to add them.
        lines: RECIST lines by object (volumes), beside calls.
        labels: a label map whose objects are asked for too (volumes).
        labels_as: how, a key of `LABELS_AS`.
        prompt_files: that calls were read from, which nothing may be written over.
        memory: rules of the bank.
        is_memory_chosen: whether their policy and pick-up were asked for, or are what the bundle says.
        stop: when an object is followed no further (volumes, videos); "auto" is what the bundle says.
        zoom: side of the crop that is shown to the network; "auto" is what the bundle says.
        smooth: sigma of the Gaussian over logits; "auto" is what the bundle says.
        bundle, backend, threads, hint: as for `load`.
        max_memory: bytes of encoded slices or images to hold (volumes, images); None is a third of the machine's.
        window, series, affine: how to read.
        z_range: half-open slices to stay within (volumes).
        preset: a key of `PRESETS` (volumes).
        track_every_mm: tracks slices so far apart and interpolates between them; None tracks all (volumes).
        fuse: a key of `FUSIONS`: segment along all axes (volumes).
        clean: a key of `CLEANINGS`: what is done to each object's mask at the end (volumes).
        order: of image sets.
        segmentation: how a mask is written as DICOM (volumes).
        identity: what tells this work from any other, from which UIDs are derived; None draws new ones (volumes).
        reports_memory: whether the report says what was in memory on each slice.
    """

    input: Path
    output: Path
    calls: Calls
    memory: MemoryRules
    lines: tuple[tuple[int, Recist], ...] = ()
    labels: Path | None = None
    labels_as: str = "box"
    prompt_files: tuple[Path, ...] = ()
    is_memory_chosen: bool = True
    stop: StopRule | Auto | None = AUTO
    zoom: float | Auto | None = AUTO
    smooth: float | Auto | None = AUTO
    preview: Path | None = None
    preview_tiles: int = TILES
    bundle: str | None = None
    backend: str = "auto"
    threads: int | None = None
    hint: str = "latency"
    max_memory: int | None = None
    window: str = "auto"
    series: Choice | None = None
    z_range: tuple[int, int] | None = None
    preset: str | None = None
    track_every_mm: float | None = None
    fuse: str | None = None
    clean: str | None = None
    order: Order = "given"
    affine: str | None = None
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    identity: str | None = None
    reports_memory: bool = False

    def load(self) -> Model:
        """The model asked for."""
        return load(self.bundle, self.backend, self.threads, self.hint)

    def asking(self, volume: Volume) -> Job:
        """The same job with a box for each RECIST line, and prompts for the objects of its label map.

        Raises PromptError for what does not fit the volume.
        """
        boxes: Calls = [(i, [line.box(volume.shape)]) for i, line in self.lines]
        drawn = calls_of_labels(self.labels, volume, self.labels_as) if self.labels else []
        return replace(self, calls=[*self.calls, *boxes, *drawn], lines=(), labels=None)

    def settled(self, kind: str, defaults: Defaults) -> Job:
        """The same job with what it leaves to the bundle filled in, and a word about it in the log.

        Defaults are measured on volumes, and hold for these; a preset does what its script does.
        """
        is_open = kind == "volume" and self.preset is None
        chosen = defaults if is_open else Defaults()
        if is_open and defaults == Defaults():
            log.info(HOW_TO_MEASURE, self.bundle or "BUNDLE")
        return replace(
            self,
            memory=self.memory if self.is_memory_chosen else replace(self.memory, **chosen.memory),
            stop=stop_of(chosen) if self.stop == AUTO else self.stop,
            zoom=chosen.zoom if self.zoom == AUTO else self.zoom,
            smooth=chosen.smooth if self.smooth == AUTO else self.smooth,
        )

    @property
    def prompts(self) -> dict[int, list[Prompt]]:
        """Object id to all its prompts."""
        by_object: dict[int, list[Prompt]] = {}
        for object_id, prompts in self.calls:
            by_object.setdefault(object_id, []).extend(prompts)
        return by_object

    @property
    def prompted(self) -> dict[int, set[int]]:
        """Object id to the slices on which it is prompted."""
        return {o: {prompt.slice for prompt in own} for o, own in self.prompts.items()}


def kind_of(path: Path) -> str:
    """Which kind of input a path is: a video by its suffix, a picture or a folder with pictures, else a volume.

    Raises InputError for a folder that holds both pictures and DICOM, as series do that were exported with a
    thumbnail, and for what cannot be looked at.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    try:
        is_folder = path.is_dir()
        is_images = holds_pictures(path) if is_folder else is_picture(path)
        is_mixed = is_folder and is_images and holds_dicom(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if is_mixed:
        raise InputError(
            f"{path} holds both DICOM and other images; say whether it is a series (--as volume), whose pictures are "
            "left alone then, or a set of images (--as images)"
        )
    return "images" if is_images else "volume"


def check_preview(job: Job) -> None:
    """Raise InputError or MissingInput unless the preview that a job asks for, if any, can be written."""
    path = job.preview
    if path is None:
        return
    if path.suffix.lower() not in PREVIEW_SUFFIXES:
        raise InputError(
            f"{path} has no suffix a preview is written as; wanted {', '.join(PREVIEW_SUFFIXES)}"
        )
    check_destination(path)
    check_spares(path, job)
    if os.path.realpath(path.parent) == os.path.realpath(job.input):
        raise InputError(
            f"{path} would lie among the images of the input and be taken for one of them; choose another folder"
        )


def check_spares(path: Path, job: Job) -> None:
    """Raise InputError for a path at which something is to be written and which the job reads."""
    read = {file: "a file of the prompts" for file in job.prompt_files}
    read |= {job.labels: "the label map that is asked for again"} if job.labels else {}
    read |= {job.input: "the input itself"}
    for file, what in read.items():
        if os.path.realpath(path) == os.path.realpath(file):
            raise InputError(f"{path} is {what}; name another file to write")


def check_without_memory(job: Job, model: Model) -> None:
    """Raise InputError for options that only a network with memory can follow."""
    asked = {
        "--memory and --pick-up": job.is_memory_chosen,
        "--zoom": job.zoom not in (None, AUTO),
        "--smooth": job.smooth not in (None, AUTO, 0.0),
        "--stop-below": job.stop not in (None, AUTO),
        "--preset": job.preset is not None,
        "--fuse": job.fuse is not None,
        "--order": job.order != "given",
        "--track-every": job.track_every_mm is not None,
    }
    if unfit := [name for name, is_asked in asked.items() if is_asked]:
        raise InputError(
            f"{model.numbers.name} segments single images and has no memory; leave out {', '.join(unfit)}"
        )
