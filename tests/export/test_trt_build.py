"""Engines are built without a GPU: every graph at every shape that the runtime asks for, in every precision."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from export.to_onnx import OPSET
from runtime.backends.lowering.typed_attention import FORMS
from runtime.backends.lowering.typed_graph import PRECISIONS, typed_graph
from runtime.backends.tensorrt import build as trt_build
from runtime.backends.tensorrt.build import (
    build_engine,
    choose_profile,
    import_tensorrt,
    profiles,
    spans,
)
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GRAPHS, ModelNumbers, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from tests.fakes import FAKE_NUMBERS, IMAGE_NUMBERS


def has_tensorrt() -> bool:
    try:
        import_tensorrt()
    except BackendUnavailable:
        return False
    return True


needs_tensorrt = pytest.mark.skipif(not has_tensorrt(), reason="no TensorRT here")


@pytest.mark.parametrize(
    ("model", "graph"),
    [(model, graph) for model in (FAKE_NUMBERS, IMAGE_NUMBERS) for graph in model.graphs],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_dynamic_input_has_profiles_that_fit_the_contract(
    model: ModelNumbers, graph: str
) -> None:
    specs = graph_specs(model)[graph].inputs
    dynamic = {n for n, spec in specs.items() if any(isinstance(s, str) for s in spec.shape)}
    for shapes in profiles(model, graph):
        assert shapes.keys() == dynamic
        for which in range(3):
            axes: dict[str, int] = {}
            for name, sizes in shapes.items():
                assert specs[name].mismatch(sizes[which], specs[name].dtype, axes) is None
        for smallest, usual, largest in shapes.values():
            assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True))


@given(st.integers(1, 8), st.integers(1, 31), st.integers(1, 40), st.integers(1, 32))
def test_every_step_that_may_come_has_a_profile_and_a_full_memory_one_of_its_own(
    rows: int, memories: int, pointers: int, points: int
) -> None:
    axes = {"n": rows, "b": rows, "k": memories, "p": pointers, "q": points}
    for graph in GRAPHS:
        candidates = profiles(FAKE_NUMBERS, graph)
        shapes = {n: s.bind(axes) for n, s in graph_specs(FAKE_NUMBERS)[graph].inputs.items()}
        chosen = choose_profile(candidates, shapes)
        assert chosen is not None
        for name, (smallest, _, largest) in candidates[chosen].items():
            assert all(a <= b <= c for a, b, c in zip(smallest, shapes[name], largest, strict=True))
    full = {"n": 1, "b": rows, "k": 7, "p": 16, "q": 1}
    for graph in GRAPHS:
        candidates = profiles(FAKE_NUMBERS, graph)
        shapes = {n: s.bind(full) for n, s in graph_specs(FAKE_NUMBERS)[graph].inputs.items()}
        exact = choose_profile(candidates, shapes)
        assert exact is not None
        is_exact = all(low == high for low, _, high in candidates[exact].values())
        assert is_exact == (rows <= 2 or graph == "image_encoder")


def test_single_images_are_seen_one_at_a_time_and_a_box_has_kernels_of_its_own() -> None:
    (encoder,) = profiles(IMAGE_NUMBERS, "image_encoder")
    assert {sizes[0] for sizes in encoder["image"]} == {1}
    box, general = profiles(IMAGE_NUMBERS, "mask_decoder")
    assert {sizes[1] for sizes in box["point_coords"]} == {2}
    assert [sizes[1] for sizes in general["point_coords"]] == [1, 2, 32]


def test_a_step_beyond_every_profile_has_none() -> None:
    candidates = profiles(FAKE_NUMBERS, "memory_encoder")
    specs = graph_specs(FAKE_NUMBERS)["memory_encoder"].inputs
    assert choose_profile(candidates, {n: s.bind({"b": 9}) for n, s in specs.items()}) is None


def test_the_usual_length_is_a_full_memory() -> None:
    axes = spans(FAKE_NUMBERS)
    assert axes["k"].usual == FAKE_NUMBERS.num_maskmem
    assert axes["p"].usual == FAKE_NUMBERS.max_obj_ptrs
    for span in axes.values():
        assert 1 == span.smallest <= span.usual <= span.largest


def attention_of(queries: int, channels: int) -> bytes:
    """ONNX of attention whose scores are written out: q (b, queries, channels), keys (b, channels, n), v (b, n, 9)."""
    sides = {
        "q": ["b", queries, channels],
        "keys": ["b", channels, "n"],
        "v": ["b", "n", 9],
        "read": ["b", queries, 9],
    }
    q, keys, v, read = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in sides.items()
    )
    nodes = [
        helper.make_node("MatMul", ["q", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["read"]),
    ]
    graph = helper.make_graph(nodes, "attention", [q, keys, v], [read])
    opsets = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


@needs_tensorrt
def test_scores_that_are_written_out_may_be_large() -> None:
    """Of 1024 pixels, eight rows and every prompted slice that may be read: 5 GB."""
    rows, keys = 8, 40_000
    shapes = {
        "q": ((1, 4096, 8), (1, 4096, 8), (rows, 4096, 8)),
        "keys": ((1, 8, 64), (1, 8, 64), (rows, 8, keys)),
        "v": ((1, 64, 9), (1, 64, 9), (rows, keys, 9)),
    }
    assert build_engine(attention_of(4096, 8), [shapes], "attention")


@cache
def engine_size(data: bytes, numbers: ModelNumbers, graph: str) -> int:
    """Bytes of an engine for the profile in which every axis varies, built once where precisions give the same graph.

    Tests of `medsam2 build --check` build for all profiles.
    """
    return len(build_engine(data, profiles(numbers, graph)[-1:], graph))


# Types and forms of attention do not depend on each other: `medsam2 build --check` has tests that build the other form
# of every graph.
@needs_tensorrt
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_an_engine_is_built_of_every_graph(graph: str, precision: str, toy_bundle: Bundle) -> None:
    wanted = replace(PRECISIONS[precision], attention=FORMS[0])
    data = typed_graph(toy_bundle.read_graph(graph), graph, wanted)
    assert engine_size(data, toy_bundle.model, graph) > 10000


@needs_tensorrt
def test_a_build_tells_how_far_it_has_come_and_can_be_stopped(toy_bundle: Bundle) -> None:
    data = typed_graph(
        toy_bundle.read_graph("memory_encoder"), "memory_encoder", PRECISIONS["fp32"]
    )
    wanted = profiles(toy_bundle.model, "memory_encoder")
    told: list[tuple[str, float]] = []

    def tell(phase: str, share: float) -> bool:
        told.append((phase, share))
        return True

    build_engine(data, wanted, "memory_encoder", progress=tell)
    assert told and all(0 < share <= 1 for _, share in told)
    with pytest.raises(KeyboardInterrupt):
        build_engine(data, wanted, "memory_encoder", progress=lambda phase, share: False)

    def interrupt(phase: str, share: float) -> bool:
        told.append((phase, share))
        signal.raise_signal(signal.SIGINT)
        return True

    told.clear()
    with pytest.raises(KeyboardInterrupt):  # what a handler raises in TensorRT's callback is lost
        build_engine(data, wanted, "memory_encoder", progress=interrupt)
    assert len(told) == 1


@needs_tensorrt
def test_a_graph_that_is_refused_is_named_with_node_and_reason(toy_bundle: Bundle) -> None:
    data = toy_bundle.read_graph("memory_attention")
    shapes = profiles(toy_bundle.model, "memory_attention")
    with pytest.raises(BundleError, match=r"refuses memory_attention: .*MultiHeadAttention"):
        build_engine(data, shapes, "memory_attention")


@needs_tensorrt
def test_a_profile_that_a_graph_does_not_take_is_refused(toy_bundle: Bundle) -> None:
    data = typed_graph(
        toy_bundle.read_graph("memory_encoder"), "memory_encoder", PRECISIONS["fp32"]
    )
    shapes = [dict(each) for each in profiles(toy_bundle.model, "memory_encoder")]
    del shapes[0]["low_res_masks"]
    with pytest.raises(BundleError, match=r"builds no engine of memory_encoder: .*low_res_masks"):
        build_engine(data, shapes, "memory_encoder")


def test_without_tensorrt_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trt_build.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="pip install tensorrt-rtx") as refused:
        build_engine(b"", [], "memory_encoder")
    assert refused.value.exit_code == 5


def test_tensorrt_itself_is_preferred_to_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trt_build.MODULES:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__name__=name))
    assert import_tensorrt().__name__ == "tensorrt"


@needs_tensorrt
def test_timings_are_kept_but_by_rtx_which_warns_of_them(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    data = typed_graph(
        toy_bundle.read_graph("memory_encoder"), "memory_encoder", PRECISIONS["bf16"]
    )
    wanted, timings = profiles(toy_bundle.model, "memory_encoder"), tmp_path / "timings"
    assert build_engine(data, wanted, "memory_encoder", timings)
    assert timings.exists() != trt_build.is_rtx(import_tensorrt())


def test_the_bindings_of_rtx_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    *others, bindings = trt_build.MODULES
    for name in others:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, bindings, SimpleNamespace(__name__=bindings))
    assert trt_build.is_rtx(import_tensorrt())
