"""The toy's graphs on ONNX Runtime in both spellings of attention, each exported once a session."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnxruntime
import pytest
import torch

from export.model.sam2 import Sam2
from export.to_onnx import to_onnx
from runtime.bundle import Bundle
from tests.graph_inputs import Arrays


class Graphs:
    """Graphs by name and spelling; "fused" ones come from the bundle."""

    def __init__(self, model: Sam2, bundle: Bundle) -> None:
        self.model, self._bundle = model, bundle
        self._protos: dict[tuple[str, str], onnx.ModelProto] = {}
        self._sessions: dict[tuple[str, str], onnxruntime.InferenceSession] = {}

    def proto(self, graph: str, spelling: str) -> onnx.ModelProto:
        key = (graph, spelling)
        if key not in self._protos:
            self._protos[key] = (
                onnx.load_from_string(self._bundle.read_graph(graph))
                if spelling == "fused"
                else to_onnx(self.model, graph, spelling)
            )
        return self._protos[key]

    def session(self, graph: str, spelling: str) -> onnxruntime.InferenceSession:
        key = (graph, spelling)
        if key not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[key] = onnxruntime.InferenceSession(
                self.proto(*key).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[key]

    def run(self, graph: str, spelling: str, inputs: Arrays) -> Arrays:
        session = self.session(graph, spelling)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.fixture(scope="session")
def graphs(toy: Sam2, toy_bundle: Bundle) -> Graphs:
    return Graphs(toy, toy_bundle)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models here are too small to be shared out between threads, which only wait for each other then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
