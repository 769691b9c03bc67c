"""Rows of a batch on threads of their own, where that is faster than all threads on one row after another.

Threads that share an operator wait for each other at its end, some hundred times a step, and what an operator does not
share is done by one of them. Rows know nothing of each other: an object on its way forward and the same one on its way
back, or a slice and the next one. With a thread for each they wait once. Numbers change by rounding at most, and
with AVX2 not at all: neither ONNX Runtime nor OpenVINO adds anything up in another order on fewer threads there.

What there is to gain depends on the processor and on who else is on it, so that it is measured where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Lock
from time import perf_counter
from typing import Protocol

from kernels.device_array import Buffer
from runtime.devices.engine import Engine, Trimmed
from runtime.devices.machine import memory_bytes
from runtime.errors import Sam2Error
from runtime.process.shortage import is_out_of_memory

MAX_ROWS = 4  # at a time; each takes as much memory between operators as a run of all threads does
# A graph is opened once more when its batches have taken so many times as long as opening it did: a tenth of their time
# is what there is to gain, so that a short volume never loses more than it could have gained.
PATIENCE = 10
TRIALS = 5  # batches of either kind before the faster one is kept
# Of the machine's memory: a graph whose weights take more is not opened twice.
MEMORY_SHARE = 1 / 64


class Closing(Engine, Trimmed, Protocol):
    """An engine that can be let go."""

    def close(self) -> None:
        """Give back what it holds."""


class RowByRow:
    """A graph that is given one row at a time, whatever comes in a batch.

    Of a graph in eight bits the ranges are those of all that a run is given, so that the rows of a batch would change
    each other's numbers, and masks would depend on what else is segmented and on how many cores are free.
    """

    def __init__(self, engine: Closing) -> None:
        self._engine = engine

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers whose first axis is the rows; raises what the engine raises."""
        for row in range(len(next(iter(inputs.values()), ()))):
            part = slice(row, row + 1)
            self._engine.run(_rows(inputs, part), _rows(outputs, part))

    def trim(self) -> None:
        """Give back what no run needs now."""
        self._engine.trim()

    def close(self) -> None:
        """Let the engine go."""
        self._engine.close()


class RowThreads:
    """A graph that is open for all threads, and once more for one thread and several runs at a time if that pays.

    Args:
        open_whole: makes the engine that runs on all threads.
        open_single: makes an engine whose runs take one thread each, of which as many as there are threads may be
            under way.
        threads: of a run of `whole`.
        size_bytes: of the graph.
    """

    def __init__(
        self,
        open_whole: Callable[[], Closing],
        open_single: Callable[[], Closing],
        threads: int,
        size_bytes: int,
    ) -> None:
        started = perf_counter()
        self._whole, self._open_single, self._threads = open_whole(), open_single, threads
        self._opening_s = perf_counter() - started
        self._single: Closing | None = None
        can_be = 2 <= threads <= MAX_ROWS and size_bytes <= MEMORY_SHARE * memory_bytes()
        self._is_apart: bool | None = None if can_be else False
        self._spent_s = 0.0  # on batches before the graph is opened once more
        self._num_trials = 0
        self._taken: dict[bool, list[float]] = {False: [], True: []}  # seconds a byte of input
        self._lock = Lock()

    @property
    def rows_at_once(self) -> int:
        """How many rows had better come in one batch, see `runtime.devices.engine.Batched`."""
        return 1 if self._is_apart is False else self._threads

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute into buffers whose first axis is the rows; raises what the engines raise."""
        rows = len(next(iter(inputs.values()), ()))
        if self._is_apart is False or rows < self._threads:
            self._whole.run(inputs, outputs)
            return
        single, is_trial = self._chosen()
        started = perf_counter()
        if single is None:
            self._whole.run(inputs, outputs)
        else:
            self._run_apart(single, rows, inputs, outputs)
        if self._is_apart is None:
            taken_s = perf_counter() - started
            if is_trial:
                # By the byte, since a slice reads more memories than the one before it.
                self._note(single is not None, taken_s / sum(x.nbytes for x in inputs.values()))
            elif single is None:
                self._spent_s += taken_s

    def trim(self) -> None:
        """Give back what no run needs now."""
        for engine in (self._whole, self._single):
            if engine is not None:
                engine.trim()

    def close(self) -> None:
        """Let both engines go."""
        self._stay_together()
        self._whole.close()

    def _chosen(self) -> tuple[Closing | None, bool]:
        """The engine of single rows if this batch goes apart, and whether its time tells what that is worth.

        The first batch of an engine does not: it makes room, too.
        """
        with self._lock:
            if self._is_apart is not None:
                return self._single, False
            if self._single is None:
                if self._spent_s >= PATIENCE * self._opening_s:
                    self._open()
                return self._single, False
            self._num_trials += 1
            return (None if self._num_trials % 2 else self._single), True

    def _open(self) -> None:
        try:
            self._single = self._open_single()
        except (Sam2Error, MemoryError):
            self._is_apart = False  # no room, or the bundle was replaced: it runs on as it did

    def _run_apart(
        self,
        single: Closing,
        rows: int,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
    ) -> None:
        """Rows that keep all threads busy on threads of their own, what is left of them together on all threads."""
        left = rows % self._threads
        parts = [slice(i, i + 1) for i in range(rows - left)]
        try:
            with ThreadPoolExecutor(self._threads, "row") as pool:
                runs = [
                    pool.submit(single.run, _rows(inputs, part), _rows(outputs, part))
                    for part in parts
                ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._stay_together()  # no thread is to be had
            self._whole.run(inputs, outputs)
            return
        for run in runs:
            run.result()
        if left:
            rest = slice(rows - left, rows)
            self._whole.run(_rows(inputs, rest), _rows(outputs, rest))

    def _note(self, is_apart: bool, seconds_a_byte: float) -> None:
        """Remember how long a batch has taken, and decide once enough have been seen."""
        with self._lock:
            if self._single is None or self._is_apart is not None:
                return
            self._taken[is_apart].append(seconds_a_byte)
            if all(len(taken) >= TRIALS for taken in self._taken.values()):
                self._is_apart = median(self._taken[True]) < median(self._taken[False])
                if not self._is_apart:
                    self._drop_single()

    def _stay_together(self) -> None:
        with self._lock:
            self._is_apart = False
            self._drop_single()

    def _drop_single(self) -> None:
        if self._single is not None:
            self._single.close()
        self._single = None


def _rows(tensors: Mapping[str, Buffer], part: slice) -> dict[str, Buffer]:
    return {name: tensor[part] for name, tensor in tensors.items()}
