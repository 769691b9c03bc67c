"""Memory attention in segments, and its reads between them: together they are the graph that was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from kernels.bfloat16 import to_bits
from kernels.memory_read import memory_read
from kernels.pack_values import pack_values
from runtime.backends.lowering.cut_graph import BITS, CutGraph, cut_graph
from runtime.backends.lowering.typed_graph import KERNEL, PRECISIONS, typed_graph
from runtime.backends.lowering.typed_rules import LOWERED
from runtime.backends.tensorrt import parts as trt_parts
from runtime.backends.tensorrt.build import build_engine, profiles, spans
from runtime.backends.tensorrt.parts import parts
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import graph_specs
from runtime.bundle.memory_reads import (
    GRAPH,
    PACKED,
    MemoryReadNames,
    reads_from_json,
    reads_to_json,
)
from runtime.errors import BackendUnavailable, BundleError
from tests.export.test_trt_build import needs_tensorrt
from tests.graph_inputs import Arrays, graph_inputs
from tests.typed import rounded, run, worst

OUTPUT = "conditioned_features"
SIZES = [{"b": 1, "k": 1, "p": 1}, {"b": 2, "k": 7, "p": 5}]
# Of the largest magnitude; measured were at most 9e-7, and 5e-3 and 1.1e-2.
EXACT, ROUNDED = 1e-5, {"fp32": 1e-2, "bf16": 2e-2}
# Scores of trained weights reach 100, of which float32 holds 1e-5; what is read elsewhere is off by a tenth and more.
TRAINED = 1e-3

Damage = Callable[[onnx.ModelProto], None]


def exact_read(query: Any, key: Any, value: Any, weight: Any) -> np.ndarray:
    """What a read is, in double precision."""
    logits = query.astype(np.float64) @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5
    shares = np.exp(logits - logits.max(-1, keepdims=True)) * weight[:, None]
    return (shares @ value / shares.sum(-1, keepdims=True)).astype(np.float32)


def exact_values(inputs: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights, not rounded."""
    memory, pointers = inputs["memory"], inputs["obj_ptrs"]
    rows, channels = len(memory), memory.shape[-1]
    value = np.concatenate([x.reshape(rows, -1, channels) for x in (memory, pointers)], 1)
    pieces = pointers.shape[-1] // channels
    weight = np.concatenate(
        [
            np.repeat(inputs["memory_weight"], memory.shape[2], 1),
            np.repeat(inputs["obj_ptr_weight"], pieces, 1),
        ],
        1,
    )
    return value, weight


def joined(cut: CutGraph, inputs: Arrays, typed: Callable[[bytes], bytes]) -> Arrays:
    """What segments on ONNX Runtime, and reads by their reference between them, make of inputs."""
    tensors = dict(inputs)
    is_rounded = any(x.dtype == BITS for x in cut.segments[0].outputs.values())
    packed = pack_values(*(inputs[name] for name in PACKED))
    values = (packed["value"], packed["weight"]) if is_rounded else exact_values(inputs)
    for i, segment in enumerate(cut.segments):
        given = {name: tensors[name] for name in segment.inputs}
        found = run(rounded(typed(segment.data), "bfloat16"), given)
        for name, array in found.items():
            tensors[name] = to_bits(array) if segment.outputs[name].dtype == BITS else array
        if i < len(cut.reads):
            read = cut.reads[i]
            pair = tensors[read.query], tensors[read.key]
            if is_rounded:
                tensors[read.result] = memory_read(*pair, *values)["out"]
            else:
                tensors[read.result] = exact_read(*pair, *values)
    return {OUTPUT: tensors[OUTPUT]}


def in_precision(name: str) -> Callable[[bytes], bytes]:
    return lambda data: typed_graph(data, GRAPH, PRECISIONS[name])


@pytest.fixture(scope="module")
def cuts(wide_bundle: Bundle) -> Callable[[bool], CutGraph]:
    data = wide_bundle.read_graph(GRAPH)
    return cache(lambda is_rounded: cut_graph(data, wide_bundle.model, is_rounded))


@pytest.fixture(scope="module")
def whole(wide_bundle: Bundle) -> Callable[[Arrays], Arrays]:
    """The graph on ONNX Runtime."""
    data = wide_bundle.read_graph(GRAPH)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda inputs: {OUTPUT: session.run(None, inputs)[0]}


def weighted(bundle: Bundle, axes: dict[str, int], weights: str) -> Arrays:
    """Seeded inputs with slots and pointers of weight one, of fractions, or of fractions and zero."""
    inputs = graph_inputs(bundle.model, GRAPH, axes)
    rng = np.random.default_rng(3)
    for name in ("memory_weight", "obj_ptr_weight"):
        if weights != "one":
            inputs[name] = rng.uniform(0.05, 2, inputs[name].shape).astype(np.float32)
        if weights == "zero":
            inputs[name][:, 1::2] = 0
    return inputs


