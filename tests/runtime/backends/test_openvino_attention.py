"""Attention as OpenVINO is given it, against its definition."""

from __future__ import annotations

import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from openvino.frontend.onnx import ConversionExtension

from runtime.backends.openvino_attention import attention

FLOAT = onnx.TensorProto.FLOAT


def graph_of(heads: int, width: int, value_width: int) -> bytes:
    """One node, as the exporter writes it: rows and lengths are free, widths are not."""
    tensors = {"query": ("n", width), "key": ("m", width), "value": ("m", value_width)}
    graph = helper.make_graph(
        [
            helper.make_node(
                "MultiHeadAttention",
                list(tensors),
                ["out"],
                domain="com.microsoft",
                num_heads=heads,
            )
        ],
        "attention",
        [
            helper.make_tensor_value_info(name, FLOAT, ("b", *shape))
            for name, shape in tensors.items()
        ],
        [helper.make_tensor_value_info("out", FLOAT, ("b", "n", value_width))],
    )
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=domains).SerializeToString()
    return model


def on_openvino(model: bytes, feeds: list[np.ndarray]) -> np.ndarray:
    core = ov.Core()
    core.add_extension(ConversionExtension("MultiHeadAttention", "com.microsoft", attention))
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    found: np.ndarray = compiled(feeds)[0]
    return found


def defined(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    q, k, v = (
        x.astype(np.float64).reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
        for x in (query, key, value)
    )
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    out = shares / shares.sum(-1, keepdims=True) @ v
    return np.asarray(out.swapaxes(1, 2).reshape(*query.shape[:2], -1))


@settings(max_examples=25)
@given(
    heads=st.sampled_from([1, 2, 3, 8]),
    width=st.integers(1, 24),
    value_width=st.integers(1, 24),
    rows=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 70),
    seed=st.integers(0, 2**16),
)
def test_attention_is_what_its_definition_says(
    heads: int, width: int, value_width: int, rows: int, queries: int, keys: int, seed: int
) -> None:
    """Also where values are wider than keys, as those of SAM 1 and of memories are not keys' width."""
    rng = np.random.default_rng(seed)
    feeds = [
        rng.normal(size=shape).astype(np.float32)
        for shape in (
            (rows, queries, heads * width),
            (rows, keys, heads * width),
            (rows, keys, heads * value_width),
        )
    ]
    found = on_openvino(graph_of(heads, heads * width, heads * value_width), feeds)
    assert np.abs(found - defined(*feeds, heads)).max() < 1e-5


@pytest.mark.parametrize("heads", [1, 4])
def test_keys_are_not_turned_about(heads: int) -> None:
    """OpenVINO's own operator does that to every key, which costs a twelfth of memory attention."""
    core = ov.Core()
    core.add_extension(ConversionExtension("MultiHeadAttention", "com.microsoft", attention))
    model = core.read_model(graph_of(heads, 8, 8))
    turns = [node for node in model.get_ops() if node.get_type_name() == "Transpose"]
    assert len(turns) == (0 if heads == 1 else 4)  # queries, keys, values and answers, by head
