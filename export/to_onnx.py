"""One graph of a model to one checked ONNX model.

Attention is one node, ONNX Runtime's `MultiHeadAttention`, whose CPU kernel is blocked and never writes the scores
out. Back ends without such a node lower it themselves (runtime/backends/lowering/typed_attention.py).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from export.graphs import graph_module
from export.model.attention import MARK_DOMAIN
from export.model.network import Network
from export.split_weights import is_too_large
from export.translatable import without_decomposing
from runtime.bundle.contract import GraphSpec, TensorSpec, graph_specs
from runtime.bundle.memory_reads import PROPERTY, MemoryReadNames, reads_to_json
from runtime.errors import Sam2Error

OPSET = 20  # the newest that needs no version conversion in the tracer and that every engine of ours reads
EXAMPLE_AXES = {"n": 2, "b": 2, "k": 3, "p": 5, "q": 4}  # distinct from 1, or the tracer fixes them
MAX_AXIS = 4096
TRACER_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
TENSOR_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


class ExportError(Sam2Error):
    """A traced graph that does not fit the contract."""


def to_onnx(model: Network, graph: str) -> onnx.ModelProto:
    """Trace one of `contract.GRAPHS`, with the contract's names and dynamic axes.

    Args:
        model: weights loaded.
        graph: which graph.

    Raises ExportError if the result does not fit the contract or fails `onnx.checker`.
    """
    spec = graph_specs(model.numbers)[graph]
    traced = _trace(model, graph, spec)
    _strip(traced)
    _write_down_reads(traced)
    _name_axes(traced, spec)
    _halve_weights(traced)
    _check(traced, graph, spec)
    return traced


def _trace(model: Network, graph: str, spec: GraphSpec) -> onnx.ModelProto:
    axes = {axis: torch.export.Dim(axis, min=1, max=MAX_AXIS) for axis in EXAMPLE_AXES}
    arguments = tuple(
        torch.ones(t.bind(EXAMPLE_AXES), dtype=getattr(torch, t.dtype))
        for t in spec.inputs.values()
    )
    dynamic = tuple(
        {i: axes[side] for i, side in enumerate(t.shape) if isinstance(side, str)}
        for t in spec.inputs.values()
    )
    with torch.no_grad(), _quiet_tracer(), _translations_read_once(), without_decomposing():
        program = torch.export.export(graph_module(model, graph), arguments, dynamic_shapes=dynamic)
        exported = torch.onnx.export(
            program,
            (),
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            opset_version=OPSET,
            # Constants stay the small expressions they are; every engine folds them when it loads.
            optimize=False,
            verbose=False,
        )
    if exported is None:
        raise ExportError(f"{graph}: the tracer returned nothing")
    return exported.model_proto


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Without the tracer's deprecations and its reports of what it tidied up."""
    loggers = [logging.getLogger(name) for name in TRACER_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _translations_read_once() -> AbstractContextManager[Any]:
    """The tracer, its translations of operators kept from graph to graph.

    It parses the sources of all 500 of them for each graph, which takes a second. It only reads what comes of that, and
    is given no others here. A PyTorch that has them elsewhere does as it likes.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = _kept(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):
        return nullcontext()
    return mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(read))


@cache
def _kept(read: Any) -> Any:
    """A function that keeps its answers; the same one for the same function."""
    return cache(read)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the tracer's notes, which name this machine's files and double a small graph's size."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")


def _write_down_reads(model: onnx.ModelProto) -> None:
    """Put marked reads of memory into the metadata, and take the marks out of the graph."""
    marks = [node for node in model.graph.node if node.domain == MARK_DOMAIN]
    if not marks:
        return
    results = {mark.output[0]: mark.input[3] for mark in marks}
    for mark in marks:
        model.graph.node.remove(mark)
    for node in model.graph.node:
        node.input[:] = [results.get(name, name) for name in node.input]
    opsets = [opset for opset in model.opset_import if opset.domain != MARK_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    helper.set_model_props(
        model, {PROPERTY: reads_to_json(MemoryReadNames(*mark.input) for mark in marks)}
    )


def _name_axes(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Give the graph's dynamic axes the contract's names."""
    for values, wanted in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        for value in values:
            if value.name not in wanted:
                raise ExportError(
                    f"unexpected graph tensor '{value.name}', contract says {list(wanted)}"
                )
            sides = value.type.tensor_type.shape.dim
            for side, named in zip(sides, wanted[value.name].shape, strict=True):
                if isinstance(named, str) and side.dim_param:
                    side.dim_param = named


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store a weight as float16 behind a Cast wherever that loses nothing; engines fold the Cast on loading."""
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < 64 or not np.array_equal(half.astype(np.float32), values):
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _check(model: onnx.ModelProto, graph: str, spec: GraphSpec) -> None:
    try:
        if not is_too_large(model):  # else it is looked at once it is written
            onnx.checker.check_model(model, full_check=False)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{graph}: onnx.checker refuses it: {error}") from error
    for values, wanted in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        specs = {value.name: _spec_of(value) for value in values}
        if list(specs) != list(wanted):
            raise ExportError(f"{graph}: tensors {list(specs)}, contract says {list(wanted)}")
        for name, tensor in wanted.items():
            if specs[name] != tensor:
                raise ExportError(f"{graph}: '{name}' is {specs[name]}, contract says {tensor}")


def _spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = {code: name for name, code in TENSOR_TYPES.items()}.get(tensor.elem_type, "?")
    return TensorSpec(tuple(d.dim_param or d.dim_value for d in tensor.shape.dim), dtype)
