"""What an annotator segments: objects of phantoms, in every way, beside what a cohort has made of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from benchmarks.annotation.attempt import (
    Attempt,
    Habits,
    from_scratch,
    reviewed,
    with_network,
)
from benchmarks.annotation.figures import MODEL, QUEUE, SCRATCH, WAYS
from benchmarks.annotation.queue import masks_of, queued, run_cohort, write_study
from benchmarks.annotation.session_tool import SessionTool
from benchmarks.phantoms.phantoms import Labelled, make_volume
from export.labelled import draw_prompt, objects
from runtime.cohort.ledger import Counts
from runtime.cohort.progress import CohortProgress
from runtime.cohort.settings import Settings
from runtime.cohort.worker import StudyWorker
from runtime.errors import InputError
from runtime.model import Model
from runtime.prompts.prompts import Box
from runtime.serve.session import InteractiveSession

NEVER_S = 1e6  # a deadline that no prediction meets


@dataclass(frozen=True, slots=True)
class Subject:
    """One object to segment: which, of what study, its truth (z, y, x), and the slice in its middle."""

    study: str
    object_id: int
    truth: np.ndarray
    key: int

    @property
    def box(self) -> Box:
        """About it on its middle slice."""
        prompt = draw_prompt("box", self.truth, self.key)
        assert isinstance(prompt, Box)
        return prompt


def subjects_of(name: str, phantom: Labelled, count: int) -> list[Subject]:
    """The first objects of a phantom."""
    found = objects(phantom.labels)[:count]
    return [Subject(name, label, truth, key) for label, truth, key in found]


def cohort_masks(
    phantoms: dict[str, Labelled], subjects: Sequence[Subject], settings: Settings, folder: Path
) -> tuple[dict[tuple[str, int], np.ndarray], list[tuple[str, int, float]]]:
    """What a cohort makes of a box for each object: masks by study and object, and the review queue."""
    studies = []
    for name, phantom in phantoms.items():
        boxes = {s.object_id: s.box for s in subjects if s.study == name}
        studies.append(write_study(folder, name, phantom, boxes))
    output = folder / "out"
    output.mkdir()
    sizes = sum(study.size_bytes for study in studies)
    with quiet(), CohortProgress(Counts(len(studies), 0, 0, sizes), 1) as watch:
        review = run_cohort(studies, settings, output, StudyWorker(settings, output), watch)
    masks = {
        (name, object_id): mask
        for name in phantoms
        for object_id, mask in masks_of(review, name).items()
    }
    return masks, queued(review)


@contextmanager
def quiet() -> Iterator[None]:
    """Without words about single studies, which a cohort's rows hold."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def attempts_at(
    session: InteractiveSession, subject: Subject, made: np.ndarray, habits: Habits
) -> dict[str, Attempt]:
    """One object in each way; the session has its image, `made` is the cohort's mask of it."""
    tool = SessionTool(session)
    with_model = with_network(tool, subject.truth, subject.key, habits, time.perf_counter)
    tool.close()
    tool = SessionTool(session, made)
    by_queue = reviewed(tool, subject.truth, habits, time.perf_counter)
    tool.close()
    return {SCRATCH: from_scratch(subject.truth, habits), MODEL: with_model, QUEUE: by_queue}


def measure(
    model: Model, settings: Settings, names: Sequence[int], num_objects: int, habits: Habits
) -> tuple[list[Subject], dict[str, list[Attempt]], list[tuple[str, int, float]]]:
    """Subjects, attempts at them by way, and the queue, of phantoms by their seeds. Raises InputError without any."""
    phantoms = {
        f"phantom{seed}": make_volume(seed)
        for seed in tqdm(names, desc="phantoms", unit="study", file=sys.stderr)
    }
    subjects = [s for name, p in phantoms.items() for s in subjects_of(name, p, num_objects)]
    if not subjects:
        raise InputError("these phantoms hold no object that is large enough; ask for more")
    phantoms = {name: phantoms[name] for name in dict.fromkeys(s.study for s in subjects)}
    with TemporaryDirectory(prefix="medsam2-annotator-") as folder:
        masks, queue = cohort_masks(phantoms, subjects, settings, Path(folder))
    attempts: dict[str, list[Attempt]] = {way: [] for way in WAYS}
    with (
        InteractiveSession(model, deadline_s=NEVER_S) as session,
        tqdm(total=len(subjects), desc="annotator", unit="object", file=sys.stderr) as bar,
    ):
        for subject in subjects:
            if bar.n == 0 or subject.study != subjects[bar.n - 1].study:
                session.set_image(phantoms[subject.study].pixels[None])
            made = masks[subject.study, subject.object_id]
            for way, attempt in attempts_at(session, subject, made, habits).items():
                attempts[way].append(attempt)
            bar.update()
    return subjects, attempts, queue
