from __future__ import annotations

import copy
import logging
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.to_onnx import (
    OPSET,
    ExportError,
    _check,
    _halve_weights,
    _translations_read_once,
    to_onnx,
)
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GRAPHS, NO_OBJ_SCORE, graph_specs
from runtime.bundle.memory_reads import PROPERTY, reads_from_json
from tests.graph_inputs import Arrays, graph_inputs, relative_error, torch_inputs
from tests.variants import TOY

TOLERANCE = 1e-4
METHODS = {
    "image_encoder": Sam2.encode,
    "memory_attention": Sam2.condition,
    "mask_decoder": Sam2.decode,
    "memory_encoder": Sam2.memorise,
}
OUTPUTS = ("low_res_masks", "ious", "object_score_logits", "obj_ptr")
WITH_ATTENTION = GRAPHS[:3]
# One self-attention of memory attention is the image encoder's.
ATTENTIONS = {"image_encoder": 7 + 1, "memory_attention": 2 * 2 - 1, "mask_decoder": 2 * 3 + 1}
LENGTHS = [
    ("image_encoder", {"n": 1}),
    ("image_encoder", {"n": 4}),
    ("memory_attention", {"b": 1, "k": 1, "p": 1}),
    ("memory_attention", {"b": 2, "k": 3, "p": 4}),
    ("memory_attention", {"b": 3, "k": 1, "p": 2}),
    ("memory_attention", {"b": 1, "k": 7, "p": 16}),
    ("mask_decoder", {"b": 1, "q": 1}),
    ("mask_decoder", {"b": 4, "q": 1}),
    ("mask_decoder", {"b": 3, "q": 4}),
    ("mask_decoder", {"b": 16, "q": 2}),
    ("memory_encoder", {"b": 1}),
    ("memory_encoder", {"b": 3}),
]


def ids(value: Any) -> str | None:
    return "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else None


def plain(model: Sam2, graph: str, inputs: Arrays) -> list[np.ndarray]:
    """The torch model's own method."""
    outputs = METHODS[graph](model, **torch_inputs(inputs))
    return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]


def worst_error(graph: str, found: Arrays, wanted: list[np.ndarray]) -> float:
    """Over a graph's outputs; masks row by row, because an absent object's -1024 would hide the others."""
    errors = []
    for (name, values), expected in zip(found.items(), wanted, strict=True):
        is_mask = name == "low_res_masks"
        rows = zip(values, expected, strict=True) if is_mask else [(values, expected)]
        errors += [relative_error(a, b) for a, b in rows]
    return float(np.max(errors))  # NaN if any is, which is below nothing


@pytest.mark.parametrize(("graph", "axes"), LENGTHS, ids=ids)
def test_a_graph_on_onnx_runtime_is_the_torch_model(
    graph: str, axes: dict[str, int], toy: Sam2, graphs: Any
) -> None:
    inputs = graph_inputs(toy.numbers, graph, axes, seed=sum(axes.values()))
    found = graphs.run(graph, inputs)
    assert worst_error(graph, found, plain(toy, graph, inputs)) < TOLERANCE


@pytest.mark.parametrize(
    ("graph", "axes"),
    [("memory_attention", {"b": 2, "k": 2, "p": 1}), ("memory_encoder", {"b": 2})],
    ids=ids,
)
def test_graphs_of_sam_2_0_keep_the_inputs_it_does_not_read(
    graph: str, axes: dict[str, int]
) -> None:
    """Pointer distances and object scores; at another image size than the weights' own, besides."""
    model = Sam2(replace(TOY, name="toy_2.0", is_2_1=False), 96)
    model.load_state_dict(random_state(model, seed=7), strict=True)
    session = onnxruntime.InferenceSession(
        to_onnx(model, graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = graph_inputs(model.numbers, graph, axes)
    assert [x.name for x in session.get_inputs()] == list(inputs)
    (found,), (wanted,) = session.run(None, inputs), plain(model, graph, inputs)
    assert relative_error(found, wanted) < TOLERANCE


def test_absent_objects_and_both_kinds_of_selection_in_one_batch_are_the_torch_models(
    toy: Sam2, graphs: Any
) -> None:
    rows, bias = 24, "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    inputs = graph_inputs(toy.numbers, "mask_decoder", {"b": rows, "q": 2}, seed=1)
    images = torch_inputs(graph_inputs(toy.numbers, "image_encoder", {"n": rows}))["image"]
    features, _, _, *high_res = (x.numpy() for x in toy.encode(images))
    names = ("features", "high_res_feats_0", "high_res_feats_1")
    inputs.update(zip(names, (features, *high_res), strict=True))
    inputs["multimask"][:] = np.arange(rows) < 4

    # Moved to the mean score, the bias leaves some objects present and some absent.
    mean = plain(toy, "mask_decoder", inputs)[2].mean()
    model, proto = copy.deepcopy(toy), onnx.ModelProto()
    model.get_parameter(bias).sub_(mean)
    proto.CopyFrom(graphs.proto("mask_decoder"))
    (stored,) = (w for w in proto.graph.initializer if w.name.endswith(bias))
    stored.CopyFrom(numpy_helper.from_array(model.get_parameter(bias).numpy(), stored.name))
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))

    wanted = plain(model, "mask_decoder", inputs)
    assert worst_error("mask_decoder", found, wanted) < TOLERANCE
    absent = found["object_score_logits"] <= 0
    assert 0 < absent.sum() < rows
    assert (found["low_res_masks"][absent] == NO_OBJ_SCORE).all()
    np.testing.assert_array_equal(
        found["obj_ptr"][absent], toy.no_obj_ptr.expand(absent.sum(), -1).numpy()
    )
    inputs["multimask"][:] = True
    best = plain(model, "mask_decoder", inputs)[1]
    fell_back = np.isclose(found["ious"], best, atol=1e-6)[4:]
    assert 0 < fell_back.sum() < rows - 4


