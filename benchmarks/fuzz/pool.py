"""Workers side by side, watched: who dies or does not answer has found something."""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

OUTCOMES = {
    "read": "read, and right",
    "refused": "refused with an error raised on purpose",
    "traceback": "left with another error",
    "greedy": "asked for a gibibyte or more",
    "crashed": "killed the process",
    "hung": "computed for longer than allowed",
    "wrong": "read, and wrong",
}
FAULTS = tuple(OUTCOMES)[2:]
LIMIT_S = 5.0
"""Seconds of processor time for one case; of the clock it may take six times as many, since others compute too."""
START_S = 20.0  # more, for a worker to import what it needs and to make its healthy files


@dataclass(frozen=True, slots=True)
class FaultyCase:
    """A case that went wrong; target and seed make it again."""

    target: str
    seed: int
    outcome: str
    words: str


@dataclass(slots=True)
class Tally:
    """What became of all cases so far.

    Attributes:
        counts: target to outcome to number of cases.
        faults: every case with an outcome in `FAULTS`.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[FaultyCase] = field(default_factory=list)

    def add(self, target: str, seed: int, outcome: str, words: str) -> None:
        """Count one case."""
        self.counts.setdefault(target, Counter())[outcome] += 1
        if outcome in FAULTS:
            self.faults.append(FaultyCase(target, seed, outcome, words))

    @property
    def tried(self) -> int:
        """Cases in all."""
        return sum(counts.total() for counts in self.counts.values())

    @property
    def total(self) -> Counter[str]:
        """Outcome to cases, over all targets."""
        return sum(self.counts.values(), Counter())


class FuzzWorker:
    """One process of `benchmarks.fuzz.worker`, started anew whenever it has died."""

    def __init__(self, targets: str) -> None:
        self._targets, self._process, self._known = targets, None, set()

    def try_case(self, target: str, seed: int) -> tuple[str, str]:
        """Outcome and words of one case. Raises RuntimeError if a healthy file is not read."""
        limit_s = LIMIT_S if target in self._known else LIMIT_S + START_S
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{target} {seed}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen below
        line = _line(process, limit_s)
        if line is None:
            self.close()
            return "hung", f"more than {limit_s:g} s"
        if not line:
            code = process.wait()
            words = self._errors.read_text(errors="replace")[-3000:]
            self.close()
            if code == 1:
                raise RuntimeError(words)
            return "crashed", f"exit code {code}\n{words}"
        self._known.add(target)
        answer = json.loads(line)
        return answer["outcome"], answer["words"]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._folder.cleanup()
        self._process, self._known = None, set()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fuzz-worker-")
            self._errors = Path(self._folder.name) / "stderr"
            environment = os.environ | {"TMPDIR": self._folder.name, "OMP_NUM_THREADS": "1"}
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.fuzz.worker", self._targets],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                )
        return self._process


def run_cases(
    cases: Iterable[tuple[str, int]],
    num_workers: int,
    targets: str,
    progress: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Try cases (target, seed) on several workers; as many as `cases` gives before it ends.

    Args:
        cases: asked for one by one, so that a generator may stop by the clock.
        num_workers: processes.
        targets: where the table of targets is, as module:attribute.
        progress: called after each case.

    Raises RuntimeError if a healthy file is not read.
    """
    tally, lock, source = Tally(), threading.Lock(), iter(cases)
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def work() -> None:
        worker = FuzzWorker(targets)
        try:
            while errors.empty():
                with lock:
                    case = next(source, None)
                if case is None:
                    return
                outcome, words = worker.try_case(*case)
                with lock:
                    tally.add(*case, outcome, words)
                    progress(tally)
        except BaseException as error:
            errors.put(error)
        finally:
            worker.close()

    threads = [threading.Thread(target=work) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not errors.empty():
        raise errors.get()
    return tally


def until(seconds: float, cases: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Cases until so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield next(cases)


def _line(process: subprocess.Popen[bytes], limit_s: float) -> bytes | None:
    """The next line of a worker; empty when it has died, None when it computes for too long."""
    stream: IO[bytes] | None = process.stdout
    assert stream is not None
    began, cpu_began = time.monotonic(), _cpu_s(process.pid)
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not selector.select(timeout=0.25):
            if _cpu_s(process.pid) - cpu_began > limit_s or time.monotonic() - began > 6 * limit_s:
                return None
    return stream.readline()


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0
