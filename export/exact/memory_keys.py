"""Keys of memory attention, and the values that go with them, restated by exact algebra.

- *Half rotation.* The even and odd channels of queries and keys, which rotary codes turn in pairs, are two projections
  whose results need no taking apart. Both sides are permuted alike, so q . k does not change.
- *Pooling before projection.* EfficientTAM pools keys after they have turned, and values after their projection, which
  is linear: what is pooled are the memory's M channels. ln 4 on the logits is weight 4.
- *One memory among several rows.* EfficientTAM reads a row's only memory in full. Where a batch has such a row, that
  memory's own keys are there beside the pooled ones, and each row weighs one kind with 0; elsewhere they are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.model.pooled_attention import POOLED, SHIFT, pool_tokens
from export.model.sam2 import Sam2

Angles = tuple[Tensor, Tensor]


class Rotated(nn.Module):
    """A query or key projection with its rotary code; even channels come first."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.even, self.odd = (every_second(projection, first) for first in (0, 1))

    def forward(self, x: Tensor, angles: Angles | None) -> Tensor:
        """x (..., T, channels) turned by the tokens' angles, or not at all."""
        even, odd = self.even(x), self.odd(x)
        if angles is not None:
            cos, sin = angles
            even, odd = even * cos - odd * sin, odd * cos + even * sin
        return torch.cat([even, odd], -1)


def every_second(projection: nn.Linear, first: int) -> nn.Linear:
    """The even (first = 0) or odd (1) output channels."""
    half = nn.Linear(projection.in_features, projection.out_features // 2)
    half.weight.data, half.bias.data = projection.weight[first::2], projection.bias[first::2]
    return half


@dataclass(frozen=True, slots=True)
class KeySource:
    """What some keys are made of.

    Attributes:
        tokens: (b, ..., M) with their position.
        angles: by which they turn, a row for each of the last axis but one; None turns none.
        pooling: as in `export.variants.Variant`.
    """

    tokens: Tensor
    angles: Angles | None
    pooling: int = 0

    def keys(self, projection: Rotated) -> Tensor:
        """(b, n, C), as one layer sees them."""
        keys = projection(self.tokens, self.angles)
        if self.pooling:
            keys = pool_tokens(keys)
        if self.pooling == 2:
            keys = keys + SHIFT
        return keys.flatten(1, -2)


def sources_of(
    model: Sam2, memory: Tensor, spatial_key: Tensor, weight: Tensor, angles: Angles
) -> tuple[list[KeySource], list[Tensor]]:
    """What memories are read by, and the values (b, n, M + 1) of the same, weighed, with their weight behind.

    Args:
        model: whose memories they are.
        memory: (b, k, L, M).
        spatial_key: the same with their position.
        weight: (b, k).
        angles: of the image's tokens, by which a memory's turn too, unless it has a map of its own.
    """
    if model.has_latents:
        angles = model.memory_attention.layers[0].cross_attn_image.every_angle()
    if not model.pooling:
        return [KeySource(spatial_key, angles)], [weighted(memory, weight)]
    is_read = weight > 0
    is_single = is_read.sum(1) == 1
    single = (weight.amax(1) * is_single)[:, None]
    several = weight * (~is_single)[:, None] * (POOLED if model.pooling == 1 else 1)
    # All tokens of one memory, or none where no row has just one.
    tokens = memory.shape[2] * _count(is_single.any())
    # Picked by a product: engines gather by slices of unknown length in ways of their own.
    is_only = (is_read * is_single[:, None]).to(memory.dtype)[:, None]
    only, only_key = (
        (is_only @ x.flatten(2)).unflatten(2, x.shape[2:]).narrow(2, 0, tokens)
        for x in (memory, spatial_key)
    )
    cos, sin = angles
    sources = [
        KeySource(spatial_key, angles, model.pooling),
        KeySource(only_key, (cos.narrow(0, 0, tokens), sin.narrow(0, 0, tokens))),
    ]
    return sources, [weighted(pool_tokens(memory), several), weighted(only, single)]


def _count(flag: Tensor) -> int:
    """1 or 0, also to the tracer."""
    count: int = flag.to(torch.int64).item()
    torch._check(count >= 0)
    torch._check(count <= 1)
    return count


def weighted(memory: Tensor, weight: Tensor) -> Tensor:
    """Memories (b, k, L, M) times their weights (b, k), and those behind: (b, k * L, M + 1)."""
    weight = weight[..., None, None]
    return torch.cat([memory * weight, weight.expand_as(memory[..., :1])], -1).flatten(1, 2)
