"""SAM 2's trunk and neck restated by exact algebra; `export.model` holds the plain definition that they must equal.

- *Tokens in pooling order.* Between attentions every token is on its own, so their order is free. Here the four tokens
  of each 2x2 pooling are neighbours: pooling is a maximum over an axis of length 4, the windows of the first stages
  are contiguous, the neck's upsampling is one addition, and no map is transposed between blocks.
- *No work on padding.* A padded key is the projection of a row of zeros. One such row is projected, and windows pick
  it as often as they need it, where the plain form projects every padded token and as many queries.
- *No bias of keys or values.* A key's bias adds one number to all scores of a query, which softmax does not see. Shares
  sum up to one, so that a value's bias is one of what comes out, and goes through the projection once and for all.
- *Neck composition.* A 1x1 convolution after another (lateral, then conv_s0 or conv_s1) is one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.exact.tokens import on_tokens, to_map
from export.model.attention import attention
from export.model.hiera import Block
from export.model.sam2 import Sam2

POOLINGS = 3  # of 2x2, one between each two of the four stages


def pooling_order(side: int, poolings: int) -> Tensor:
    """Raster index of each token (side * side,): cells of 2^poolings in raster order, halved recursively inside."""
    index = torch.arange(side * side)
    y, x = index // side, index % side
    rank = (y >> poolings) * (side >> poolings) + (x >> poolings)
    for level in reversed(range(poolings)):
        rank = 4 * rank + 2 * (y >> level & 1) + (x >> level & 1)
    return rank.argsort()


def pool(tokens: Tensor) -> Tensor:
    """2x2 max pooling of tokens (n, T, c) in pooling order: (n, T / 4, c)."""
    return tokens.unflatten(1, (-1, 4)).amax(2)


def window_order(side: int, window: int, poolings: int) -> Tensor:
    """Position in pooling order of each token of each window (windows, window * window); -1 is padding."""
    across = -(-side // window)
    position = torch.full((across * window, across * window), -1)
    position[:side, :side] = pooling_order(side, poolings).argsort().reshape(side, side)
    tiles = position.reshape(across, window, across, window).transpose(1, 2)
    # Neither the order of windows nor of tokens within one matters to attention: as they lie is cheapest.
    windows = tiles.reshape(across * across, window * window).sort(1).values
    return windows[windows.amax(1).argsort()]


class Windows(nn.Module):
    """How tokens (n, T, c) of a map are cut into windows and put back, as constant indices.

    Args:
        side: of the map that keys come from.
        window: side of a window there.
        poolings: still to come, which fix the order of tokens.
        is_pooled: queries come from the map pooled once more.
    """

    def __init__(self, side: int, window: int, poolings: int, is_pooled: bool) -> None:
        super().__init__()
        keys = window_order(side, window, poolings)
        self.size = keys.shape[1]
        if is_pooled:
            side, window, poolings = side // 2, window // 2, poolings - 1
        queries = window_order(side, window, poolings)
        self.query_size = queries.shape[1]
        in_order = torch.arange(queries.numel()).reshape(queries.shape)
        self.is_padded = bool((keys < 0).any())
        # Windows of the first stages are runs of tokens: cutting them is a reshape.
        self.is_contiguous = torch.equal(queries, in_order) and not self.is_padded
        back = torch.zeros(side * side, dtype=torch.long)
        back[queries[queries >= 0]] = in_order[queries >= 0]
        keys = keys.where(keys >= 0, keys.max() + 1)  # the row after the last token
        self.register_buffer("keys", keys.flatten(), persistent=False)
        self.register_buffer("queries", queries.clamp_min(0).flatten(), persistent=False)
        self.register_buffer("back", back, persistent=False)

    def cut(self, tokens: Tensor, index: Tensor, size: int) -> Tensor:
        """(n, T, c) to (n * windows, size, c)."""
        picked = tokens if self.is_contiguous else tokens.index_select(1, index)
        return picked.reshape(-1, size, tokens.shape[2])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        """Attention within windows; the last row of keys and values stands for padding if there is any."""
        q = self.cut(query, self.queries, self.query_size)
        k, v = (self.cut(x, self.keys, self.size) for x in (key, value))
        out = attention(q, k, v, num_heads)
        windows = self.queries.shape[0] // self.query_size
        out = out.reshape(-1, windows * self.query_size, out.shape[2])
        return out if self.is_contiguous else out.index_select(1, self.back)


def rows(layer: nn.Linear, start: int, stop: int) -> nn.Linear:
    """Some output channels of a linear layer."""
    part = nn.Linear(layer.in_features, stop - start)
    part.weight.data, part.bias.data = layer.weight[start:stop], layer.bias[start:stop]
    return part


def without_bias(layer: nn.Linear) -> nn.Linear:
    """A linear layer's product alone."""
    product = nn.Linear(layer.in_features, layer.out_features, bias=False)
    product.weight.data = layer.weight.data
    return product


