"""Models whose tensors live on a device made of host memory, for tests of everything that surrounds a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kernels.device_array import DeviceArray
from runtime.backends.base import Backend
from runtime.devices.cuda.memory import CudaMemory
from runtime.devices.engine import Engine
from runtime.model import Model
from runtime.steps.cuda.steps import CudaSteps
from tests.kernels.host_device import HostDevice


class DeviceEngine:
    """Somebody else's host engine, enqueued on the current stream."""

    def __init__(self, engine: Engine, memory: CudaMemory) -> None:
        self._engine, self._memory = engine, memory
        self.shapes: set[tuple[Any, ...]] = set()

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        device = self._memory.device
        shapes = tuple((name, tensor.shape) for name, tensor in inputs.items())
        if device.capturing is not None:
            assert shapes in self.shapes, "a shape is run once before it is captured"
        self.shapes.add(shapes)
        loose = [
            {n: DeviceArray(t.address, t.shape, t.dtype, None) for n, t in tensors.items()}
            for tensors in (inputs, outputs)
        ]

        def work() -> None:
            found, made = ({n: device.view(t) for n, t in each.items()} for each in loose)
            results = {name: np.empty_like(array) for name, array in made.items()}
            self._engine.run(found, results)
            for name, array in results.items():
                made[name][...] = array

        self._memory.current.enqueue(work)


class DeviceBackend:
    """A host back end that plays one on a device."""

    def __init__(self, backend: Backend, memory: CudaMemory, steps: CudaSteps) -> None:
        self._backend, self.device_memory, self.steps = backend, memory, steps
        self.description = f"{backend.description}, on {memory.device.name}"

    def load(self, graph: str) -> DeviceEngine:
        return DeviceEngine(self._backend.load(graph), self.device_memory)

    def close(self) -> None:
        self._backend.close()


def cuda_of(model: Model) -> tuple[CudaMemory, CudaSteps]:
    """A model's memory and steps, which are a device's."""
    memory, steps = model.device_memory, model.steps
    assert isinstance(memory, CudaMemory) and isinstance(steps, CudaSteps)
    return memory, steps


def on_device(
    model: Model, device: HostDevice | None = None, replays: bool = True
) -> tuple[Model, HostDevice]:
    """A model as if it were on a device, and that device."""
    device = device or HostDevice()
    memory = CudaMemory(device)
    steps = CudaSteps(memory, model.numbers, replays)
    return Model(
        model.numbers, DeviceBackend(model.backend, memory, steps), model.constants
    ), device
