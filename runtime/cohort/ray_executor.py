"""Workers as Ray's actors: on the cores of this machine, or on those of a cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.cohort.executor import Event, Finished, Lost
from runtime.cohort.outcome import StudyOutcome, StudyTask, failure
from runtime.cohort.settings import Settings
from runtime.cohort.worker import StudyWorker
from runtime.errors import BackendUnavailable, OutOfMemory, Sam2Error, WorkerLost
from runtime.process.counted import counted

MOST_STILLBORN = 3
"""Workers in a row that may be lost before they have a model; then nobody believes in the next one."""
PATIENCE_S = 300.0
"""For a worker to come where none is there: a cluster may have to start a machine."""
LONGEST_REASON = 300  # characters: Ray explains at length
_NO_START = "raised in its creation task"  # of an actor, as Ray says it


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker takes of a machine.

    Attributes:
        threads: cores.
        gpus: of one GPU, or of several; 0 for none.
    """

    threads: int
    gpus: float = 0.0

    @property
    def _per_gpu(self) -> float:
        """Workers on a GPU: Ray cuts no share from two of them. What is lost of 1 / 0.1 is rounding."""
        return 1 / self.gpus if self.gpus > 1 else int(1 / self.gpus + 1e-9)

    def num_gpus(self, num_workers: int) -> int:
        """How many GPUs so many workers need."""
        return math.ceil(num_workers / self._per_gpu) if self.gpus else 0

    def num_workers(self, resources: Mapping[str, float]) -> int:
        """How many workers there is room for: at least one, which may share cores, but no GPU that is not there.

        Args:
            resources: "CPU" and "GPU" of all machines together, as Ray counts them.

        Raises BackendUnavailable where no worker's share of a GPU is there.
        """
        num_workers = max(1, int(resources.get("CPU", 1)) // self.threads)
        if not self.gpus:
            return num_workers
        gpus = int(resources.get("GPU", 0))
        room = int(gpus * self._per_gpu)
        if not room:
            raise BackendUnavailable(
                f"found {counted(gpus, 'GPU')}; wanted {self.gpus:g} for each worker: leave --gpus-per-worker out, or "
                "say --workers N where a cluster starts machines with GPUs once they are asked for"
            )
        return min(num_workers, room)


class Actor:
    """What lives in a worker's process: the worker, once it could be opened."""

    def __init__(self, settings: Settings, output: str) -> None:
        self._settings, self._output = settings, Path(output)
        self._worker: StudyWorker | None = None

    def open(self) -> StudyOutcome:
        """Load the model; an outcome of task 0, since errors of ours do not survive the way back as they are."""
        try:
            self._worker = StudyWorker(self._settings, self._output)
        except Exception as error:
            return failure(0, error)
        return StudyOutcome(0)

    def do(self, task: StudyTask) -> StudyOutcome:
        """Segment one study."""
        if self._worker is None:
            raise RuntimeError("open comes first")
        return self._worker.do(task)


class RayExecutor:
    """Actors, each with a model and one study at a time.

    Args:
        ray: the module, connected (`runtime.cohort.ray_cluster`).
        settings, output: of the cohort.
        num_workers: how many actors.
        share: what each takes.
    """

    def __init__(
        self, ray: Any, settings: Settings, output: Path, num_workers: int, share: Share
    ) -> None:
        self._ray, self._heard_s = ray, time.monotonic()
        remote = ray.remote(num_cpus=share.threads, num_gpus=share.gpus, max_restarts=0)(Actor)
        self._make: Callable[[], Any] = partial(remote.remote, settings, str(output))
        self.num_workers = num_workers
        self._idle: list[Any] = []
        self._opening: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._stillborn = 0
        for _ in range(num_workers):
            self._open()

    @property
    def num_idle(self) -> int:
        """How many could take a task now."""
        return len(self._idle)

    def submit(self, task: StudyTask) -> None:
        """Give a task to an idle worker."""
        actor = self._idle.pop()
        self._busy[actor.do.remote(task)] = actor, task.number

    def wait(self, timeout_s: float) -> list[Event]:
        """What has happened; see `Executor`. Raises the error for which no worker could be opened."""
        awaited = [*self._busy, *self._opening]
        if not awaited:
            return []
        ready, _ = self._ray.wait(awaited, num_returns=1, timeout=timeout_s)
        if ready:
            more, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
            ready = list(dict.fromkeys([*ready, *more]))
            self._heard_s = time.monotonic()
        elif not self._busy and not self._idle and time.monotonic() - self._heard_s > PATIENCE_S:
            raise WorkerLost(
                f"no worker has come for {PATIENCE_S:g} s; has the cluster room for one (ray status)?"
            )
        events: list[Event] = []
        for ref in ready:
            if ref in self._opening:
                self._opened(ref)
            else:
                events.append(self._done(ref))
        return events

    def abandon(self, number: int) -> None:
        """End the worker that has a task, and open another one."""
        ref = next(ref for ref, (_, held) in self._busy.items() if held == number)
        actor, _ = self._busy.pop(ref)
        self._ray.kill(actor)
        self._open()

    def close(self) -> None:
        """End all workers."""
        actors = [
            *self._idle,
            *self._opening.values(),
            *(actor for actor, _ in self._busy.values()),
        ]
        for actor in actors:
            self._ray.kill(actor)
        self._idle, self._opening, self._busy = [], {}, {}

    def _open(self) -> None:
        actor = self._make()
        self._opening[actor.open.remote()] = actor

    def _opened(self, ref: Any) -> None:
        actor = self._opening.pop(ref)
        try:
            outcome: StudyOutcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._stillborn += 1
            if self._stillborn >= MOST_STILLBORN:
                kind = OutOfMemory if is_memory(error) else WorkerLost
                mend = "fewer --workers need less memory"
                if _NO_START in str(error):
                    mend = "every node needs this package"
                raise kind(
                    f"{self._stillborn} workers in a row were lost while they loaded the model: {reason_of(error)}; "
                    f"{mend}"
                ) from error
            self._open()
            return
        if outcome.exit_code:
            raise refusal(outcome)
        self._stillborn = 0
        self._idle.append(actor)

    def _done(self, ref: Any) -> Event:
        actor, number = self._busy.pop(ref)
        try:
            outcome: StudyOutcome = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # the worker lives, and could not tell
            self._idle.append(actor)
            return Finished(failure(number, error))
        except self._ray.exceptions.RayError as error:
            self._open()
            return Lost(number, reason_of(error), is_memory(error))
        self._idle.append(actor)
        return Finished(outcome)


def refusal(outcome: StudyOutcome) -> Sam2Error:
    """An outcome as an error again, with its exit code."""
    error = Sam2Error(outcome.message)
    error.exit_code = outcome.exit_code
    return error


def is_memory(error: BaseException) -> bool:
    """Whether Ray says that it has ended a worker because a machine's memory ran out."""
    return "OutOfMemory" in type(error).__name__ or "memory monitor" in str(error).lower()


def reason_of(error: BaseException) -> str:
    """What Ray says, in a line."""
    text = " ".join(str(error).split())
    if "node has died" in text or "node failure" in text.lower():
        return "its node was lost"
    if "connection error code 2" in text or "SYSTEM_ERROR" in text:
        return "its process was ended (SIGKILL, a crash, or the system out of memory)"
    if _NO_START in text:  # and, behind where it happened, what
        text = f"it could not begin: {str(error).strip().splitlines()[-1]}"
    return text[:LONGEST_REASON]
