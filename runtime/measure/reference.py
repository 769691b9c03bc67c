"""A reference that encodes each picture once, however often it is asked and whomever it is compared with."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kernels.device_array import Buffer
from runtime.backends import Backend, Engine
from runtime.model import Model

MAX_BYTES = 2**29  # of what is remembered; the oldest goes first
ENCODER = "image_encoder"


class RememberedEngine:
    """An encoder whose outputs for inputs seen before are those it gave then, bit by bit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[bytes, dict[str, NDArray[np.float32]]] = OrderedDict()
        self._num_bytes = 0

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        digest = hashlib.sha256()
        for name, array in sorted(inputs.items()):
            digest.update(f"{name} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        key = digest.digest()
        if (known := self._known.get(key)) is not None:
            for name, array in outputs.items():
                cast(NDArray[np.float32], array)[...] = known[name]
            return
        self._engine.run(inputs, outputs)
        self._known[key] = {name: np.array(array) for name, array in outputs.items()}
        self._num_bytes += _num_bytes(self._known[key])
        while self._num_bytes > MAX_BYTES:
            self._num_bytes -= _num_bytes(self._known.popitem(last=False)[1])


def _num_bytes(outputs: Mapping[str, NDArray[np.float32]]) -> int:
    return sum(array.nbytes for array in outputs.values())


class RememberedBackend:
    """Wraps a back end of the host; everything but its encoder passes through."""

    def __init__(self, model: Model) -> None:
        backend = model.backend
        self._backend, self._model = backend, model
        self.description = backend.description
        self.device_memory, self.steps = backend.device_memory, backend.steps

    def load(self, graph: str) -> Engine:
        engine = self._model.engine(graph)
        return RememberedEngine(engine) if graph == ENCODER else engine

    def close(self) -> None:
        self._backend.close()


def remembered(model: Model) -> Model:
    """A model of the host whose encoder computes nothing twice; not one to be timed."""
    backend: Backend = RememberedBackend(model)
    return model.on(backend)
