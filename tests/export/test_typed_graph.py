from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from runtime.backends.typed_attention import SPELLINGS
from runtime.backends.typed_graph import PRECISIONS, typed_graph
from runtime.backends.typed_rules import LOWERED, computes_in, fits
from runtime.contract import GRAPHS, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from tests.graph_inputs import Arrays, graph_inputs, relative_error

AXES = {"n": 2, "b": 2, "k": 3, "p": 4, "q": 3}
CODES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# Of the largest magnitude of an output; about three times what was measured, and each type's 2^-11 or 2^-9 some ten
# times over.
TOLERANCES = {"float16": 6e-3, "bfloat16": 5e-2}
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
    """The graph in float32, with every tensor that was half rounded to it: ONNX Runtime has no bfloat16 on the CPU."""
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
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def worst(found: Arrays, wanted: Arrays) -> float:
    assert found.keys() == wanted.keys()
    return max(relative_error(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_in_fp32_it_is_the_bundles_graph(
    graph: str, attention: str, graphs: Any, typed: Typed
) -> None:
    for axes in (AXES, dict.fromkeys(AXES, 1)):
        inputs = graph_inputs(graphs.model.numbers, graph, axes)
        found = run(typed(graph, "fp32", attention), inputs)
        assert worst(found, graphs.run(graph, inputs)) < 1e-5


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize(("precision", "graph"), LOWERINGS)
def test_in_half_it_is_the_bundles_graph_but_for_rounding(
    precision: str, graph: str, attention: str, graphs: Any, typed: Typed
) -> None:
    inputs = graph_inputs(graphs.model.numbers, graph, AXES)
    half = PRECISIONS[precision].half
    assert half is not None
    found = run(rounded(typed(graph, precision, attention), half), inputs)
    error = worst(found, graphs.run(graph, inputs))
    assert TOLERANCES[half] / 100 < error < TOLERANCES[half]


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("graph", PRECISIONS["fp16"].graphs)
def test_float16_runs_as_it_is(graph: str, attention: str, graphs: Any, typed: Typed) -> None:
    inputs = graph_inputs(graphs.model.numbers, graph, AXES)
    found = run(typed(graph, "fp16", attention), inputs)
    assert worst(found, graphs.run(graph, inputs)) < TOLERANCES["float16"]


@pytest.mark.parametrize("attention", SPELLINGS)
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


@pytest.mark.parametrize("attention", SPELLINGS)
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


@pytest.mark.parametrize("attention", SPELLINGS)
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


@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize(("precision", "graph"), LOWERINGS)
def test_products_are_half_and_what_is_delicate_is_float32(
    precision: str, graph: str, attention: str, typed: Typed
) -> None:
    model = onnx.load_from_string(typed(graph, precision, attention))
    types, half = elements(model), CODES[str(PRECISIONS[precision].half)]
    for node in model.graph.node:
        given = {types[name] for name in node.input if name} - {TensorProto.INT64}
        if node.op_type in LOWERED:
            assert given == {half}, node.name
        if node.op_type in DELICATE:
            assert half not in given, node.name


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_is_not_lowered_is_the_one_in_fp32(graph: str, typed: Typed) -> None:
    for name, precision in PRECISIONS.items():
        is_lowered = typed(graph, name) != typed(graph, "fp32")
        assert is_lowered == (graph in precision.graphs)


def test_which_graphs_are_lowered() -> None:
    lowered = {name: precision.graphs for name, precision in PRECISIONS.items()}
    readers = ("image_encoder", "memory_attention")
    assert lowered == {
        "fp32": (),
        "bf16": (*readers, "memory_encoder"),
        "fp16": (*readers, "memory_encoder"),
        "mixed": readers,
    }
    assert all(name == precision.name for name, precision in PRECISIONS.items())


@pytest.mark.parametrize("attention", SPELLINGS)
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


def computed(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes that depend on an input."""
    known = {x.name for x in model.graph.input}
    for node in model.graph.node:
        if known & set(node.input):
            known.update(node.output)
            yield node


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


@pytest.mark.parametrize(
    ("half", "values", "fitting"),
    [
        ("float16", [65504, -1], True),
        ("float16", [65505], False),
        ("float16", [-1e9, 0], False),
        ("float16", [np.nan], False),
        ("float16", [1e-9, 1], True),
        ("float16", [1e-9, 1e-6], False),
        ("float16", [0, 0], True),
        ("float16", [], True),
        ("bfloat16", [1e6, -1e9, 1e-30], True),
        ("bfloat16", [np.inf], False),
        ("bfloat16", [3.4e38], False),
    ],
)
def test_what_half_holds(half: str, values: list[float], fitting: bool) -> None:
    assert fits(np.array(values, np.float32), half) == fitting


BIAS, TABLE, SCALE = np.ones(8), np.ones((1, 4, 8)), np.ones(1)


@pytest.mark.parametrize(
    ("kind", "computed", "constants", "chosen"),
    [
        ("MatMul", ["float32"], [TABLE], "float16"),
        ("MatMul", ["float32", "float16"], [], "float16"),
        ("MatMul", ["float32"], [1e6 * TABLE], "float32"),
        ("Add", ["float16"], [BIAS], "float16"),
        ("Add", ["float16"], [TABLE], "float32"),
        ("Add", ["float16", "float16"], [], "float32"),
        ("Mul", ["float16"], [SCALE], "float16"),
        ("Mul", ["float16"], [BIAS], "float32"),
        ("Concat", ["float16", "float16"], [TABLE], "float16"),
        ("Concat", ["float16", "float32"], [], "float32"),
        ("Concat", [], [], "float32"),
        ("Softmax", ["float16"], [], "float32"),
    ],
)
def test_what_an_operator_computes_in(
    kind: str, computed: list[str], constants: list[np.ndarray], chosen: str
) -> None:
    assert computes_in(kind, "float16", computed, constants) == chosen
    assert computes_in(kind, None, ["float32"] * len(computed), constants) == "float32"


def of_other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def with_mask(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "MultiHeadAttention")
    node.input.extend(["", node.input[0]])


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
