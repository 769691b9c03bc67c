"""The encoder restated by exact algebra, piece by piece and whole, against the plain definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.exact.hiera import (
    TokenBlock,
    Windows,
    composed,
    pool,
    pooling_order,
    rows,
    window_order,
)
from export.exact.image_encoder import ImageEncoderGraph
from export.exact.memory_attention import MemoryAttentionGraph, SelfAttention
from export.exact.memory_keys import Rotated
from export.exact.tokens import on_tokens, to_map
from export.model.hiera import Block
from export.model.hiera import pool as pool_map
from export.model.position import RotaryAngles, rotate_pairs
from export.model.sam2 import Sam2
from export.random_weights import random_state
from export.variants import Variant
from tests.graph_inputs import graph_inputs, relative_error, torch_inputs
from tests.variants import TOY

ROUNDING = 1e-5


def randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@given(st.integers(0, 3), st.integers(1, 5))
def test_tokens_that_are_pooled_together_are_neighbours(poolings: int, cells: int) -> None:
    side = cells << poolings
    order = pooling_order(side, poolings)
    assert order.sort().values.tolist() == list(range(side * side))
    for level in range(1, poolings + 1):
        of_group = order.reshape(-1, 4**level)
        y, x = (of_group // side) >> level, (of_group % side) >> level
        assert (y == y[:, :1]).all() and (x == x[:, :1]).all()


@given(st.integers(1, 3), st.integers(1, 4))
def test_pooling_in_order_is_pooling_of_the_map(poolings: int, cells: int) -> None:
    side = cells << poolings
    image = torch.randn(2, side, side, 3, generator=torch.Generator().manual_seed(side))
    pooled = pool(image.flatten(1, 2)[:, pooling_order(side, poolings)])
    wanted = pool_map(image).flatten(1, 2)[:, pooling_order(side // 2, poolings - 1)]
    assert torch.equal(pooled, wanted)


@given(st.integers(2, 20), st.integers(2, 16), st.integers(0, 2))
def test_every_token_is_in_one_window_and_the_rest_is_padding(
    cells: int, window: int, poolings: int
) -> None:
    side = cells << poolings
    windows = window_order(side, window, poolings)
    across = -(-side // window)
    assert windows.shape == (across**2, window**2)
    assert windows[windows >= 0].sort().values.tolist() == list(range(side * side))
    raster = pooling_order(side, poolings)
    seen = set()
    for tokens in windows:
        places = raster[tokens[tokens >= 0]]
        (of_window,) = {(int(p) // side // window, int(p) % side // window) for p in places}
        seen.add(of_window)
    assert len(seen) == across**2


# side, window, poolings to come, pooled, and how it is cut: SAM 2's stages at 128 to 1024 pixels among them
CASES = [
    (32, 8, 3, False, "run"),
    (32, 8, 3, True, "run"),
    (16, 4, 2, False, "run"),
    (16, 4, 2, True, "run"),
    (16, 8, 2, True, "gathered"),
    (16, 2, 2, False, "run"),
    (32, 14, 1, False, "padded"),
    (16, 14, 1, True, "padded"),
    (8, 14, 1, False, "padded"),
    (28, 14, 1, True, "gathered"),
    (16, 7, 0, False, "padded"),
    (4, 7, 0, False, "padded"),
    (32, 16, 1, False, "gathered"),
    (8, 8, 0, False, "run"),
    (16, 0, 1, False, None),
    (16, 0, 1, True, None),
]


@pytest.mark.parametrize(("side", "window", "poolings", "is_pooled", "cut"), CASES)
def test_a_block_on_ordered_tokens_is_the_block_on_the_map(
    side: int, window: int, poolings: int, is_pooled: bool, cut: str | None
) -> None:
    block = Block(8, 16 if is_pooled else 8, 2, window)
    randomise(block, side + window)
    image = torch.randn(2, side, side, 8, generator=torch.Generator().manual_seed(window))
    order = pooling_order(side, poolings)
    after = pooling_order(side // 2, poolings - 1) if is_pooled else order
    found = TokenBlock(block, side, poolings)(image.flatten(1, 2)[:, order])
    assert relative_error(found, block(image).flatten(1, 2)[:, after]) < ROUNDING
    if cut is not None:
        windows = Windows(side, window, poolings, is_pooled)
        assert windows.is_padded == (cut == "padded")
        assert windows.is_contiguous == (cut == "run")


def test_two_1x1_convolutions_are_one_layer() -> None:
    first, second = nn.Conv2d(6, 20, 1), nn.Conv2d(20, 4, 1)
    for conv in (first, second):
        randomise(conv)
    image = torch.randn(2, 6, 5, 5)
    tokens = image.flatten(2).transpose(1, 2)
    assert relative_error(to_map(composed(first, second)(tokens)), second(first(image))) < ROUNDING
    assert relative_error(to_map(on_tokens(first)(tokens)), first(image)) < ROUNDING


def test_some_rows_of_a_layer_are_some_of_its_outputs() -> None:
    layer, x = nn.Linear(5, 9), torch.randn(3, 5)
    assert relative_error(rows(layer, 3, 6)(x), layer(x)[:, 3:6].detach()) < ROUNDING


LARGE_WINDOWS = replace(
    TOY, trunk=replace(TOY.trunk, window_spec=(8, 4, 16, 8))
)  # as SAM 2 large has them


@pytest.mark.parametrize(
    ("variant", "size"),
    [(TOY, 64), (TOY, 96), (TOY, 128), (TOY, 160), (TOY, 224), (LARGE_WINDOWS, 128)],
    ids=lambda value: str(value.trunk.window_spec if isinstance(value, Variant) else value),
)
@pytest.mark.parametrize("count", [1, 3])
def test_the_encoder_is_the_plain_one(variant: Any, size: int, count: int) -> None:
    model = Sam2(variant, size)
    model.load_state_dict(random_state(model, seed=size), strict=True)
    image = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
    found, wanted = ImageEncoderGraph(model)(image), model.encode(image)
    assert len(found) == len(wanted) == 5
    for a, b in zip(found, wanted, strict=True):
        assert relative_error(a, b) < ROUNDING


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_two_halves_that_turn_keep_every_product_of_query_and_key(seed: int) -> None:
    query, key = nn.Linear(12, 16), nn.Linear(12, 16)
    randomise(query, seed)
    randomise(key, seed + 1)
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(seed))
    angles = RotaryAngles(16, 3)()
    q, k = Rotated(query)(x, angles), Rotated(key)(x, angles)
    plain_q, plain_k = (rotate_pairs(layer(x), *angles) for layer in (query, key))
    assert relative_error(q @ k.mT, plain_q @ plain_k.mT) < ROUNDING
    unturned = Rotated(query)(x, None) @ Rotated(key)(x, None).mT
    assert relative_error(unturned, query(x) @ key(x).mT) < ROUNDING


def test_memory_attention_is_the_plain_one(toy: Sam2) -> None:
    inputs = torch_inputs(
        graph_inputs(toy.numbers, "memory_attention", {"b": 2, "k": 3, "p": 5}, seed=6)
    )
    found = MemoryAttentionGraph(toy)(**inputs)
    assert relative_error(found, toy.condition(**inputs)) < ROUNDING
    tokens = inputs["attended_features"]
    layer, angles = toy.memory_attention.layers[0], toy.memory_attention.angles()
    own = SelfAttention(layer)(tokens, angles)
    assert relative_error(own, layer.attend_self(tokens, angles)) < ROUNDING


@pytest.mark.parametrize("graph", ["image_encoder", "memory_attention"])
def test_nothing_is_split_in_the_exported_graph(graph: str, graphs: Any) -> None:
    kinds = {node.op_type for node in graphs.proto(graph).graph.node}
    assert not kinds & {"SplitToSequence", "SequenceAt", "Split"}
