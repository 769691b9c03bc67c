"""The encoder restated by exact algebra, piece by piece and whole, against the plain definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.exact.hiera import TokenBlock, composed, rows
from export.exact.image_encoder import ImageEncoderGraph
from export.exact.memory_attention import MemoryAttentionGraph, SelfAttention
from export.exact.memory_keys import Rotated
from export.exact.tiny_vit import SplitAttention
from export.exact.tokens import on_tokens, to_map
from export.exact.windows import kinds, pool, token_order
from export.model.hiera import Block
from export.model.hiera import pool as pool_map
from export.model.position import RotaryAngles, rotate_pairs
from export.model.sam2 import Sam2
from export.model.tiny_vit import BiasedAttention
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


SIDES = st.tuples(
    st.integers(0, 3), st.integers(1, 9), st.integers(0, 9)
)  # poolings, cells, cells of a window


@given(SIDES)
def test_tokens_that_are_pooled_together_are_neighbours(numbers: tuple[int, int, int]) -> None:
    poolings, cells, window = numbers
    side = cells << poolings
    order = token_order(side, poolings, window << poolings)
    assert order.sort().values.tolist() == list(range(side * side))
    for level in range(1, poolings + 1):
        of_group = order.reshape(-1, 4**level)
        y, x = (of_group // side) >> level, (of_group % side) >> level
        assert (y == y[:, :1]).all() and (x == x[:, :1]).all()


@given(SIDES.filter(lambda numbers: numbers[0] > 0))
def test_pooling_in_order_is_pooling_of_the_map(numbers: tuple[int, int, int]) -> None:
    poolings, cells, window = numbers
    side = cells << poolings
    image = torch.randn(2, side, side, 3, generator=torch.Generator().manual_seed(side))
    pooled = pool(image.flatten(1, 2)[:, token_order(side, poolings, window << poolings)])
    after = token_order(side // 2, poolings - 1, window << (poolings - 1))
    assert torch.equal(pooled, pool_map(image).flatten(1, 2)[:, after])


@given(SIDES.filter(lambda numbers: numbers[2] > 0))
def test_every_window_is_a_run_of_its_tokens(numbers: tuple[int, int, int]) -> None:
    poolings, cells, in_cells = numbers
    side, window = cells << poolings, in_cells << poolings
    raster = token_order(side, poolings, window)
    seen: set[tuple[int, int]] = set()
    start = 0
    for kind in kinds(side, window):
        assert kind.size + kind.padding == window**2
        for _ in range(kind.count):
            places = raster[start : start + kind.size]
            (of_window,) = {(int(p) // side // window, int(p) % side // window) for p in places}
            seen.add(of_window)
            start += kind.size
    assert start == side * side
    assert len(seen) == (-(-side // window)) ** 2


# Side of the map of keys, window, its side in the order, poolings to come, pooled: SAM 2's stages at 128 to 1024 pixels
# among them, windows within a cell, of several cells, and such as do not divide the map.
CASES = [
    (32, 8, 56, 3, False),
    (32, 8, 56, 3, True),
    (16, 4, 28, 2, False),
    (16, 4, 28, 2, True),
    (16, 8, 8, 2, True),
    (16, 2, 28, 2, False),
    (32, 14, 14, 1, False),
    (16, 14, 14, 1, True),
    (8, 14, 14, 1, False),
    (28, 14, 14, 1, True),
    (64, 14, 14, 1, False),
    (16, 7, 7, 0, False),
    (4, 7, 7, 0, False),
    (32, 16, 16, 1, False),
    (8, 8, 8, 0, False),
    (16, 0, 14, 1, False),
    (16, 0, 0, 1, True),
]


@pytest.mark.parametrize(("side", "window", "widest", "poolings", "is_pooled"), CASES)
def test_a_block_on_ordered_tokens_is_the_block_on_the_map(
    side: int, window: int, widest: int, poolings: int, is_pooled: bool
) -> None:
    block = Block(8, 16 if is_pooled else 8, 2, window)
    randomise(block, side + window)
    image = torch.randn(2, side, side, 8, generator=torch.Generator().manual_seed(window))
    order = token_order(side, poolings, widest)
    after = token_order(side // 2, poolings - 1, widest // 2) if is_pooled else order
    found = TokenBlock(block, side)(image.flatten(1, 2)[:, order])
    assert relative_error(found, block(image).flatten(1, 2)[:, after]) < ROUNDING


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


def test_windows_that_no_one_order_makes_runs_of_are_refused() -> None:
    trunk = replace(TOY.trunk, stages=(1, 2, 3, 2), window_spec=(8, 4, 16, 7))
    uneven = replace(TOY, trunk=trunk)
    with pytest.raises(AssertionError):
        ImageEncoderGraph(Sam2(uneven, 128))


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


@pytest.mark.parametrize(("heads", "width", "window"), [(1, 8, 3), (3, 5, 2), (4, 32, 7)])
def test_queries_keys_and_values_are_the_same_as_products_of_their_own(
    heads: int, width: int, window: int
) -> None:
    plain = BiasedAttention(heads * width, heads, window)
    randomise(plain)
    windows = torch.randn(5, window**2, heads * width, generator=torch.Generator().manual_seed(1))
    exact = SplitAttention(plain)
    assert relative_error(exact(windows), plain(windows)) < ROUNDING
