from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.speed import roofline
from benchmarks.speed.onnx_shapes import infer_shapes
from benchmarks.speed.roofline import (
    Ceilings,
    Cost,
    floor_ms,
    graph_costs,
    read_ceilings,
    step_costs,
)
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.errors import BundleError, InputError

TINY512 = Path(__file__).resolve().parents[3] / "out" / "tiny512"


def graph_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, tuple[int, ...]],
    inputs: dict[str, list[int | str]],
    constants: dict[str, list[int]] | None = None,
) -> onnx.ModelProto:
    """A graph whose output is the last node's."""
    tensors = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in weights.items()
    ]
    tensors += [
        numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in (constants or {}).items()
    ]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in inputs.items()
    ]
    last = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "made by hand", given, [last], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def only_cost(model: onnx.ModelProto, **axes: int) -> Cost:
    (cost,) = graph_costs(model, axes)
    return cost


def test_a_product_by_hand() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = graph_of([node], {"w": (5, 7)}, {"x": ["b", 3, 5]})
    cost = only_cost(model, b=2)
    assert cost.flop == 2 * (2 * 3) * 5 * 7
    assert cost.size_bytes == 2 * (2 * 3 * 5 + 5 * 7 + 2 * 3 * 7)


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_product_with_bias_by_hand(is_turned: bool) -> None:
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], transA=int(is_turned))
    shape: list[int | str] = [5, 3] if is_turned else [3, 5]
    cost = only_cost(graph_of([node], {"w": (5, 7), "c": (7,)}, {"x": shape}))
    assert cost.flop == 2 * 3 * 5 * 7
    assert cost.size_bytes == 2 * (3 * 5 + 5 * 7 + 7 + 3 * 7)


@pytest.mark.parametrize(("group", "in_a_group"), [(1, 4), (4, 1)])
def test_a_convolution_by_hand(group: int, in_a_group: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group, pads=[1, 1, 1, 1])
    cost = only_cost(graph_of([node], {"w": (8, in_a_group, 3, 3)}, {"x": [1, 4, 6, 6]}))
    assert cost.flop == 2 * (8 * 6 * 6) * in_a_group * 9
    assert cost.size_bytes == 2 * (4 * 36 + 8 * in_a_group * 9 + 8 * 36)


def test_a_transposed_convolution_by_hand() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    cost = only_cost(graph_of([node], {"w": (4, 3, 2, 2)}, {"x": [1, 4, 6, 6]}))
    assert cost.flop == 2 * (4 * 36) * 3 * 4
    assert cost.size_bytes == 2 * (4 * 36 + 4 * 3 * 4 + 3 * 144)


def test_attention_by_hand() -> None:
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=2
    )
    shapes: dict[str, list[int | str]] = {"q": ["b", 3, 8], "k": ["b", "k", 8], "v": ["b", "k", 6]}
    cost = only_cost(graph_of([node], {}, shapes), b=2, k=5)
    assert cost.flop == 2 * 2 * 3 * 5 * (8 + 6)
    assert cost.size_bytes == 2 * 2 * (3 * 8 + 5 * 8 + 5 * 6 + 3 * 6), "scores stay on the chip"


def test_what_is_fused_into_its_neighbours_is_not_counted() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Add", ["z", "x"], ["out"]),
    ]
    assert len(graph_costs(graph_of(nodes, {"w": (4, 4)}, {"x": [3, 4]}), {})) == 1


def test_a_shape_computed_on_the_way_is_followed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "two", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = graph_of(nodes, {}, {"x": ["b", 4]}, {"two": [2]})
    assert infer_shapes(model, {"b": 3})["y"] == (3, 2, 2)


def test_a_shape_that_depends_on_values_is_an_error() -> None:
    model = graph_of([helper.make_node("NonZero", ["x"], ["y"])], {}, {"x": [3]})
    with pytest.raises(BundleError, match="the shape of tensor 'y' cannot be known"):
        infer_shapes(model, {})


def test_nodes_that_do_not_fit_are_an_error() -> None:
    model = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": (3, 3)}, {"x": [2, 4]})
    with pytest.raises(BundleError, match="MatMul"):
        infer_shapes(model, {})


@pytest.mark.parametrize("graph", GRAPHS)
def test_shapes_of_every_graph_end_where_the_contract_says(toy_bundle: Bundle, graph: str) -> None:
    axes = {"n": 2, "b": 3, "k": 2, "p": 4, "q": 2}
    shapes = infer_shapes(onnx.load_from_string(toy_bundle.read_graph(graph)), axes)
    for name, spec in graph_specs(toy_bundle.model)[graph].outputs.items():
        assert shapes[name] == spec.bind(axes)


