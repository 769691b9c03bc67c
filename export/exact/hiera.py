"""SAM 2's trunk and neck restated by exact algebra; `export.model` holds the plain definition that they must equal.

- *Tokens by window and pooling* (`export.exact.windows`). Windows are runs of tokens, the neck's upsampling is one
  addition, and no map is transposed or gathered between blocks.
- *No bias of keys or values.* A key's bias adds one number to all scores of a query, which softmax does not see. Shares
  sum up to one, so that a value's bias is one of what comes out, and goes through the projection once and for all.
- *No work on padding.* A padded key is the projection of a row of zeros: without a bias zeros again, which need no
  product, and nothing asks for what padded queries would find.
- *Neck composition.* A 1x1 convolution after another (lateral, then conv_s0 or conv_s1) is one.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.exact.tokens import on_tokens, to_map
from export.exact.windows import Windows, pool, token_order
from export.model.attention import attention
from export.model.hiera import Block
from export.model.sam2 import Sam2

POOLINGS = 3  # of 2x2, one between each two of the four stages


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
    """A block of the trunk on tokens in order, of a map of side * side."""

    def __init__(self, block: Block, side: int) -> None:
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
        self.windows = Windows(side, block.window, attn.is_pooled) if block.window else None

    def forward(self, x: Tensor) -> Tensor:
        block, attn, windows = self.block, self.block.attn, self.windows
        normed = block.norm1(x)
        query = self.q(normed)
        if attn.is_pooled:
            query = pool(query)
        query = query + self.q_bias
        shortcut = x if self.shortcut is None else pool(self.shortcut(normed))
        attend = attention if windows is None else windows
        out = attend(query, self.k(normed), self.v(normed), attn.num_heads)
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
        side, reaches = trunk.side, []  # sides of windows, in tokens of the first map
        for block in trunk.blocks:
            self.blocks.append(TokenBlock(block, side))
            reaches.append(block.window * (trunk.side // side))
            side = side // 2 if block.attn.is_pooled else side
        # Of one order windows are runs if they lie within a cell or are all as wide.
        widest, cell = max(reaches), 1 << POOLINGS
        assert {reach for reach in reaches if reach > cell} <= {widest}
        deepest, third, second, first = (lateral.conv for lateral in model.image_encoder.neck.convs)
        self.first, self.second = (
            composed(first, decoder.conv_s0),
            composed(second, decoder.conv_s1),
        )
        self.third, self.deepest = on_tokens(third), on_tokens(deepest)
        for level in range(POOLINGS + 1):
            order = token_order(trunk.side >> level, POOLINGS - level, widest >> level)
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
        # A deep token lies over four neighbours.
        sum_of_levels = self.third(third).unflatten(1, (-1, 4)) + self.deepest(deepest).unsqueeze(2)
        tokens = sum_of_levels.flatten(1, 2).index_select(1, self.raster2)
        return tokens, (
            to_map(self.first(first).index_select(1, self.raster0)),
            to_map(self.second(second).index_select(1, self.raster1)),
        )
