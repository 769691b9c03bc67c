"""Windows of a map as runs of tokens, by the order that tokens are kept in.

Between attentions every token is on its own, so their order is free. Here the four tokens of each 2x2 pooling are
neighbours, so that pooling is a maximum over an axis of length 4; what is left after all poolings, a cell, is one token
of the last map. Cells of a window are neighbours too, and windows of a kind: whole ones first, then those that a
ragged edge cuts, then the corner's. So windows are cut by reshaping, and hold no padding but as keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import attention


class Kind(NamedTuple):
    """Windows that hold equally many tokens.

    Args:
        count: of windows.
        size: tokens in each.
        padding: keys in each that are rows of zeros.
    """

    count: int
    size: int
    padding: int


def kinds(side: int, window: int) -> list[Kind]:
    """The windows of a map of side * side tokens: whole ones, those of ragged edges, the corner's."""
    whole, rest = divmod(side, window)
    found = ((whole**2, window**2), (2 * whole, window * rest), (1, rest**2))
    return [Kind(count, size, window**2 - size) for count, size in found if count and size]


def cell_order(side: int, window: int) -> Tensor:
    """Raster index of each cell (side * side,): a window's cells in raster order, windows by kind."""
    y, x = torch.arange(side)[:, None] // window, torch.arange(side)[None] // window
    whole = side // window
    kind = (y == whole).long() + (x == whole).long()
    across = -(-side // window)
    of_window = (kind * across + y) * across + x
    return of_window.flatten().argsort(stable=True)


def token_order(side: int, poolings: int, window: int) -> Tensor:
    """Raster index of each token (side * side,).

    Args:
        side: of the map.
        poolings: of 2x2 that are still to come.
        window: side of the largest windows, in tokens; 0 if there are none.
    """
    cells = side >> poolings
    order = cell_order(cells, window >> poolings or cells)
    y, x = order // cells, order % cells
    for _ in range(poolings):  # each cell into its four, which stay together
        y = torch.stack([2 * y, 2 * y, 2 * y + 1, 2 * y + 1], -1).flatten()
        x = torch.stack([2 * x, 2 * x + 1, 2 * x, 2 * x + 1], -1).flatten()
    return y * side + x


def pool(tokens: Tensor) -> Tensor:
    """2x2 max pooling of tokens (n, T, c) in their order: (n, T / 4, c)."""
    return tokens.unflatten(1, (-1, 4)).amax(2)


class Windows(nn.Module):
    """Attention within windows of tokens in their order.

    Args:
        side: of the map that keys come from.
        window: side of a window there.
        is_pooled: queries come from the map pooled once more.
    """

    def __init__(self, side: int, window: int, is_pooled: bool) -> None:
        super().__init__()
        self.kinds, self.fewer = kinds(side, window), 4 if is_pooled else 1

    def forward(self, query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        """Queries (n, T or T / 4, c), keys and values (n, T, c), without biases, to (n, T or T / 4, c)."""
        parts, start = [], 0
        for kind in self.kinds:
            stop = start + kind.count * kind.size
            q = query[:, start // self.fewer : stop // self.fewer]
            q = q.reshape(-1, kind.size // self.fewer, query.shape[2])
            k, v = (x[:, start:stop].reshape(-1, kind.size, x.shape[2]) for x in (key, value))
            if kind.padding:
                k, v = (F.pad(x, (0, 0, 0, kind.padding)) for x in (k, v))
            out = attention(q, k, v, num_heads)
            parts.append(out.reshape(-1, (stop - start) // self.fewer, out.shape[2]))
            start = stop
        return torch.cat(parts, 1)
