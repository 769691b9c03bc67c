"""A bundle's graphs as TensorRT gets them: the same numbers in plain operators, and types as they were asked for."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.trt_build import build_engine, profiles
from runtime.backends.typed_attention import SPELLINGS
from runtime.backends.typed_graph import PRECISIONS, PRODUCTS, Precision, typed_graph
from runtime.bundle import Bundle
from runtime.contract import GRAPHS, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from tests.export.test_trt_build import needs_tensorrt
from tests.graph_inputs import graph_inputs, relative_error

AXES = {"n": 2, "b": 2, "k": 3, "p": 4, "q": 2}
FP32_TOLERANCE = 1e-5
# Largest error over the toy's graphs was 4e-3 in float16 and 5e-2 in bfloat16, whose unit is eight times larger.
TOLERANCES = {"fp16": 1e-2, "mixed": 1e-2, "bf16": 1e-1}
DELICATE = ("LayerNormalization", "Exp", "Pow", "ReduceMean", "Erf", "Sqrt", "Div", "ReduceSum")


def run(data: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {weight.name: weight.data_type for weight in inferred.initializer}


def typed(bundle: Bundle, graph: str, precision: Precision) -> onnx.ModelProto:
    return onnx.load_from_string(typed_graph(bundle.read_graph(graph), precision, graph))


def widened(model: onnx.ModelProto) -> bytes:
    """The graph with bfloat16 played by float32: rounded wherever it is cast, which is where products read it."""
    graph = model.graph
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                (wide,) = node.output
                node.output[0] = f"{wide}/rounded"
                single = TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [node.output[0]], [wide], to=single))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for weight in graph.initializer:
        if weight.data_type == TensorProto.BFLOAT16:
            bits = np.frombuffer(weight.raw_data, "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32).reshape(tuple(weight.dims))
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model.SerializeToString()


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_plain_operators_compute_what_the_bundle_does(
    graph: str, attention: str, toy_bundle: Bundle
) -> None:
    inputs = graph_inputs(toy_bundle.model, graph, AXES)
    data = toy_bundle.read_graph(graph)
    found = run(typed_graph(data, Precision(None, attention=attention), graph), inputs)
    for name, truth in run(data, inputs).items():
        assert relative_error(found[name], truth) < FP32_TOLERANCE, name


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("name", ["fp16", "mixed", "bf16"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_half_precision_computes_nearly_the_same(
    graph: str, name: str, attention: str, toy_bundle: Bundle
) -> None:
    row = PRECISIONS[name]
    precision = Precision(row.half, row.graphs, attention)
    inputs = graph_inputs(toy_bundle.model, graph, AXES)
    model = typed(toy_bundle, graph, precision)
    found = run(widened(model), inputs)
    errors = [
        relative_error(found[output], truth)
        for output, truth in run(toy_bundle.read_graph(graph), inputs).items()
    ]
    assert max(errors) < (TOLERANCES[name] if graph in row.graphs else FP32_TOLERANCE)
    assert graph not in row.graphs or max(errors) > 1e-5, "something is in half precision"


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_typed_graph_keeps_the_contract_and_is_valid(
    graph: str, name: str, toy_bundle: Bundle
) -> None:
    model = typed(toy_bundle, graph, PRECISIONS[name])
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} == {""}
    assert not {node.domain for node in model.graph.node} - {""}
    found, spec = types(model), graph_specs(toy_bundle.model)[graph]
    for tensor, wanted in (*spec.inputs.items(), *spec.outputs.items()):
        assert helper.tensor_dtype_to_np_dtype(found[tensor]) == np.dtype(wanted.dtype)
    again = typed_graph(toy_bundle.read_graph(graph), PRECISIONS[name], graph)
    assert again == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("name", ["fp16", "bf16"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_products_are_in_half_precision_and_what_is_delicate_is_not(
    graph: str, name: str, attention: str, toy_bundle: Bundle
) -> None:
    row = PRECISIONS[name]
    model = typed(toy_bundle, graph, Precision(row.half, row.graphs, attention))
    found, constants = types(model), constant_tensors(model.graph)
    half = getattr(TensorProto, str(row.half).upper())
    products = Counter(
        found[node.output[0]]
        for node in model.graph.node
        if node.op_type in PRODUCTS and node.output[0] not in constants
    )
    assert set(products) == {half if graph in row.graphs else TensorProto.FLOAT}
    delicate = (*DELICATE, "Softmax") if attention == "unfused" else DELICATE
    for node in model.graph.node:
        if node.op_type in delicate:
            assert all(found[n] != half for n in (*node.input, *node.output) if n in found), node


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_tensor_is_cast_twice_or_there_and_back(graph: str, toy_bundle: Bundle) -> None:
    model = typed(toy_bundle, graph, PRECISIONS["bf16"])
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    each = Counter((node.input[0], node.attribute[0].i) for node in casts)
    plain = typed(toy_bundle, graph, PRECISIONS["fp32"])
    before = Counter(
        (node.input[0], node.attribute[0].i) for node in plain.graph.node if node.op_type == "Cast"
    )
    assert max((each - before).values(), default=1) == 1
    made = {node.output[0]: node.input[0] for node in casts}
    kinds = types(model)
    for node in casts:
        if (first := made.get(node.input[0])) is not None:
            assert kinds[first] != kinds[node.output[0]]


def constant_tensors(graph: onnx.GraphProto) -> set[str]:
    known = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
    return known


def test_a_weight_beyond_float16_keeps_its_product_in_float32() -> None:
    for largest, kind in ((6e4, TensorProto.FLOAT16), (7e4, TensorProto.FLOAT)):
        weight = numpy_helper.from_array(np.array([[largest]], np.float32), "weight")
        nodes = [helper.make_node("MatMul", ["x", "weight"], ["product"])]
        nodes.append(helper.make_node("Exp", ["product"], ["y"]))
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 1]) for name in "xy")
        graph = helper.make_graph(nodes, "one", [x], [y], [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        lowered = onnx.load_from_string(
            typed_graph(model.SerializeToString(), PRECISIONS["mixed"], "image_encoder")
        )
        assert types(lowered)["product"] == kind


def test_without_onnx_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match="pip install onnx"):
        typed_graph(b"", PRECISIONS["fp32"], "memory_encoder")


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(BundleError, match="memory_encoder is not an ONNX graph"):
        typed_graph(b"\xff\xff", PRECISIONS["fp32"], "memory_encoder")


@needs_tensorrt
@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("name", ["fp32", "bf16", "mixed"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_an_engine_is_built_of_every_graph_in_every_precision(
    graph: str, name: str, attention: str, toy_bundle: Bundle
) -> None:
    row = PRECISIONS[name]
    if row.half is not None and graph not in row.graphs:
        pytest.skip("the same graph as in fp32")
    precision: Any = Precision(row.half, row.graphs, attention)
    data = typed_graph(toy_bundle.read_graph(graph), precision, graph)
    assert len(build_engine(data, profiles(toy_bundle.model, graph), graph)) > 10000
