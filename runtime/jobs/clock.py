"""Seconds of a job, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("read", "load", "prompt", "propagate", "write")


class Clock:
    """Adds up what each of `STAGES` takes; reading, loading and writing included, unlike a benchmark."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what happens within as a stage's."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - started

    def entry(self) -> dict[str, float]:
        """The report's `timing_s`: each stage, and all since the clock was made."""
        total = time.perf_counter() - self._started
        return {k: round(v, 3) for k, v in {**self._seconds, "total": total}.items()}
