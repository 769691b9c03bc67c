"""Graphs that are not what the contract says, or that an engine cannot run: typed errors, whichever engine it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.backends import open_backend
from runtime.backends.refusals import refusal
from runtime.bundle.bundle import EMBEDDED, Bundle, open_bundle
from runtime.bundle.contract import graph_specs
from runtime.bundle.manifest import MANIFEST, graph_file
from runtime.errors import BundleError, OutOfMemory

# One graph that each engine runs itself: OpenVINO leaves the small ones to ONNX Runtime.
BACKENDS = ("ort", "openvino")
GRAPH = "memory_attention"
ELEMENTS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
Tensors = dict[str, tuple[str, list[Any]]]


def tensors() -> tuple[Tensors, Tensors]:
    """Type and shape of what the graph takes and gives, as agreed."""
    spec = graph_specs(open_bundle().model)[GRAPH]
    inputs, outputs = (
        {name: (tensor.dtype, list(tensor.shape)) for name, tensor in kind.items()}
        for kind in (spec.inputs, spec.outputs)
    )
    return inputs, outputs


def made(inputs: Tensors, outputs: Tensors) -> onnx.ModelProto:
    """A graph of such inputs and outputs; it adds up all its inputs and broadcasts the sum."""
    infos = [
        [
            helper.make_tensor_value_info(name, ELEMENTS[dtype], shape)
            for name, (dtype, shape) in kind.items()
        ]
        for kind in (inputs, outputs)
    ]
    first, (name, (dtype, shape)) = next(iter(inputs)), next(iter(outputs.items()))
    sides = [side if isinstance(side, int) else 1 for side in shape]
    nodes = [
        helper.make_node("Shape", [first], ["sizes"], start=0, end=1),
        helper.make_node("Concat", ["sizes", "rest"], ["shape"], axis=0),
        *(helper.make_node("Cast", [x], [f"{x}.float"], to=TensorProto.FLOAT) for x in inputs),
        *(helper.make_node("ReduceSum", [f"{x}.float"], [f"{x}.sum"], keepdims=0) for x in inputs),
        helper.make_node("Sum", [f"{x}.sum" for x in inputs], ["sum"]),
        helper.make_node("Cast", ["sum"], ["cast"], to=ELEMENTS[dtype]),
        helper.make_node("Expand", ["cast", "shape"], [name]),
    ]
    if isinstance(shape[0], int):
        nodes[1] = helper.make_node("Identity", ["all"], ["shape"])
    constants = [
        helper.make_tensor("rest", TensorProto.INT64, [len(sides) - 1], sides[1:]),
        helper.make_tensor("all", TensorProto.INT64, [len(sides)], sides),
    ]
    extra = list(outputs)[1:]
    nodes += [helper.make_node("Identity", [name], [other]) for other in extra]
    graph = helper.make_graph(nodes, GRAPH, *infos, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def bundle_with(model: onnx.ModelProto, folder: Path) -> Bundle:
    """The embedded bundle with another graph in it, and hashes that fit."""
    manifest = json.loads((EMBEDDED / MANIFEST).read_text())
    data = model.SerializeToString()
    entry = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][graph_file(GRAPH)] = entry
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / graph_file(GRAPH)).write_bytes(data)
    return open_bundle(folder)


def renamed(kind: Tensors, old: str, new: str) -> Tensors:
    return {new if name == old else name: value for name, value in kind.items()}


CHANGES: dict[str, tuple[Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], str]] = {
    "an input of another name": (
        lambda i, o: (renamed(i, "memory", "memories"), o),
        r"inputs are \[.*'memories'.*contract says \[.*'memory'",
    ),
    "an input more": (
        lambda i, o: ({**i, "mood": ("float32", ["b"])}, o),
        r"inputs are \[.*'mood'",
    ),
    "an input less": (
        lambda i, o: ({n: x for n, x in i.items() if n != "obj_ptrs"}, o),
        r"inputs are .*contract says .*'obj_ptrs'",
    ),
    "an output of another name": (
        lambda i, o: (i, renamed(o, "conditioned_features", "features")),
        r"outputs are \['features'\], contract says \['conditioned_features'\]",
    ),
    "an output more": (
        lambda i, o: (i, {**o, "more": o["conditioned_features"]}),
        r"outputs are \['conditioned_features', 'more'\]",
    ),
    "another size": (
        lambda i, o: ({**i, "obj_ptrs": ("float32", ["b", "p", 77])}, o),
        r"input 'obj_ptrs' is .*77\), contract says float32\('b', 'p', 128\)",
    ),
    "an axis that should be free": (
        lambda i, o: ({**i, "memory_weight": ("float32", ["b", 7])}, o),
        r"input 'memory_weight' is .*7\), contract says float32\('b', 'k'\)",
    ),
    "another number of axes": (
        lambda i, o: ({**i, "memory_weight": ("float32", ["b", "k", 1])}, o),
        "input 'memory_weight' is",
    ),
    "another type": (
        lambda i, o: ({**i, "memory_time": ("float32", ["b", "k"])}, o),
        r"input 'memory_time' is float32.*contract says int64",
    ),
    "an output of another size": (
        lambda i, o: (i, {"conditioned_features": ("float32", ["b", 128, 16, 15])}),
        r"output 'conditioned_features' is .*contract says float32\('b', 128, 16, 16\)",
    ),
    "an output of another type": (
        lambda i, o: (i, {"conditioned_features": ("int64", ["b", 128, 16, 16])}),
        "output 'conditioned_features' is int64",
    ),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_graph_as_agreed_is_opened(name: str, tmp_path: Path) -> None:
    open_backend(name, bundle_with(made(*tensors()), tmp_path), threads=1).load(GRAPH)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_that_is_not_as_agreed_is_refused_with_both(
    name: str, change: str, tmp_path: Path
) -> None:
    changed, said = CHANGES[change]
    backend = open_backend(name, bundle_with(made(*changed(*tensors())), tmp_path), threads=1)
    with pytest.raises(BundleError, match=f"{GRAPH} is not the graph .*: {said}") as refused:
        backend.load(GRAPH)
    assert refused.value.exit_code == 4 and "export the bundle again" in str(refused.value)


def failing() -> onnx.ModelProto:
    """As agreed by its tensors, but it asks for an element far outside of one."""
    model = made(*tensors())
    graph = model.graph
    graph.initializer.append(helper.make_tensor("far", TensorProto.INT64, [1], [10**9]))
    graph.node.insert(0, helper.make_node("Gather", ["memory", "far"], ["none"], axis=1))
    graph.node.append(helper.make_node("ReduceSum", ["none"], ["nothing"], keepdims=0))
    (last,) = (node for node in graph.node if node.op_type == "Expand")
    last.output[0] = "before"
    graph.node.append(helper.make_node("Add", ["before", "nothing"], ["conditioned_features"]))
    return model


def test_a_graph_that_fails_while_it_runs_is_a_bad_bundle(tmp_path: Path) -> None:
    bundle = bundle_with(failing(), tmp_path)
    engine = open_backend("ort", bundle, threads=1).load(GRAPH)
    spec, axes = graph_specs(bundle.model)[GRAPH], {"b": 1, "k": 2, "p": 2}
    inputs, outputs = (
        {name: np.zeros(tensor.bind(axes), tensor.dtype) for name, tensor in kind.items()}
        for kind in (spec.inputs, spec.outputs)
    )
    with pytest.raises(BundleError, match=f"fails to run {GRAPH}: .*; export the bundle again"):
        engine.run(inputs, outputs)


def test_an_engine_without_memory_is_no_bad_bundle() -> None:
    bundle = open_bundle()
    for error in (RuntimeError("[X] std::bad_alloc: 12 bytes"), MemoryError()):
        found = refusal(bundle, "Abacus 1.0", GRAPH, error, "refuses")
        assert isinstance(found, OutOfMemory) and found.exit_code == 6
        assert f"Abacus 1.0 has not enough memory for {GRAPH}" in str(found)
    threadless = RuntimeError("env.cc: pthread_create failed, error code: 11")
    found = refusal(bundle, "Abacus 1.0", GRAPH, threadless, "refuses")
    assert isinstance(found, OutOfMemory) and found.exit_code == 6
    assert f"can start no thread for {GRAPH}" in str(found) and "--threads 1" in str(found)
    other = refusal(bundle, "Abacus 1.0", GRAPH, RuntimeError("beads"), "refuses")
    assert isinstance(other, BundleError) and "Abacus 1.0 refuses" in str(other)