def test_a_floor_is_the_longer_of_arithmetic_and_bytes_operator_by_operator() -> None:
    ceilings = Ceilings(flop_per_s=100.0, bytes_per_s=10.0)
    costs = {
        "encode": [Cost("MatMul", 200, 1), Cost("MatMul", 1, 30)],
        "decode": [Cost("Conv", 50, 5)],
    }
    assert floor_ms(costs, ceilings) == {"encode": 5000.0, "decode": 500.0, "total": 5500.0}


def test_more_rows_slots_and_pointers_cost_more_where_they_are_read(toy_bundle: Bundle) -> None:
    def flop(**counts: int) -> dict[str, int]:
        costs = step_costs(toy_bundle, **counts)
        return {stage: sum(cost.flop for cost in own) for stage, own in costs.items()}

    base = flop(rows=1, slots=2, pointers=2)
    twice = flop(rows=2, slots=2, pointers=2)
    assert twice["encode"] == base["encode"]
    for stage in ("attend", "memorise"):
        assert twice[stage] == pytest.approx(2 * base[stage], rel=0.05)
    assert flop(rows=1, slots=3, pointers=2)["attend"] > base["attend"]
    assert flop(rows=1, slots=2, pointers=3)["attend"] > base["attend"]
    assert flop() == flop(rows=1, slots=7, pointers=16)


@pytest.mark.skipif(not TINY512.is_dir(), reason="no bundle in out/tiny512")
def test_tiny_at_512_is_near_what_has_been_published() -> None:
    """63 GFLOP for the encoder, 36 to 48 for memory attention; ours is cheaper by what it need not do."""
    gflop = {
        stage: sum(cost.flop for cost in own) / 1e9
        for stage, own in step_costs(open_bundle(TINY512)).items()
    }
    assert 50 < gflop["encode"] < 66
    assert 30 < gflop["attend"] < 48
    assert 0.5 < gflop["decode"] < 2 and 2 < gflop["memorise"] < 4


def written(folder: Path, figures: dict[str, float]) -> Path:
    path = folder / "ceilings.json"
    path.write_text(json.dumps({"figures": {n: {"value": v} for n, v in figures.items()}}))
    return path


FIGURES = {"copy": 4000.0, "bf16 8192x8192x8192": 700.0, "bf16 1x1x1": 5.0, "fp16 1x1x1": 9.0}


def test_ceilings_are_the_copy_and_the_fastest_product_of_a_dtype(tmp_path: Path) -> None:
    path = written(tmp_path, FIGURES)
    assert read_ceilings(path, "bf16") == Ceilings(700e12, 4000e9)
    assert read_ceilings(path, "fp16") == Ceilings(9e12, 4000e9)


@pytest.mark.parametrize("text", [None, "[]", "{}", '{"figures": {}}', "no JSON"])
def test_a_file_without_ceilings_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ceilings.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="does not tell the ceilings of bf16"):
        read_ceilings(path, "bf16")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], dict[str, Any]]:
    roofline.main(list(arguments))
    *table, last = capsys.readouterr().out.strip().splitlines()
    return table, json.loads(last)


def test_the_command_takes_ceilings_from_a_file_or_by_hand(
    toy_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, path = str(toy_bundle.path), str(written(tmp_path, FIGURES))
    table, from_file = run(capsys, bundle, "--ceilings", path)
    _, by_hand = run(capsys, bundle, "--tflops", "700", "--gb-s", "4000")
    assert from_file == by_hand
    assert list(from_file["stages"]) == ["encode", "attend", "decode", "memorise", "total"]
    parts = [row["floor_ms"] for row in from_file["stages"].values()]
    assert parts[-1] == pytest.approx(sum(parts[:-1]), abs=1e-5)
    assert sum(line.startswith("| ") for line in table) == 6
    _, slower = run(capsys, bundle, "--ceilings", path, "--product", "fp16", "--rows", "2")
    assert slower["tflops"] == 9 and slower["rows"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--tflops", "1"],
        ["--gb-s", "1"],
        ["--tflops", "0", "--gb-s", "1"],
        ["--ceilings", "F", "--gb-s", "1"],
        ["--tflops", "1", "--gb-s", "1", "--rows", "0"],
        ["--tflops", "1", "--gb-s", "1", "--slots", "0"],
        ["--tflops", "1", "--gb-s", "1", "--pointers", "0"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_counted_is_refused(toy_bundle: Bundle, wrong: list[str]) -> None:
    with pytest.raises(InputError, match="wanted"):
        roofline.main([str(toy_bundle.path), *wrong])
