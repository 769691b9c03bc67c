"""One worker of a cohort: a model that stays loaded, and studies one by one."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.bundle.bundle import open_bundle
from runtime.cohort.outcome import StudyOutcome, StudyTask, failure, told_of
from runtime.cohort.settings import Settings
from runtime.cohort.study import LABELS, SERVER, StudyPrompts, check_prompted
from runtime.devices.machine import logical_cores, memory_bytes
from runtime.errors import BundleError
from runtime.files.scratch import scratch_folder
from runtime.io.dicom.web import DicomWeb
from runtime.jobs.job import Job
from runtime.jobs.volume import segment_volume

SHARE = 3  # of a machine's memory, encoded slices may take one part of so many, each worker as much of it as of cores


class Silence(io.TextIOBase):
    """Where bars and log lines of single studies go: the driver has a bar of its own, and rows hold warnings."""

    def write(self, text: str, /) -> int:
        """Drop it."""
        return len(text)


class StudyWorker:
    """Segments studies with one model.

    Args:
        settings: of the cohort.
        output: its folder, which all workers share.

    Raises what `load` raises, and BundleError where the bundle here is not that of the cohort.
    """

    def __init__(self, settings: Settings, output: Path) -> None:
        job = settings.job
        if job.max_memory is None:
            cores = logical_cores()
            share = min(job.threads or cores, cores) / cores
            job = replace(job, max_memory=int(memory_bytes() / SHARE * share))
        if (bundle := open_bundle(job.bundle)).fingerprint != settings.fingerprint:
            raise BundleError(
                f"{bundle.path} on {socket.gethostname()} is not the bundle of this cohort; copy that there"
            )
        self._settings, self._output = replace(settings, job=job), output
        with redirect_stderr(Silence()):
            self._model = job.load()
        self._web = None if settings.web is None else DicomWeb(settings.web)
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def do(self, task: StudyTask) -> StudyOutcome:
        """Segment one study. Whatever goes wrong is an outcome too."""
        key, started, cpu_started = "", time.perf_counter(), time.process_time()
        try:
            check_prompted(task.asked, task.name)
            with self._source(task) as (path, asked):
                fetched = time.perf_counter()
                job = self._settings.job_of(task.name, path, asked, self._output)
                key = self._settings.key_of(path, asked)
                hashed = time.perf_counter()
                if key == task.known_key:
                    return StudyOutcome(task.number, key=key, is_unchanged=True)
                with redirect_stderr(Silence()):
                    told = self._segment(replace(job, identity=key))
            seconds = {
                "fetch": fetched - started,
                "hash": hashed - fetched,
                "total": time.perf_counter() - started,
                "cpu": time.process_time() - cpu_started,
            }
            told["ms"] |= {name: round(1000 * s, 1) for name, s in seconds.items()}
            told["ended_s"] = round(time.time(), 3)
            return StudyOutcome(task.number, key=key, told=told)
        except Exception as error:
            return failure(task.number, error, key)

    @contextmanager
    def _source(self, task: StudyTask) -> Iterator[tuple[Path, StudyPrompts]]:
        """Where a study lies, and what is asked of it: as it was found, or, of a DICOMweb server, fetched for as long
        as it is needed.
        """
        if self._web is None:
            yield task.path, task.asked
            return
        with scratch_folder() as folder:
            series, drawn = folder / "series", folder / "drawn"
            series.mkdir()
            address, asked = task.path.as_posix(), task.asked
            self._web.fetch(address, series)
            if asked.source == SERVER:
                drawn.mkdir()
                asked = StudyPrompts(LABELS, str(self._web.fetch_segmentation(address, drawn)))
            yield series, asked

    def _segment(self, job: Job) -> dict[str, Any]:
        for path in (job.output, job.preview):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        report = segment_volume(job, self._model)
        if self._web is not None and self._settings.stores:
            self._web.store(job.output)
        return told_of(report, job.output, self._name)
