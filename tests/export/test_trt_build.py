"""Engines are built without a GPU: every graph at every shape that the runtime asks for, in every precision."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest

from runtime.backends import trt_build
from runtime.backends.trt_build import build_engine, import_tensorrt, profile, spans
from runtime.backends.typed_attention import SPELLINGS
from runtime.backends.typed_graph import PRECISIONS, typed_graph
from runtime.bundle import Bundle
from runtime.contract import GRAPHS, ModelNumbers, graph_specs
from runtime.errors import BackendUnavailable, BundleError
from tests.fakes import FAKE_NUMBERS


def has_tensorrt() -> bool:
    try:
        import_tensorrt()
    except BackendUnavailable:
        return False
    return True


needs_tensorrt = pytest.mark.skipif(not has_tensorrt(), reason="no TensorRT here")


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_dynamic_input_has_a_profile_that_fits_the_contract(graph: str) -> None:
    specs, shapes = graph_specs(FAKE_NUMBERS)[graph].inputs, profile(FAKE_NUMBERS, graph)
    dynamic = {n for n, spec in specs.items() if any(isinstance(s, str) for s in spec.shape)}
    assert shapes.keys() == dynamic
    for name, sizes in shapes.items():
        axes: dict[str, int] = {}
        for shape, which in zip(sizes, ("smallest", "usual", "largest"), strict=True):
            axes = {axis: getattr(span, which) for axis, span in spans(FAKE_NUMBERS).items()}
            assert specs[name].mismatch(shape, specs[name].dtype, axes) is None


def test_the_usual_length_is_a_full_memory() -> None:
    axes = spans(FAKE_NUMBERS)
    assert axes["k"].usual == FAKE_NUMBERS.num_maskmem
    assert axes["p"].usual == FAKE_NUMBERS.max_obj_ptrs
    for span in axes.values():
        assert 1 == span.smallest <= span.usual <= span.largest


@cache
def engine_size(data: bytes, numbers: ModelNumbers, graph: str) -> int:
    """Of an engine, built once for precisions that give the same graph."""
    return len(build_engine(data, profile(numbers, graph), graph))


@needs_tensorrt
@pytest.mark.parametrize("attention", SPELLINGS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_an_engine_is_built_of_every_graph(
    graph: str, precision: str, attention: str, toy_bundle: Bundle
) -> None:
    wanted = replace(PRECISIONS[precision], attention=attention)
    data = typed_graph(toy_bundle.read_graph(graph), graph, wanted)
    assert engine_size(data, toy_bundle.model, graph) > 10000


@needs_tensorrt
def test_a_graph_that_is_refused_is_named_with_node_and_reason(toy_bundle: Bundle) -> None:
    data = toy_bundle.read_graph("memory_attention")
    shapes = profile(toy_bundle.model, "memory_attention")
    with pytest.raises(BundleError, match=r"refuses memory_attention: .*MultiHeadAttention"):
        build_engine(data, shapes, "memory_attention")


@needs_tensorrt
def test_a_profile_that_a_graph_does_not_take_is_refused(toy_bundle: Bundle) -> None:
    data = typed_graph(
        toy_bundle.read_graph("memory_encoder"), "memory_encoder", PRECISIONS["fp32"]
    )
    shapes = profile(toy_bundle.model, "memory_encoder")
    del shapes["low_res_masks"]
    with pytest.raises(BundleError, match=r"builds no engine of memory_encoder: .*low_res_masks"):
        build_engine(data, shapes, "memory_encoder")


def test_without_tensorrt_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trt_build.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="pip install tensorrt-rtx") as refused:
        build_engine(b"", {}, "memory_encoder")
    assert refused.value.exit_code == 5


def test_tensorrt_itself_is_preferred_to_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trt_build.MODULES:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__name__=name))
    assert import_tensorrt().__name__ == "tensorrt"