def after_bias(layer: nn.Linear, bias: Tensor) -> nn.Linear:
    """A linear layer of inputs that lack a bias which they should have, multiplied out in float64."""
    moved = nn.Linear(layer.in_features, layer.out_features)
    moved.weight.data = layer.weight.data
    moved.bias.data = (layer.bias.double() + layer.weight.double() @ bias.double()).float()
    return moved


class TokenBlock(nn.Module):
    """A block of the trunk on tokens in pooling order."""

    def __init__(self, block: Block, side: int, poolings: int) -> None:
        super().__init__()
        self.block, attn = block, block.attn
        width = attn.proj.in_features
        # Apart, so that nothing has to be split.
        q, k, v = (rows(attn.qkv, i * width, (i + 1) * width) for i in range(3))
        self.q, self.k, self.v = without_bias(q), without_bias(k), without_bias(v)
        self.proj, self.shortcut = after_bias(attn.proj, v.bias), None
        if block.proj is not None:
            self.shortcut = without_bias(block.proj)
            self.proj.bias.data = self.proj.bias + block.proj.bias
        # Added behind the pooling of queries, as the shortcut's is: a maximum does not mind.
        self.register_buffer("q_bias", q.bias.detach(), persistent=False)
        self.windows = (
            Windows(side, block.window, poolings, attn.is_pooled) if block.window else None
        )

    def forward(self, x: Tensor) -> Tensor:
        block, attn, windows = self.block, self.block.attn, self.windows
        normed = block.norm1(x)
        query = self.q(normed)
        if attn.is_pooled:
            query = pool(query)
        query = query + self.q_bias
        shortcut = x if self.shortcut is None else pool(self.shortcut(normed))
        if windows is None:
            out = attention(query, self.k(normed), self.v(normed), attn.num_heads)
        else:
            keys = F.pad(normed, (0, 0, 0, 1)) if windows.is_padded else normed
            out = windows.attend(query, self.k(keys), self.v(keys), attn.num_heads)
        x = shortcut + self.proj(out)
        return x + block.mlp(block.norm2(x))


def composed(first: nn.Conv2d, second: nn.Conv2d) -> nn.Linear:
    """Two 1x1 convolutions as one layer on tokens, multiplied out in float64."""
    a, b = first.weight[:, :, 0, 0].double(), second.weight[:, :, 0, 0].double()
    merged = nn.Linear(a.shape[1], b.shape[0])
    merged.weight.data = (b @ a).float()
    merged.bias.data = (b @ first.bias.double() + second.bias.double()).float()
    return merged


class HieraTokens(nn.Module):
    """Slices (n, 3, S, S) to tokens (n, T, C) in raster order and the decoder's finer maps."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        trunk, decoder = model.image_encoder.trunk, model.sam_mask_decoder
        self.trunk, self.stage_ends = trunk, trunk.stage_ends
        self.blocks = nn.ModuleList()
        side, poolings = trunk.side, POOLINGS
        for block in trunk.blocks:
            self.blocks.append(TokenBlock(block, side, poolings))
            if block.attn.is_pooled:
                side, poolings = side // 2, poolings - 1
        deepest, third, second, first = (lateral.conv for lateral in model.image_encoder.neck.convs)
        self.first, self.second = (
            composed(first, decoder.conv_s0),
            composed(second, decoder.conv_s1),
        )
        self.third, self.deepest = on_tokens(third), on_tokens(deepest)
        for level in range(POOLINGS + 1):
            order = pooling_order(trunk.side >> level, POOLINGS - level)
            self.register_buffer(f"order{level}", order, persistent=False)
            self.register_buffer(f"raster{level}", order.argsort(), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        patches = self.trunk.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = patches + self.trunk.position().flatten(1, 2)
        x = x.index_select(1, self.order0)
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                stages.append(x)
        first, second, third, deepest = stages
        # A deep token lies over four neighbours in pooling order.
        sum_of_levels = self.third(third).unflatten(1, (-1, 4)) + self.deepest(deepest).unsqueeze(2)
        tokens = sum_of_levels.flatten(1, 2).index_select(1, self.raster2)
        return tokens, (
            to_map(self.first(first).index_select(1, self.raster0)),
            to_map(self.second(second).index_select(1, self.raster1)),
        )
