from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from runtime.backends.lowering.typed_attention import FORMS, SCORES
from runtime.backends.lowering.typed_graph import PRECISIONS, typed_graph
from runtime.backends.lowering.typed_rules import LOWERED
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from tests.graph_inputs import graph_inputs
from tests.typed import CODES, computed, elements, rounded, run, worst

AXES = {"n": 2, "b": 2, "k": 3, "p": 4, "q": 3}
# Of an output's largest magnitude; measured were at most 1.7e-3 and 1.5e-2.
TOLERANCES = {"float16": 5e-3, "bfloat16": 4e-2}
DELICATE = {
    *("Softmax", "Exp", "ReduceSum", "Div", "Sub"),
    *("LayerNormalization", "Pow", "ReduceMean", "Sqrt"),
    *("Gelu", "Erf", "Tanh", "Sigmoid", "Sin", "Cos"),
}
LOWERINGS = [(name, graph) for name, precision in PRECISIONS.items() for graph in precision.graphs]

Typed = Callable[..., bytes]


@pytest.fixture(scope="module")
def typed(toy_bundle: Any) -> Typed:
    @cache
    def of(graph: str, precision: str, attention: str = "fused") -> bytes:
        wanted = replace(PRECISIONS[precision], attention=attention)
        return typed_graph(toy_bundle.read_graph(graph), graph, wanted)

    return of


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_in_fp32_it_is_the_bundles_graph(
    graph: str, attention: str, graphs: Any, typed: Typed
) -> None:
    for axes in (AXES, dict.fromkeys(AXES, 1)):
        inputs = graph_inputs(graphs.model.numbers, graph, axes)
        found = run(typed(graph, "fp32", attention), inputs)
        assert worst(found, graphs.run(graph, inputs)) < 1e-5


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize(("precision", "graph"), LOWERINGS)
def test_in_half_it_is_the_bundles_graph_but_for_rounding(
    precision: str, graph: str, attention: str, graphs: Any, typed: Typed
) -> None:
    inputs = graph_inputs(graphs.model.numbers, graph, AXES)
    half = PRECISIONS[precision].half
    assert half is not None
    found = run(rounded(typed(graph, precision, attention), half), inputs)
    error = worst(found, graphs.run(graph, inputs))
    assert TOLERANCES[half] / 100 < error < TOLERANCES[half]  # it is rounded indeed


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("graph", PRECISIONS["fp16"].graphs)
def test_float16_runs_as_it_is(graph: str, attention: str, graphs: Any, typed: Typed) -> None:
    inputs = graph_inputs(graphs.model.numbers, graph, AXES)
    found = run(typed(graph, "fp16", attention), inputs)
    assert worst(found, graphs.run(graph, inputs)) < TOLERANCES["float16"]


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_slot_of_weight_zero_is_not_read_in_half(
    precision: str, attention: str, graphs: Any, typed: Typed
) -> None:
    inputs = graph_inputs(graphs.model.numbers, "memory_attention", AXES)
    inputs["memory_weight"][:, 1] = 0
    wanted = graphs.run("memory_attention", inputs)
    inputs["memory"][:, 1] *= -2
    half = PRECISIONS[precision].half
    assert half is not None
    found = run(rounded(typed("memory_attention", precision, attention), half), inputs)
    assert worst(found, wanted) < TOLERANCES[half]


@pytest.mark.parametrize("attention", FORMS)
def test_sums_over_many_heavy_keys_do_not_overflow_float16(
    attention: str, graphs: Any, typed: Typed
) -> None:
    axes = {**AXES, "k": 32}
    inputs = graph_inputs(graphs.model.numbers, "memory_attention", axes)
    inputs["memory"][:] = inputs["memory"][:1, :1, :1]  # all keys alike: every one is read
    inputs["memory_time"][:] = 0
    inputs["memory_weight"][:] = 128
    found = run(rounded(typed("memory_attention", "fp16", attention), "float16"), inputs)
    assert worst(found, graphs.run("memory_attention", inputs)) < TOLERANCES["float16"]


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_are_the_contracts(
    graph: str, precision: str, attention: str, graphs: Any, typed: Typed
) -> None:
    model = onnx.load_from_string(typed(graph, precision, attention))
    spec, source = graph_specs(graphs.model.numbers)[graph], graphs.proto(graph).graph
    assert [x.name for x in model.graph.input] == list(spec.inputs)
    assert [x.name for x in model.graph.output] == list(spec.outputs)
    assert list(model.graph.input) == list(source.input)
    assert list(model.graph.output) == list(source.output)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_two_spellings_of_attention_differ_in_their_softmax(
    graph: str, graphs: Any, typed: Typed
) -> None:
    count = sum(node.op_type == "MultiHeadAttention" for node in graphs.proto(graph).graph.node)
    for attention, wanted in (("fused", [count, 0]), ("unfused", [0, count])):
        nodes = onnx.load_from_string(typed(graph, "fp32", attention)).graph.node
        kinds = Counter(node.op_type for node in nodes)
        assert [kinds["Softmax"], kinds["Exp"]] == wanted


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize(("precision", "graph"), LOWERINGS)
def test_products_are_half_and_what_is_delicate_is_float32(
    precision: str, graph: str, attention: str, typed: Typed
) -> None:
    model = onnx.load_from_string(typed(graph, precision, attention))
    types, half = elements(model), CODES[str(PRECISIONS[precision].half)]
    for node in model.graph.node:
        given = {types[name] for name in node.input if name} - {TensorProto.INT64}
        is_exact = graph == "memory_attention" and node.output[0].endswith(SCORES)
        if node.op_type in LOWERED:
            assert given == {TensorProto.FLOAT if is_exact else half}, node.name
        if node.op_type in DELICATE:
            assert half not in given, node.name


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_is_not_lowered_is_the_one_in_fp32(graph: str, typed: Typed) -> None:
    for name, precision in PRECISIONS.items():
        is_lowered = typed(graph, name) != typed(graph, "fp32")
        assert is_lowered == (graph in precision.graphs)


