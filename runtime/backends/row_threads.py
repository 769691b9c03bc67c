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
PATIENCE = 8  # batches before the graph is opened once more, which takes as long as some of them
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
        whole: runs on all threads.
        open_single: makes an engine whose runs take one thread each, of which as many as there are threads may be
            under way.
        threads: of a run of `whole`.
        size_bytes: of the graph.
    """

    def __init__(
        self, whole: Closing, open_single: Callable[[], Closing], threads: int, size_bytes: int
    ) -> None:
        self._whole, self._open_single, self._threads = whole, open_single, threads
        self._single: Closing | None = None
        can_be = 2 <= threads <= MAX_ROWS and size_bytes <= MEMORY_SHARE * memory_bytes()
        self._is_apart: bool | None = None if can_be else False
        self._num_batches = 0
        self._taken_s: dict[bool, list[float]] = {False: [], True: []}
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
        single = self._chosen()
        started = perf_counter()
        if single is None:
            self._whole.run(inputs, outputs)
        else:
            self._run_apart(single, rows, inputs, outputs)
        if self._is_apart is None:
            self._note(single is not None, (perf_counter() - started) / rows)

    def trim(self) -> None:
        """Give back what no run needs now."""
        for engine in (self._whole, self._single):
            if engine is not None:
                engine.trim()

    def close(self) -> None:
        """Let both engines go."""
        self._stay_together()
        self._whole.close()

    def _chosen(self) -> Closing | None:
        """The engine of single rows if this batch goes apart: when that is known to pay, or to find out."""
        with self._lock:
            self._num_batches += 1
            if self._is_apart is None and self._num_batches > PATIENCE:
                self._open()
            if self._is_apart is None and len(self._taken_s[True]) > len(self._taken_s[False]):
                return None
            return self._single

    def _open(self) -> None:
        if self._single is None:
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

    def _note(self, is_apart: bool, taken_s: float) -> None:
        """Remember how long a row has taken, and decide once enough have been seen."""
        with self._lock:
            if self._single is None or self._is_apart is not None:
                return
            self._taken_s[is_apart].append(taken_s)
            if all(len(taken) >= TRIALS for taken in self._taken_s.values()):
                self._is_apart = median(self._taken_s[True]) < median(self._taken_s[False])
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
