"""What is done to every study of a cohort alike, and how it is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.cohort.study import (
    FILE,
    LABELS,
    ROWS,
    StudyPrompts,
    calls_of_rows,
    check_prompted,
    codes_of_rows,
    content_of,
    files_of,
    fitting,
)
from runtime.jobs.job import Job
from runtime.prompts.prompt_file import named_in, read_prompts

FORMATS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "dicom-seg": ".dcm"}
MASKS, PREVIEWS = "masks", "previews"
PREVIEW_SUFFIX = ".jpg"
# What differs from study to study, and what changes how fast a mask is there but not the mask.
NOT_IN_KEY = (
    *("input", "output", "calls", "lines", "labels", "prompt_files", "preview", "bundle"),
    *("threads", "hint", "max_memory", "reports_memory", "order", "identity"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """A job without input, prompts and output, which each study brings.

    Attributes:
        job: everything else.
        fingerprint: of the bundle (`Bundle.fingerprint`).
        format: of masks, a key of `FORMATS`.
        draws: whether a preview of each study is drawn.
        web: address of the DICOMweb server that studies are fetched from, in place of files.
        stores: whether masks are stored there too.
    """

    job: Job
    fingerprint: str
    format: str = "nifti"
    draws: bool = True
    web: str | None = None
    stores: bool = False

    @property
    def key(self) -> str:
        """SHA-256 over all that a mask depends on beside study and prompts: bundle, options, format."""
        told = {name: value for name, value in asdict(self.job).items() if name not in NOT_IN_KEY}
        parts = [self.fingerprint, self.format, told, self.stores]
        return _sha256(json.dumps(parts, sort_keys=True, default=str))

    def mask_of(self, name: str) -> str:
        """Where a study's mask goes, below the output."""
        return f"{MASKS}/{name}{FORMATS[self.format]}"

    def job_of(self, name: str, path: Path, asked: StudyPrompts, output: Path) -> Job:
        """The whole job of one study, whose prompts are read. Raises InputError, MissingInput or PromptError."""
        check_prompted(asked, name)
        job = replace(self.job, input=path, output=output / self.mask_of(name))
        job = replace(job, **fitting(path, job.series, job.affine))
        if self.draws:
            job = replace(job, preview=output / PREVIEWS / f"{name}{PREVIEW_SUFFIX}")
        if asked.source == FILE:
            found = read_prompts(Path(asked.text))
            named = job.segmentation.naming(found.codes, found.categories)
            return replace(job, calls=found.calls, segmentation=named)
        if asked.source == ROWS:
            calls, lines = calls_of_rows(asked.text)
            named = job.segmentation.naming(*codes_of_rows(asked.text))
            return replace(job, calls=calls, lines=lines, segmentation=named)
        return replace(job, labels=Path(asked.text))

    def key_of(self, path: Path, asked: StudyPrompts) -> str:
        """SHA-256 over the bytes of a study and of its prompts, and these settings. Raises OSError."""
        beside: Sequence[Path] = ()
        if asked.source == FILE:
            beside = [Path(asked.text), *named_in(Path(asked.text))]
        elif asked.source == LABELS:
            beside = [Path(asked.text)]
        rows = asked.text if asked.source == ROWS else ""
        return _sha256(json.dumps([content_of(files_of(path)), content_of(beside), rows, self.key]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