@pytest.mark.parametrize("weights", ["one", "fractions", "zero"])
@pytest.mark.parametrize("axes", SIZES, ids=str)
def test_uncast_and_joined_again_it_is_the_graph_that_was_cut(
    axes: dict[str, int], weights: str, wide_bundle: Bundle, cuts: Any, whole: Any
) -> None:
    inputs = weighted(wide_bundle, axes, weights)
    found = joined(cuts(False), inputs, in_precision("fp32"))
    assert worst(found, whole(inputs)) < EXACT


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("weights", ["one", "fractions", "zero"])
@pytest.mark.parametrize("axes", SIZES, ids=str)
def test_with_queries_keys_and_values_rounded_it_is_the_graph_but_for_that(
    axes: dict[str, int], weights: str, precision: str, wide_bundle: Bundle, cuts: Any, whole: Any
) -> None:
    inputs = weighted(wide_bundle, axes, weights)
    found = joined(cuts(True), inputs, in_precision(precision))
    error = worst(found, whole(inputs))
    assert EXACT < error < ROUNDED[precision]


def test_a_slot_of_weight_zero_is_not_read(wide_bundle: Bundle, cuts: Any) -> None:
    inputs = weighted(wide_bundle, SIZES[1], "zero")
    found = joined(cuts(True), inputs, in_precision("bf16"))
    inputs["memory"][:, 1::2] *= -50
    inputs["obj_ptrs"][:, 1::2] *= -50
    np.testing.assert_array_equal(
        joined(cuts(True), inputs, in_precision("bf16"))[OUTPUT], found[OUTPUT]
    )


def test_segments_hand_on_what_they_must_and_compute_nothing_twice(
    wide_bundle: Bundle, cuts: Any
) -> None:
    cut, spec = cuts(True), graph_specs(wide_bundle.model)[GRAPH]
    assert [segment.name for segment in cut.segments] == [f"{GRAPH}.{i}" for i in range(4)]
    assert len(cut.reads) == 3
    there = {*spec.inputs}
    for i, segment in enumerate(cut.segments):
        model = onnx.load_from_string(segment.data)
        assert [x.name for x in model.graph.input] == list(segment.inputs)
        assert [x.name for x in model.graph.output] == list(segment.outputs)
        assert segment.inputs.keys() <= there
        there |= segment.outputs.keys()
        if i < len(cut.reads):
            assert {cut.reads[i].query, cut.reads[i].key} <= there
            there.add(cut.reads[i].result)
    first, *later = cut.segments
    assert {read.key for read in cut.reads} <= first.outputs.keys()
    assert not {"memory", "memory_time"} & {name for each in later for name in each.inputs}
    handed = [name for each in later for name in each.outputs if not name.endswith(".read")]
    assert len(handed) == 3 and handed[-1] == OUTPUT, "the residual stream, and the result"
    assert later[-1].outputs == spec.outputs

    def products(data: bytes) -> Counter[str]:
        graph = onnx.load_from_string(data).graph
        return Counter(
            n.op_type for n in graph.node if n.op_type in {*LOWERED, "MultiHeadAttention"}
        )

    found = sum((products(segment.data) for segment in cut.segments), Counter())
    assert found + Counter({"MultiHeadAttention": 3}) == products(wide_bundle.read_graph(GRAPH))


def test_the_same_graph_gives_the_same_segments(wide_bundle: Bundle, cuts: Any) -> None:
    assert cut_graph(wide_bundle.read_graph(GRAPH), wide_bundle.model) == cuts(True)


@pytest.mark.parametrize("name", ["toy", "embedded"])
def test_models_of_other_sizes_can_be_cut_and_not_be_read_by_the_kernel(
    name: str, toy_bundle: Bundle
) -> None:
    bundle = toy_bundle if name == "toy" else open_bundle()
    assert len(cut_graph(bundle.read_graph(GRAPH), bundle.model).reads) == 2
    precision = replace(PRECISIONS["bf16"], attention=KERNEL)
    with pytest.raises(BackendUnavailable, match=r"channels and memories of .* wants 256 and 64"):
        parts(bundle, GRAPH, precision)


@pytest.mark.parametrize("name", ["toy", "wide", "embedded"])
def test_what_is_named_a_read_is_what_the_kernel_computes(
    name: str, request: pytest.FixtureRequest
) -> None:
    bundle = open_bundle() if name == "embedded" else request.getfixturevalue(f"{name}_bundle")
    model = onnx.load_from_string(bundle.read_graph(GRAPH))
    reads = reads_of(model)
    names = [x for read in reads for x in (read.query, read.key, read.result)]
    model.graph.output.extend(
        helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, None) for x in names
    )
    inputs = weighted(bundle, SIZES[1], "zero")
    tensors = run(model.SerializeToString(), inputs)
    values = exact_values(inputs)
    for read in reads:
        found = exact_read(tensors[read.query], tensors[read.key], *values)
        assert worst({"read": found}, {"read": tensors[read.result]}) < TRAINED


def reads_of(model: onnx.ModelProto) -> tuple[MemoryReadNames, ...]:
    (entry,) = model.metadata_props
    return reads_from_json(entry.value)


def first_attention(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == "MultiHeadAttention")


