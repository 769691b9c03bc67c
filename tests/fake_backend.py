"""A back end that answers from the contract alone: the instrument of every test of host logic.

By default it finds a square in the middle of every slice with confidence 0.9; a test overrides the answer of any
graph. It records what it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kernels.device_array import Buffer
from runtime.bundle.contract import GraphSpec, ModelNumbers, dtype_name, graph_specs
from runtime.devices.memory import HOST_MEMORY, DeviceMemory
from runtime.steps.steps import HOST_STEPS, Steps

Answer = Callable[[Mapping[str, Buffer]], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Call:
    """One run: the graph and copies of its inputs."""

    graph: str
    inputs: dict[str, Buffer]


class FakeEngine:
    """Checks inputs and outputs against the contract, then answers."""

    def __init__(
        self,
        graph: str,
        spec: GraphSpec,
        calls: list[Call],
        answer: Answer | None,
        rows_at_once: int = 1,
    ) -> None:
        self._graph, self._spec, self._calls, self._answer = graph, spec, calls, answer
        self.rows_at_once = rows_at_once

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        axes = self._spec.check_inputs(self._graph, inputs)
        self._calls.append(
            Call(self._graph, {name: array.copy() for name, array in inputs.items()})
        )
        answers = self._answer(inputs) if self._answer else {}
        for name, spec in self._spec.outputs.items():
            out = outputs[name]
            if why := spec.mismatch(out.shape, dtype_name(out.dtype), axes):
                raise ValueError(f"{self._graph}: output '{name}' {why}")
            out[...] = answers.get(name, _default(name, out.shape))


def _default(name: str, shape: tuple[int, ...]) -> np.ndarray | float:
    if name == "low_res_masks":
        side = shape[-1]
        masks = np.full(shape, -4.0, np.float32)
        masks[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 4.0
        return masks
    return {"ious": 0.9, "object_score_logits": 5.0}.get(name, 0.0)


class FakeBackend:
    """Answers every graph of a model.

    Args:
        model: whose shapes to answer with.
        answers: graph name to a function from its inputs to some or all of its outputs.
        rows_at_once: what its engines wish for.
    """

    description = "fake: answers from the contract, computes nothing"
    device_memory: DeviceMemory = HOST_MEMORY
    steps: Steps = HOST_STEPS

    def __init__(
        self,
        model: ModelNumbers,
        answers: Mapping[str, Answer] | None = None,
        rows_at_once: int = 1,
    ) -> None:
        self._rows_at_once = rows_at_once
        self._specs = graph_specs(model)
        self._answers = answers or {}
        self.calls: list[Call] = []

    def load(self, graph: str) -> FakeEngine:
        answer = self._answers.get(graph)
        return FakeEngine(graph, self._specs[graph], self.calls, answer, self._rows_at_once)

    def close(self) -> None:
        """Do nothing: nothing is held."""
