"""Another back end, held to what it owes its caller: every output written, and nothing else.

An output that is left out would be whatever lay in that memory, perhaps the right answer of another model's run before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kernels.device_array import Buffer
from runtime.backends.base import Backend
from runtime.devices.engine import Engine


class StrictEngine:
    """An engine whose outputs are NaN before each run; inputs and the latest outputs have to stay as they are."""

    def __init__(self, graph: str, engine: Engine, owner: StrictBackend) -> None:
        self._graph, self._engine, self._owner = graph, engine, owner

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        for array in _on_host(outputs).values():
            array.fill(np.nan)
        latest, faults = self._owner.latest, self._owner.faults
        before = {
            **{f"its input {name}": array for name, array in _on_host(inputs).items()},
            **{
                f"{name} that {graph} had given": array
                for graph, arrays in latest.items()
                for name, array in arrays.items()
            },
        }
        copies = {what: array.copy() for what, array in before.items()}
        self._engine.run(inputs, outputs)
        for what, array in before.items():
            if array.tobytes() != copies[what].tobytes():
                faults.append(f"{self._graph} changes {what}")
                array[...] = copies[what]  # it may be the other model's
        latest[self._graph] = _on_host(outputs)


class StrictBackend:
    """Wraps a back end; what lies on a device is passed through unseen.

    Args:
        backend: to wrap.
        load: where its engines come from.
    """

    def __init__(self, backend: Backend, load: Callable[[str], Engine]) -> None:
        self._backend, self._load = backend, load
        self.description = backend.description
        self.device_memory, self.steps = backend.device_memory, backend.steps
        self.latest: dict[str, dict[str, Buffer]] = {}
        self.faults: list[str] = []
        """What engines have changed that is not theirs."""

    def load(self, graph: str) -> StrictEngine:
        return StrictEngine(graph, self._load(graph), self)

    def close(self) -> None:
        self._backend.close()


def _on_host(arrays: Mapping[str, Buffer]) -> dict[str, Buffer]:
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
