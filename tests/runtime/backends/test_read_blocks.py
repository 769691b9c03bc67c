"""A read of memory whose last, small block of queries is read apart: when it is, and what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.backends import ort
from runtime.backends.ort import OrtBackend
from runtime.backends.read_blocks import block_size, queries_apart, read_apart
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GraphSpec, graph_specs
from runtime.bundle.memory_reads import GRAPH
from runtime.errors import BundleError

KIB = 1024
SIDES = {"b": 2, "k": 3, "p": 4}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle()


@pytest.fixture(scope="module")
def data(bundle: Bundle) -> bytes:
    return bundle.read_graph(GRAPH)


def inputs(spec: GraphSpec) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    made = {}
    for name, tensor in spec.inputs.items():
        shape = [side if isinstance(side, int) else SIDES[side] for side in tensor.shape]
        numbers = rng.standard_normal(shape)
        if name.endswith("weight"):
            numbers = np.abs(numbers)
        made[name] = (
            numbers.astype(np.float32) if tensor.dtype == "float32" else np.ones(shape, np.int64)
        )
    return made


def result(graph: bytes, bundle: Bundle) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, inputs(graph_specs(bundle.model)[GRAPH]))
    return found


@pytest.mark.parametrize(
    ("cache_kib", "size", "apart"),
    [
        (256, 51, {2: 4, 3: 0, 4: 4, 5: 4}),
        (512, 102, {1: 0, 2: 4, 3: 0, 4: 0, 5: 4, 8: 0}),
        (1024, 204, {2: 0, 3: 0, 4: 0, 5: 4}),
        (1280, 255, {1: 0, 2: 4, 3: 0, 4: 4, 5: 0, 8: 0}),
        (2048, 321, {1: 0, 2: 0, 3: 61, 4: 0}),
    ],
)
def test_few_queries_are_apart_where_a_thread_would_wait_for_them(
    cache_kib: int, size: int, apart: dict[int, int], bundle: Bundle
) -> None:
    tiny_at_512 = replace(bundle.model, d_model=256, mem_dim=64, image_size=512, grid=32)
    assert tiny_at_512.num_tokens == 1024
    assert block_size(tiny_at_512, cache_kib * KIB) == size
    assert {n: queries_apart(tiny_at_512, n, cache_kib * KIB) for n in apart} == apart


def test_an_unknown_cache_is_taken_for_a_laptops(bundle: Bundle) -> None:
    tiny_at_512 = replace(bundle.model, d_model=256, mem_dim=64, image_size=512, grid=32)
    assert queries_apart(tiny_at_512, 4, None) == queries_apart(tiny_at_512, 4, 1280 * KIB) == 4


@pytest.mark.parametrize("num_apart", [1, 54, 255])
def test_numbers_change_by_rounding_at_most(num_apart: int, data: bytes, bundle: Bundle) -> None:
    cut = read_apart(data, bundle.model.num_tokens, num_apart)
    assert cut.count(b"MultiHeadAttention") == data.count(b"MultiHeadAttention") + 2  # layers
    np.testing.assert_allclose(result(cut, bundle), result(data, bundle), rtol=0, atol=2e-5)


def test_a_graph_that_does_not_say_where_it_reads_stays_as_it_is(bundle: Bundle) -> None:
    encoder = bundle.read_graph("image_encoder")
    assert read_apart(encoder, 256, 1) == encoder


@given(st.data())
def test_what_is_no_graph_is_no_graph(draw: st.DataObject) -> None:
    data = open_bundle().read_graph(GRAPH)
    stop = draw.draw(st.integers(1, len(data) - 1))
    broken = bytearray(data[:stop])
    broken[draw.draw(st.integers(0, stop - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        read_apart(bytes(broken), 256, 1)
    except ValueError:
        return


def test_the_back_end_reads_apart_what_would_keep_its_threads_waiting(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(ort, "second_level_cache_bytes", lambda: 51 * 16 * 161)
    monkeypatch.setattr(
        ort, "read_apart", lambda *about: seen.append(about[1:]) or read_apart(*about)
    )
    spec = graph_specs(bundle.model)[GRAPH]
    found = []
    for threads in (5, 4):  # 256 queries are five blocks of 51, and one query
        outputs = {
            name: np.empty(
                [s if isinstance(s, int) else SIDES[s] for s in tensor.shape], np.float32
            )
            for name, tensor in spec.outputs.items()
        }
        OrtBackend(bundle, threads).load(GRAPH).run(inputs(spec), outputs)
        found.append(outputs)
    assert seen == [(256, 1)]
    for name, numbers in found[0].items():
        np.testing.assert_allclose(numbers, found[1][name], rtol=0, atol=2e-5)


def test_metadata_that_is_none_is_the_bundles_fault(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = bundle.read_graph(GRAPH).replace(b'"residual"', b'"resident"')
    monkeypatch.setattr(ort, "read_whole_graph", lambda *_: broken)
    monkeypatch.setattr(ort, "queries_apart", lambda *_: 1)
    with pytest.raises(BundleError, match=r"it is no ONNX graph.*export the bundle again"):
        OrtBackend(bundle).load(GRAPH)
