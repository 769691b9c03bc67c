"""A cohort in this process, without Ray: studies are segmented from a box for each object, and queued for review."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.phantoms.phantoms import Labelled
from runtime.cohort.driver import CohortDriver, Watch
from runtime.cohort.executor import Event, Finished
from runtime.cohort.export import object_masks
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyTask
from runtime.cohort.review import MOST_AT_ONCE, Review
from runtime.cohort.settings import Settings
from runtime.cohort.study import Row, Study, StudyPrompts, stamped
from runtime.cohort.worker import StudyWorker
from runtime.errors import Sam2Error
from runtime.files.atomic import write_whole
from runtime.io.read import read_volume
from runtime.prompts.prompts import Box


@dataclass(slots=True)
class OneAtATime:
    """An executor that does each task when it is waited for."""

    worker: StudyWorker
    num_workers: int = 1
    _tasks: list[StudyTask] = field(default_factory=list)

    @property
    def num_idle(self) -> int:
        """One, unless there is a task."""
        return 0 if self._tasks else 1

    def submit(self, task: StudyTask) -> None:
        """Take a task."""
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> list[Event]:
        """Do it."""
        return [Finished(self.worker.do(self._tasks.pop()))] if self._tasks else []

    def abandon(self, number: int) -> None:
        """Nothing: a task is done before anybody could want this."""

    def close(self) -> None:
        """Nothing is held."""


def write_study(folder: Path, name: str, phantom: Labelled, boxes: dict[int, Box]) -> Study:
    """A study with a box for each object that is asked for."""
    path = folder / f"{name}.npz"
    write_whole(path, lambda part: np.savez(part, imgs=phantom.pixels))
    rows: list[Row] = [
        (str(object_id), "box", ",".join(map(str, (box.slice, *box.y, *box.x))))
        for object_id, box in boxes.items()
    ]
    return stamped(name, path, StudyPrompts.of_rows(rows))


def run_cohort(
    studies: Sequence[Study], settings: Settings, output: Path, worker: StudyWorker, watch: Watch
) -> Review:
    """All studies, and their review. Raises Sam2Error where one has failed."""
    with closing(Ledger(output)) as ledger:
        ledger.note("input", str(studies[0].path.parent))
        ledger.note("window", settings.job.window)
        ledger.meet(studies, settings.key, retries=False)
        CohortDriver(ledger, OneAtATime(worker), settings, watch).run()
        if failed := [row for row in ledger.rows() if row["state"] == "failed"]:
            raise Sam2Error(f"{failed[0]['name']} failed: {failed[0]['message']}")
    return Review(output)


def queued(review: Review) -> list[tuple[str, int, float]]:
    """Study, object and score of everything that waits, in the order in which the page opens it."""
    found: list[tuple[str, int, float]] = []
    start = 0
    while (part := review.queue(start, MOST_AT_ONCE))["objects"]:
        found += [(entry["study"], entry["object"], entry["doubt"]) for entry in part["objects"]]
        start += MOST_AT_ONCE
    return found


def masks_of(review: Review, name: str) -> dict[int, NDArray[np.bool_]]:
    """The masks (z, y, x) of a study's objects, as the cohort has them."""
    study = review.study(name)
    return object_masks(review.folder, study, read_volume(Path(study["path"])))