def test_what_a_flag_or_label_switches_off_is_not_read(toy: Sam2, graphs: Any) -> None:
    inputs = graph_inputs(toy.numbers, "mask_decoder", {"b": 2, "q": 3})
    inputs["has_mask_input"][:] = [False, True]
    inputs["point_labels"][:, 1] = -1
    expected = graphs.run("mask_decoder", inputs)
    inputs["mask_input"][0] = np.nan
    inputs["point_coords"][:, 1] = np.nan
    found = graphs.run("mask_decoder", inputs)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("graph", GRAPHS)
def test_names_axes_and_types_are_the_contracts(graph: str, toy: Sam2, graphs: Any) -> None:
    spec = graph_specs(toy.numbers)[graph]
    session = graphs.session(graph)
    types = {"float32": "tensor(float)", "int64": "tensor(int64)", "bool": "tensor(bool)"}
    for found, wanted in (
        (session.get_inputs(), spec.inputs),
        (session.get_outputs(), spec.outputs),
    ):
        assert [(x.name, tuple(x.shape), x.type) for x in found] == [
            (name, tensor.shape, types[tensor.dtype]) for name, tensor in wanted.items()
        ]


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_is_valid_onnx_of_the_stated_opset(graph: str, graphs: Any) -> None:
    proto = graphs.proto(graph)
    onnx.checker.check_model(proto, full_check=False)
    domains = {opset.domain: opset.version for opset in proto.opset_import}
    assert domains[""] == OPSET
    used = {node.domain for node in proto.graph.node}
    assert used == ({"", "com.microsoft"} if graph in WITH_ATTENTION else {""})


@pytest.mark.parametrize("graph", WITH_ATTENTION)
def test_every_attention_is_one_node(graph: str, graphs: Any) -> None:
    nodes = graphs.proto(graph).graph.node
    assert sum(node.op_type == "MultiHeadAttention" for node in nodes) == ATTENTIONS[graph]


@pytest.mark.parametrize("graph", GRAPHS)
def test_memory_attention_names_one_read_a_layer_and_nothing_else_has_metadata(
    graph: str, graphs: Any
) -> None:
    proto = graphs.proto(graph)
    nodes = proto.graph.node
    assert not any(node.metadata_props or node.doc_string for node in nodes)
    found = {entry.key: entry.value for entry in proto.metadata_props}
    if graph != "memory_attention":
        assert found == {}
        return
    assert list(found) == [PROPERTY]
    reads = reads_from_json(found[PROPERTY])
    pairs = [tuple(node.input[:2]) for node in nodes if node.op_type == "MultiHeadAttention"]
    assert [(read.query, read.key) for read in reads] == pairs[::2], "the others are of the slice"
    assert len(reads) == TOY.memory_layers
    assert reads[0].residual == "attended_features"


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_says_nothing_about_the_machine_it_was_made_on(graph: str, graphs: Any) -> None:
    data = graphs.proto(graph).SerializeToString()
    root = str(Path(__file__).parents[2])
    for told in (root, sysconfig.get_paths()["purelib"], str(Path.home()), ".py", "site-packages"):
        assert told.encode() not in data, told


def identity_graph(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model whose outputs are its float32 initializers."""
    names = list(weights)
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names],
            "weights",
            [],
            [
                helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, values.shape)
                for name, values in weights.items()
            ],
            [numpy_helper.from_array(values, name) for name, values in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )


def test_weights_are_halved_only_where_no_bit_of_them_is_lost() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "exact": rng.standard_normal(100).astype(np.float16).astype(np.float32),
        "inexact": rng.standard_normal(100).astype(np.float32),
        "too_large": np.full(100, 1e6, np.float32),
        "too_small": np.full(100, 1e-9, np.float32),
        "short": np.ones(8, np.float32),
    }
    model = identity_graph(weights)
    _halve_weights(model)
    onnx.checker.check_model(model)
    stored = {w.name: w.data_type for w in model.graph.initializer}
    assert stored == {
        "exact_half": TensorProto.FLOAT16,
        **{name: TensorProto.FLOAT for name in list(weights)[1:]},
    }
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for found, wanted in zip(session.run(None, {}), weights.values(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def renamed(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "memories"


def retyped(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def fixed(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def broken(proto: onnx.ModelProto) -> None:
    del proto.graph.node[0]


@pytest.mark.parametrize("damage", [renamed, retyped, fixed, broken])
def test_a_graph_that_does_not_fit_the_contract_is_not_handed_out(
    damage: Any, toy: Sam2, graphs: Any
) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(graphs.proto("memory_encoder"))
    spec = graph_specs(toy.numbers)["memory_encoder"]
    _check(proto, "memory_encoder", spec)
    damage(proto)
    with pytest.raises(ExportError, match="memory_encoder"):
        _check(proto, "memory_encoder", spec)


def test_a_second_export_is_silent_and_gives_the_same_bytes(
    toy: Sam2, toy_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    with caplog.at_level(logging.INFO):
        again = to_onnx(toy, "memory_encoder").SerializeToString()
    assert caplog.records == []
    assert again == toy_bundle.read_graph("memory_encoder")
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_the_tracers_translations_of_operators_are_read_once_and_others_have_their_own() -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    found = []
    for _ in range(2):
        with _translations_read_once():
            found.append(ONNXRegistry().from_torchlib(opset_version=OPSET))
    assert found[0] is found[1] and found[0].opset_version == OPSET
    assert ONNXRegistry().from_torchlib(opset_version=OPSET) is not found[0]
