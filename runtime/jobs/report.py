"""The report of a job, in one form for volumes, images and videos: docs/report.md, report.schema.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.bundle.bundle import Bundle
from runtime.io.dicom.seg import Written
from runtime.jobs.clock import Clock
from runtime.jobs.job import Job
from runtime.jobs.notices import Notice, say
from runtime.jobs.object_report import ObjectReport, object_entries
from runtime.model import Model
from runtime.predictors.stop import StopRule
from runtime.process.packages import DISTRIBUTION, ONNXRUNTIMES, installed
from runtime.version import __version__

SCHEMA_VERSION = 1
PACKAGES = ("numpy", *ONNXRUNTIMES, "openvino", "tensorrt")  # whose versions a report tells


@dataclass(frozen=True, slots=True)
class Source:
    """What was segmented.

    Attributes:
        kind: of `KINDS`.
        num_slices: slices of a volume, images of a set, frames of a video.
        shape: (y, x) of each, or None where they differ.
        window: how intensities became eight bits, in words.
        spacing_mm: (z, y, x), or None where there is none.
        modality: DICOM's word, or None.
        plane: of the slices (`runtime.preview.view`), or None.
        names: of images, or None.
    """

    kind: str
    num_slices: int
    shape: tuple[int, int] | None
    window: str
    spacing_mm: tuple[float, float, float] | None = None
    modality: str | None = None
    plane: str | None = None
    names: tuple[str, ...] | None = None

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel."""
        return None if self.spacing_mm is None else float(np.prod(self.spacing_mm)) / 1000


def make_report(
    job: Job,
    source: Source,
    bundle: Bundle,
    model: Model,
    objects: Sequence[ObjectReport],
    review: Sequence[tuple[int, int, float]],
    notices: Sequence[Notice],
    clock: Clock,
    num_encodings: int,
    written: Written | None = None,
) -> dict[str, Any]:
    """The report, as JSON-able data; its warnings are logged too.

    Args:
        job: what was asked for.
        source: what was segmented.
        bundle, model: with what.
        objects: what was found.
        review: (slice, object id, confidence) of the masks most worth a look.
        notices: warnings.
        clock: seconds by stage.
        num_encodings: slices and crops of slices that were encoded, each counted once.
        written: the mask, where it is a DICOM Segmentation.
    """
    say(notices)
    remembers = model.numbers.kind == "volume"
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": source.kind,
        "input": {
            "path": str(job.input),
            "num_slices": source.num_slices,
            "shape": source.shape and list(source.shape),
            "spacing_mm": source.spacing_mm and list(source.spacing_mm),
            "modality": source.modality,
            "plane": source.plane or None,
            "window": source.window,
            "names": source.names and list(source.names),
        },
        "outputs": {
            "mask": str(job.output),
            "preview": str(job.preview) if job.preview else None,
            "segmentation": written and _segmentation(job, written),
        },
        "objects": object_entries(
            objects, job.prompts, source.voxel_ml, job.reports_memory, job.zoom is not None
        ),
        "review": [
            {"slice": index, "object": object_id, "confidence": round(confidence, 3)}
            for index, object_id, confidence in review
        ],
        "warnings": [notice.entry() for notice in notices],
        "options": {
            "memory": job.memory.policy if remembers else None,
            "pick_up": job.memory.pick_up if remembers else None,
            "confidence": job.memory.confidence,
            "zoom": job.zoom,
            "smooth": job.smooth or None,
            "stop": asdict(job.stop) if isinstance(job.stop, StopRule) else None,
            "affine": job.affine,
            "z_range": job.z_range and list(job.z_range),
            "preset": job.preset,
            "track_every_mm": job.track_every_mm,
            "fuse": job.fuse,
            "clean": job.clean,
            "order": job.order,
        },
        "model": {
            "name": model.numbers.name,
            "image_size": model.numbers.image_size,
            "bundle": job.bundle,
            "weights": bundle.weights["kind"],
            "licence": bundle.licence,
            "backend": model.backend.description,
        },
        "num_encodings": num_encodings,
        "timing_s": clock.entry(),
        "versions": {
            DISTRIBUTION: __version__,
            "python": platform.python_version(),
            **installed(PACKAGES),
        },
    }


def _segmentation(job: Job, written: Written) -> dict[str, Any]:
    """What a report says of a DICOM Segmentation."""
    options = job.segmentation
    return {
        "sop_instance_uid": written.sop_instance,
        "series_instance_uid": written.series,
        "type": options.type,
        "frames": written.num_frames,
        "code": str(options.code),
        "category": str(options.category),
        "segments": [
            {
                "number": number,
                "object": object_id,
                "code": str(options.code_of(object_id)),
                "category": str(options.category_of(object_id)),
            }
            for number, object_id in enumerate(written.object_ids, 1)
        ],
    }