@pytest.mark.parametrize("attention", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_nothing_is_cast_twice_and_no_constant_is_cast_at_all(
    graph: str, precision: str, attention: str, graphs: Any, typed: Typed
) -> None:
    model = onnx.load_from_string(typed(graph, precision, attention))
    weights = {weight.name for weight in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    given = [node.input[0] for node in casts]
    assert len(set(given)) == len(given)
    assert not set(given) & weights
    assert not set(given) & {node.output[0] for node in casts}
    # What depends on constants alone is constant: weights come as they are used, not transposed on the way.
    assert all(set(node.input) - weights for node in model.graph.node)
    own = sum(node.op_type == "Cast" for node in computed(graphs.proto(graph)))
    products = sum(node.op_type in LOWERED for node in model.graph.node)
    is_lowered = graph in PRECISIONS[precision].graphs
    assert len(casts) <= own + (3 * products if is_lowered else 0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_equal_constants_are_stored_once_in_each_type(precision: str, typed: Typed) -> None:
    for graph in GRAPHS:
        weights = onnx.load_from_string(typed(graph, precision)).graph.initializer
        contents = Counter((w.data_type, tuple(w.dims), w.raw_data) for w in weights)
        assert set(contents.values()) == {1}


def test_a_graph_in_half_is_about_half_as_large(graphs: Any, typed: Typed) -> None:
    large, small = (len(typed("memory_encoder", precision)) for precision in ("fp32", "fp16"))
    assert small < 0.6 * large


def test_the_same_graph_gives_the_same_bytes(graphs: Any, typed: Typed) -> None:
    data = graphs.proto("image_encoder").SerializeToString()
    assert typed_graph(data, "image_encoder", PRECISIONS["bf16"]) == typed("image_encoder", "bf16")


def with_weight(model: onnx.ModelProto, change: Callable[[np.ndarray], None]) -> bytes:
    """The memory encoder with another value in the weight that multiplies its own product."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (weight,) = (w for w in copy.graph.initializer if w.name.endswith("layers.0.pwconv1.weight"))
    values = numpy_helper.to_array(weight).copy()
    change(values)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return copy.SerializeToString()


@pytest.mark.parametrize(
    ("precision", "value", "is_kept"),
    [("fp16", 1e6, True), ("fp16", -np.inf, True), ("fp16", 6e4, False), ("bf16", 1e6, False)],
)
def test_a_weight_that_half_cannot_hold_keeps_its_product_in_float32(
    precision: str, value: float, is_kept: bool, graphs: Any
) -> None:
    def change(values: np.ndarray) -> None:
        values[0, 0] = value

    data = with_weight(graphs.proto("memory_encoder"), change)
    model = onnx.load_from_string(typed_graph(data, "memory_encoder", PRECISIONS[precision]))
    types = elements(model)
    products = [types[node.input[1]] for node in model.graph.node if node.op_type == "MatMul"]
    assert products.count(TensorProto.FLOAT) == is_kept
    assert len(products) == 4


def of_other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def with_mask(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "MultiHeadAttention")
    node.input.extend(["", node.input[0]])


def of_no_heads(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "MultiHeadAttention")
    del node.attribute[:]


def in_int8(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "MatMul")
    node.op_type, node.domain = "DynamicQuantizeMatMul", "com.microsoft"


def without_a_node(model: onnx.ModelProto) -> None:
    del model.graph.node[-1]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (of_other_opset, "opset 17"),
        (with_mask, "MultiHeadAttention.* has more"),
        (of_no_heads, "MultiHeadAttention.* has None heads"),
        (in_int8, "DynamicQuantizeMatMul"),
        (without_a_node, "conditioned_features"),
    ],
)
def test_what_is_no_graph_of_a_bundle_is_refused(
    damage: Callable[[onnx.ModelProto], None], why: str, graphs: Any
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graphs.proto("memory_attention"))
    damage(model)
    with pytest.raises(BundleError, match=rf"memory_attention is no graph of.*{why}"):
        typed_graph(model.SerializeToString(), "memory_attention", PRECISIONS["fp32"])


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(BundleError, match="mask_decoder is no graph"):
        typed_graph(b"\xff\xff", "mask_decoder", PRECISIONS["fp32"])


def test_without_onnx_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match="pip install onnx") as refused:
        typed_graph(b"", "mask_decoder", PRECISIONS["fp32"])
    assert refused.value.exit_code == 5
