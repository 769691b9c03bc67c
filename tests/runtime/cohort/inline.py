"""Workers without Ray: one that lives in this process, and the command on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.cohort.executor import Event, Finished
from runtime.cohort.outcome import StudyTask
from runtime.cohort.settings import Settings
from runtime.cohort.worker import StudyWorker


class InlineExecutor:
    """One worker that is waited for.

    Args:
        settings, output: of the cohort.
    """

    num_workers = 1

    def __init__(self, settings: Settings, output: Path) -> None:
        self._worker = StudyWorker(settings, output)
        self._task: StudyTask | None = None

    @property
    def num_idle(self) -> int:
        return int(self._task is None)

    def submit(self, task: StudyTask) -> None:
        self._task = task

    def wait(self, timeout_s: float) -> list[Event]:
        task, self._task = self._task, None
        return [Finished(self._worker.do(task))] if task else []

    def abandon(self, number: int) -> None:
        raise AssertionError("nothing is abandoned here")

    def close(self) -> None: ...


def work_inline(patch: pytest.MonkeyPatch) -> None:
    """Let `medsam2 cohort` do its work in this process."""

    @contextmanager
    def no_cluster(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(cluster_resources=lambda: {"CPU": 1})

    def executor(ray: object, settings: Settings, output: Path, *_: object) -> InlineExecutor:
        return InlineExecutor(settings, output)

    patch.setattr("runtime.commands.cohort.ray_cluster", no_cluster)
    patch.setattr("runtime.commands.cohort.RayExecutor", executor)
