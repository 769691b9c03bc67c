"""Graphs that have been traced in this process: one that computes what another does is not traced again."""

from __future__ import annotations

import hashlib
from typing import Any
from unittest import mock

import onnx
import torch
from torch.export import ExportedProgram

from export.graphs import graph_module
from export.model.network import Network
from export.random_weights import fingerprint
from export.to_onnx import to_onnx
from runtime.bundle.contract import graph_specs
from tests.graph_inputs import graph_inputs, torch_inputs

# Several of everything, and one: networks differ in what they do with the second.
AXES = (
    {"n": 3, "b": 3, "k": 3, "p": 5, "q": 4},
    {"n": 1, "b": 1, "k": 1, "p": 1, "q": 1},
)

_traced: dict[str, bytes] = {}


def traced(model: Network, graph: str) -> onnx.ModelProto:
    """What `to_onnx` makes of a model's graph, a copy of one's own.

    Two graphs are one where what the contract says of them, all weights and buffers, and the answers to seeded inputs,
    bit by bit, are the same. A wrong share fails: whoever asks compares what they get with the plain network or with
    its official package, and nothing here makes those agree.
    """
    key = _key(model, graph)
    if key not in _traced:
        with mock.patch.object(ExportedProgram, "run_decompositions", _slow):
            _traced[key] = to_onnx(model, graph).SerializeToString()
    return onnx.load_from_string(_traced[key])


def _slow(*_: Any) -> ExportedProgram:
    raise AssertionError("no graph of ours needs to be traced again: give translatable.py a rule")


def _key(model: Network, graph: str) -> str:
    module, digest = graph_module(model, graph), hashlib.sha256()
    weights = fingerprint(model.state_dict() | dict(module.named_buffers()))
    digest.update(repr((graph, graph_specs(model.numbers)[graph], type(module), weights)).encode())
    with torch.no_grad():
        for axes in AXES:
            found = module(**torch_inputs(graph_inputs(model.numbers, graph, axes)))
            for tensor in found if isinstance(found, tuple) else (found,):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
