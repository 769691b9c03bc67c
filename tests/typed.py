"""Instruments for graphs with types of their own: run, infer, and compute in half on a CPU that has none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

from tests.graph_inputs import Arrays, relative_error

CODES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def run(data: bytes, inputs: Arrays) -> Arrays:
    """On ONNX Runtime, which without its own improvements keeps every cast."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def elements(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as onnx infers it."""
    graph = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {x.name: x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def rounded(data: bytes, half: str) -> bytes:
    """The graph in float32, with every tensor that was half rounded to it: ONNX Runtime has no bfloat16 on the CPU.

    Outputs that were half are float32 as well.
    """
    model = onnx.load_from_string(data)
    types = elements(model)
    for weight in model.graph.initializer:
        if weight.data_type == CODES[half]:
            values = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if types[name] == CODES[half]:
                node.output[i] = f"{name}/exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=CODES[half]),
                    helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT),
                ]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == CODES[half]:
                attribute.i = TensorProto.FLOAT
    for name in half_outputs(data, half):
        (output,) = (each for each in model.graph.output if each.name == name)
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def half_outputs(data: bytes, half: str) -> set[str]:
    """Outputs of a graph that are half."""
    outputs = onnx.load_from_string(data).graph.output
    return {x.name for x in outputs if x.type.tensor_type.elem_type == CODES[half]}


def worst(found: Arrays, wanted: Arrays) -> float:
    assert found.keys() == wanted.keys()
    errors = [relative_error(found[name], wanted[name]) for name in wanted]
    return float(np.max(errors))  # NaN if any is, which is below nothing


def computed(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes that depend on an input."""
    known = {x.name for x in model.graph.input}
    for node in model.graph.node:
        if known & set(node.input):
            known.update(node.output)
            yield node