def of_two_heads(model: onnx.ModelProto) -> None:
    first_attention(model).attribute[0].i = 2


def of_another_scale(model: onnx.ModelProto) -> None:
    first_attention(model).attribute.append(helper.make_attribute("scale", 0.1))


def without_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def twice(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def of_no_json(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = "[{"


def in_another_order(model: onnx.ModelProto) -> None:
    name_reads(model, reads_of(model)[::-1])


def name_reads(model: onnx.ModelProto, reads: tuple[MemoryReadNames, ...]) -> None:
    model.metadata_props[0].value = reads_to_json(reads)


def naming(number: int, **roles: str) -> Damage:
    """Other tensors for one read; "result 0" is that of the first."""

    def damage(model: onnx.ModelProto) -> None:
        reads = list(reads_of(model))
        names = {
            f"{role} {i}": name for i, x in enumerate(reads) for role, name in asdict(x).items()
        }
        reads[number] = replace(
            reads[number], **{role: names.get(name, name) for role, name in roles.items()}
        )
        name_reads(model, tuple(reads))

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (of_two_heads, "2 heads"),
        (of_another_scale, "scale 0.1"),
        (without_metadata, "memory_reads 0 times, .*export it again"),
        (twice, "memory_reads 2 times, .*export it again"),
        (of_no_json, "Expecting.*export it again"),
        (in_another_order, "what follows read 0 of memory needs another read's"),
        (naming(1, query="nothing"), "nothing, the query of a read of memory, is none"),
        (naming(1, residual="memory_time"), "memory_time is no float32 tensor"),
        (naming(1, residual="result 0"), "the residual of a read of memory, is .*wanted float32"),
        (naming(1, residual="residual 2"), "what follows read 1 of memory needs another read's"),
        (naming(1, query="key 1"), "the query of a read of memory, is .*wanted float32"),
        (naming(1, key="query 1"), "the key of a read of memory, is .*wanted float32"),
        (naming(1, key="key 0"), "is read by attention of .*wanted"),
        (naming(1, query="query 0"), "is read by attention of .*wanted"),
        (naming(1, result="conditioned_features"), "the result of a read of memory, is .*wanted"),
        (naming(1, result="query 1"), "the result of a read of memory, is .*wanted"),
        (naming(1, result="memory_weight"), "the result of a read of memory, is .*wanted"),
        (naming(1, result="result 0"), "two reads have one result"),
    ],
)
def test_what_the_metadata_say_has_to_fit_the_graph(
    damage: Damage, why: str, wide_bundle: Bundle
) -> None:
    model = onnx.load_from_string(wide_bundle.read_graph(GRAPH))
    damage(model)
    with pytest.raises(BundleError, match=f"memory_attention is no graph.*{why}"):
        cut_graph(model.SerializeToString(), wide_bundle.model)


def test_a_read_that_is_not_named_stays_as_it_is(wide_bundle: Bundle, whole: Any) -> None:
    model = onnx.load_from_string(wide_bundle.read_graph(GRAPH))
    first, _, third = reads_of(model)
    name_reads(model, (first, third))
    cut = cut_graph(model.SerializeToString(), wide_bundle.model, is_rounded=False)
    assert len(cut.segments) == 3
    inputs = weighted(wide_bundle, SIZES[0], "fractions")
    assert worst(joined(cut, inputs, in_precision("fp32")), whole(inputs)) < EXACT


def test_profiles_of_segments_are_the_graphs(wide_bundle: Bundle, cuts: Any) -> None:
    numbers = wide_bundle.model
    usual = spans(numbers)
    first, *later = (profiles(numbers, GRAPH, segment.inputs) for segment in cuts(True).segments)
    of_graph = profiles(numbers, GRAPH)
    assert [p["memory"] for p in first] == [p["memory"] for p in of_graph]
    for found in later:
        handed = [name for name in found[0] if name not in of_graph[0]]
        assert len(found) == 3 and handed
        for name in handed:
            assert [p[name][2][0] for p in found] == [1, 2, usual["b"].largest]


@needs_tensorrt
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("precision", ["bf16", "mixed"])
def test_an_engine_is_built_of_every_segment(
    precision: str, number: int, wide_bundle: Bundle
) -> None:
    found, cut = parts(wide_bundle, GRAPH, replace(PRECISIONS[precision], attention=KERNEL))
    assert cut is not None and len(found) == len(cut.segments) == 4
    part = found[number]
    assert part.name == f"{GRAPH}.{number}" and part.uses_tf32
    plan = build_engine(part.typed, part.profiles, part.name, uses_tf32=True)
    assert len(plan) > 10000


def test_other_graphs_are_not_cut(wide_bundle: Bundle) -> None:
    precision = replace(PRECISIONS["bf16"], attention=KERNEL)
    for graph in ("memory_encoder", "mask_decoder"):
        ((part,), cut) = trt_parts.parts(wide_bundle, graph, precision)
        assert cut is None and part.name == graph
        assert part.typed == typed_graph(wide_bundle.read_graph(graph), graph, PRECISIONS["bf16"])
