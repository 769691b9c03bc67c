"""The same studies without a cohort: one process does what `medsam2 segment` does, its model loaded, one by one."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

from runtime.bundle.bundle import open_bundle
from runtime.cohort.find import find_studies
from runtime.cohort.settings import Settings
from runtime.cohort.worker import Silence
from runtime.jobs.job import Job
from runtime.jobs.volume import segment_volume
from runtime.memory import MemoryRules

PREVIEW_TILES = 4  # as medsam2 cohort has them


def main() -> None:
    """With folders of studies and output, a back end, and "draws" where previews are wanted; says times in JSON.

    `per_study_ms` and `cpu_ms` are means over all studies but the first, from file to file.
    """
    studies, output, backend, draws = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]
    job = Job(
        studies,
        output,
        [],
        MemoryRules(),
        is_memory_chosen=False,
        preview_tiles=PREVIEW_TILES,
        backend=backend,
        threads=1,
        hint="throughput",
    )
    settings = Settings(job, open_bundle().fingerprint, draws=draws == "draws")
    with redirect_stderr(Silence()):
        model = job.load()
        marks = [(time.perf_counter(), time.process_time())]
        for study in sorted(find_studies(studies), key=lambda found: -found.size_bytes):
            own = settings.job_of(study.name, study.path, study.asked, output)
            for path in (own.output, own.preview):
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
            segment_volume(own, model)
            marks.append((time.perf_counter(), time.process_time()))
    count = max(len(marks) - 2, 1)
    wall_ms, cpu_ms = (
        round(1000 * (last - first) / count, 1)
        for first, last in zip(marks[1], marks[-1], strict=True)
    )
    print(json.dumps({"per_study_ms": wall_ms, "cpu_ms": cpu_ms}))
