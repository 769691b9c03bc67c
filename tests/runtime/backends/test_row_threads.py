"""Rows of a batch on threads of their own: the same numbers, several at a time, and only where it is faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pytest

from runtime.backends import row_threads
from runtime.backends.row_threads import MAX_ROWS, PATIENCE, TRIALS, RowByRow, RowThreads
from runtime.devices.engine import Batched, Trimmed
from runtime.errors import BundleError, Closed, OutOfMemory
from runtime.model import load
from tests.graph_inputs import graph_inputs, relative_error
from tests.no_threads import no_more_threads

GIB = 2**30
BATCHES = (
    PATIENCE + 1 + 2 * TRIALS
)  # of a second and more each, beside an opening of one, until it is decided
AXES = {
    "image_encoder": {"n": 3},
    "memory_attention": {"b": 3, "k": 3, "p": 4},
    "mask_decoder": {"b": 3, "q": 2},
    "memory_encoder": {"b": 3},
}


class Clock:
    """Seconds that pass only while an engine runs."""

    def __init__(self) -> None:
        self.now, self.pace = 0.0, 1.0

    def __call__(self) -> float:
        return self.now


class Doubling:
    """An engine that doubles rows, and what was done to it."""

    def __init__(self, clock: Clock | None = None, takes_s: float = 0.0) -> None:
        self.rows: list[list[float]] = []
        self.done: list[str] = []
        self.meet: Barrier | None = None
        self.fails: Exception | None = None
        self.first_s = 0.0
        self._clock, self._takes_s, self._lock = clock, takes_s, Lock()

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        if self.meet is not None:
            self.meet.wait(60)
        if "close" in self.done:
            raise Closed("doubling")
        with self._lock:
            self.rows.append(inputs["x"][:, 0].tolist())
            if self._clock is not None:
                self._clock.now += self._takes_s * self._clock.pace + self.first_s
                self.first_s = 0.0
        if self.fails and 2.0 in self.rows[-1]:
            raise self.fails
        outputs["y"][...] = 2 * inputs["x"]

    def trim(self) -> None:
        self.done.append("trim")

    def close(self) -> None:
        self.done.append("close")


class Opened:
    """A graph for all threads, and how often it was opened for one."""

    def __init__(
        self,
        threads: int = 2,
        whole_s: float = 3.0,
        single_s: float = 1.0,
        opening_s: float = 1.0,
        size_bytes: int = 1,
        error: Exception | None = None,
    ) -> None:
        self.clock = Clock()
        self.whole, self.single = Doubling(self.clock, whole_s), Doubling(self.clock, single_s)
        self.times, self._error, self._opening_s = 0, error, opening_s
        self._threads, self._size_bytes = threads, size_bytes

    @cached_property
    def engine(self) -> RowThreads:
        return RowThreads(self._open_whole, self._open, self._threads, self._size_bytes)

    def _open_whole(self) -> Doubling:
        self.clock.now += self._opening_s
        return self.whole

    def _open(self) -> Doubling:
        self.times += 1
        if self._error:
            raise self._error
        return self.single

    def run(self, rows: int = 2, columns: int = 3) -> np.ndarray:
        x = np.arange(1, rows + 1, dtype=np.float32).repeat(columns).reshape(rows, columns)
        outputs = {"y": np.zeros_like(x)}
        self.engine.run({"x": x}, outputs)
        np.testing.assert_array_equal(outputs["y"], 2 * x)
        return outputs["y"]

    def decide(self, rows: int = 2) -> None:
        for _ in range(BATCHES):
            self.run(rows)
        self.whole.rows.clear()
        self.single.rows.clear()


Opens = Callable[..., Opened]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opens:
    """Opens graphs on a machine of 8 GiB, on which time passes as their engines say."""

    def open_one(**kwargs: Any) -> Opened:
        monkeypatch.setattr(row_threads, "memory_bytes", lambda: 8 * GIB)
        graph = Opened(**kwargs)
        monkeypatch.setattr(row_threads, "perf_counter", graph.clock)
        return graph

    return open_one


@pytest.mark.parametrize("opening_s", [0.5, 1.0, 20.0])
def test_a_graph_is_opened_once_more_when_its_batches_have_outweighed_that(
    opening_s: float, opened: Opens
) -> None:
    graph = opened(whole_s=5.0, opening_s=opening_s)
    batches = int(PATIENCE * opening_s / 5.0)
    for _ in range(batches):
        graph.run()
    assert (graph.times, len(graph.whole.rows)) == (0, batches)
    graph.run()
    assert (graph.times, graph.single.rows) == (1, [[1.0], [2.0]])


def test_batches_of_fewer_rows_than_threads_outweigh_nothing(opened: Opens) -> None:
    graph = opened(threads=3)
    for _ in range(10 * PATIENCE):
        graph.run(2)
    graph.run(3)
    assert graph.times == 0


@pytest.mark.parametrize(("single_s", "is_apart"), [(1.4, True), (1.6, False)])
def test_batches_that_have_more_to_do_than_others_are_compared_fairly(
    single_s: float, is_apart: bool, opened: Opens
) -> None:
    """Memories become more from slice to slice, and the first batch of an engine makes room for it as well."""
    graph = opened(whole_s=3.0, single_s=single_s, opening_s=0.0)
    graph.single.first_s = 50.0
    for batch in range(2 * TRIALS + 1):
        graph.clock.pace = columns = 1 + batch
        graph.run(columns=columns)
    assert graph.engine.rows_at_once == (2 if is_apart else 1)


def test_either_way_is_tried_in_turn_and_the_faster_one_kept(opened: Opens) -> None:
    graph = opened(whole_s=3.0, single_s=1.0)  # two rows apart take 2
    graph.decide()
    for _ in range(3):
        graph.run()
    assert graph.whole.rows == []
    assert sorted(graph.single.rows) == [[1.0]] * 3 + [[2.0]] * 3
    assert (graph.engine.rows_at_once, graph.times) == (2, 1)


def test_where_nothing_is_gained_it_is_let_go(opened: Opens) -> None:
    graph = opened(whole_s=3.0, single_s=2.0)
    assert graph.engine.rows_at_once == 2
    graph.decide()
    graph.run()
    assert (graph.whole.rows, graph.single.rows) == ([[1.0, 2.0]], [])
    assert graph.single.done == ["close"]
    assert (graph.engine.rows_at_once, graph.times) == (1, 1)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_rows_that_keep_all_threads_busy_go_apart_and_the_rest_together(
    rows: int, threads: int, opened: Opens
) -> None:
    graph = opened(threads=threads, whole_s=100.0)
    graph.decide(threads)
    graph.run(rows)
    apart = rows - rows % threads
    numbers = [float(n) for n in range(1, rows + 1)]
    assert sorted(graph.single.rows) == [[n] for n in numbers[:apart]]
    assert graph.whole.rows == ([numbers[apart:]] if rows % threads else [])


def test_several_rows_are_under_way_at_a_time(opened: Opens) -> None:
    graph = opened(threads=4)
    graph.decide(4)
    graph.single.meet = Barrier(4)  # which breaks unless four runs come to it
    graph.run(8)


@pytest.mark.parametrize("threads", [1, MAX_ROWS + 1, 64])
def test_it_is_for_few_threads(threads: int, opened: Opens) -> None:
    graph = opened(threads=threads)
    for _ in range(PATIENCE + 2):
        graph.run(2 * threads)
    assert (graph.times, graph.engine.rows_at_once) == (0, 1)


@pytest.mark.parametrize(("size_bytes", "times"), [(GIB // 8, 1), (GIB // 8 + 1, 0)])
def test_a_graph_that_takes_a_large_part_of_memory_is_not_opened_twice(
    size_bytes: int, times: int, opened: Opens
) -> None:
    graph = opened(size_bytes=size_bytes)
    graph.decide()
    assert graph.times == times


@pytest.mark.parametrize("error", [OutOfMemory("full"), BundleError("replaced"), MemoryError()])
def test_a_graph_that_cannot_be_opened_once_more_runs_on(error: Exception, opened: Opens) -> None:
    graph = opened(error=error)
    graph.decide()
    graph.run()
    assert (graph.times, graph.engine.rows_at_once) == (1, 1)


def test_rows_stay_together_once_no_thread_is_to_be_had(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = opened()
    graph.decide()
    with monkeypatch.context() as patch:
        no_more_threads(patch)
        graph.run()
    graph.run()
    assert graph.whole.rows == [[1.0, 2.0]] * 2
    assert (graph.single.done, graph.engine.rows_at_once) == (["close"], 1)


def test_what_a_row_raises_is_raised_when_all_have_ended(opened: Opens) -> None:
    graph = opened()
    graph.decide()
    graph.single.fails = BundleError("broken")
    with pytest.raises(BundleError, match="broken"):
        graph.run()
    assert len(graph.single.rows) == 2
    graph.single.fails = None
    graph.run()


def test_a_graph_is_given_one_row_at_a_time_where_rows_would_change_each_other() -> None:
    inner = Doubling()
    engine = RowByRow(inner)
    x = np.arange(1, 4, dtype=np.float32).repeat(2).reshape(3, 2)
    outputs = {"y": np.zeros_like(x)}
    engine.run({"x": x}, outputs)
    assert inner.rows == [[1.0], [2.0], [3.0]]
    np.testing.assert_array_equal(outputs["y"], 2 * x)
    engine.trim()
    engine.close()
    assert inner.done == ["trim", "close"]


def test_both_are_trimmed_and_closed(opened: Opens) -> None:
    graph = opened()
    assert isinstance(graph.engine, Trimmed) and isinstance(graph.engine, Batched)
    graph.engine.trim()
    graph.decide()
    graph.engine.trim()
    graph.engine.close()
    assert graph.whole.done == ["trim", "trim", "close"]
    assert graph.single.done == ["trim", "close"]
    with pytest.raises(Closed):
        graph.run()
    assert graph.times == 1


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_real_engines_give_the_same_numbers_either_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_threads, "PATIENCE", 0)
    model = load(backend=name, threads=2)
    for graph, axes in AXES.items():
        inputs = graph_inputs(model.numbers, graph, axes)
        engine: Any = model.engine(graph)
        assert isinstance(engine, RowThreads)
        apart = model.compute(graph, inputs)
        assert engine._single is not None
        together = model.compute(graph, inputs)
        assert engine._num_trials == 1
        for output, wanted in together.items():
            assert relative_error(apart[output], wanted) <= 1e-4  # rounding, on any processor
    model.close()
