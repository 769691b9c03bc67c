"""The toy's graphs on ONNX Runtime, each loaded once a session."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from export.model.sam2 import Sam2
from runtime.bundle.bundle import Bundle
from tests.graph_inputs import Arrays


class Graphs:
    """The bundle's graphs by name, beside the model that they were made of."""

    def __init__(self, model: Sam2, bundle: Bundle) -> None:
        self.model, self._bundle = model, bundle
        self._protos: dict[str, onnx.ModelProto] = {}
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def proto(self, graph: str) -> onnx.ModelProto:
        if graph not in self._protos:
            self._protos[graph] = onnx.load_from_string(self._bundle.read_graph(graph))
        return self._protos[graph]

    def session(self, graph: str) -> onnxruntime.InferenceSession:
        if graph not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[graph] = onnxruntime.InferenceSession(
                self._bundle.read_graph(graph), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[graph]

    def run(self, graph: str, inputs: Arrays) -> Arrays:
        session = self.session(graph)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.fixture(scope="session")
def graphs(toy: Sam2, toy_bundle: Bundle) -> Graphs:
    return Graphs(toy, toy_bundle)
