"""Another back end, watched: every run is timed and shown to an observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kernels.device_array import Buffer
from runtime.backends.base import Backend
from runtime.devices.engine import Engine

Observer = Callable[[str, Mapping[str, Buffer], Mapping[str, Buffer], float], None]
"""Called with graph, inputs, outputs and milliseconds after each run has finished."""


class ObservedEngine:
    """An engine that reports each run."""

    def __init__(self, graph: str, engine: Engine, backend: Backend, observe: Observer) -> None:
        self._graph, self._engine, self._backend, self._observe = graph, engine, backend, observe

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        ms = self._backend.steps.timed(lambda: self._engine.run(inputs, outputs))
        self._observe(self._graph, inputs, outputs, ms)


class ObservedBackend:
    """Wraps a back end; everything but `load` passes through.

    Args:
        backend: to wrap.
        observe: sees every run.
        load: where engines come from, so that those already loaded serve again; None loads them anew.
    """

    def __init__(
        self,
        backend: Backend,
        observe: Observer,
        load: Callable[[str], Engine] | None = None,
    ) -> None:
        self._backend, self._observe, self._load = backend, observe, load or backend.load
        self.description = backend.description
        self.device_memory, self.steps = backend.device_memory, backend.steps.unreplayed()

    def load(self, graph: str) -> ObservedEngine:
        return ObservedEngine(graph, self._load(graph), self._backend, self._observe)

    def close(self) -> None:
        self._backend.close()
