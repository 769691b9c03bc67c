"""EfficientTAM's trunk and neck restated by exact algebra; `export.model` holds the plain definition that they equal.

Blocks are those of SAM 2's trunk without pooling, on tokens by window (`export.exact.hiera`): nothing is projected of
padding. The neck's first half works on tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.exact.hiera import TokenBlock
from export.exact.tokens import on_tokens, to_map
from export.exact.windows import token_order
from export.model.attention import LayerNorm2d
from export.model.sam2 import Sam2


class TokenNorm(nn.Module):
    """A LayerNorm over the channels of a map, as it is over tokens."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, tokens: Tensor) -> Tensor:
        norm = self.norm
        return F.layer_norm(tokens, norm.weight.shape, norm.weight, norm.bias, norm.eps)


class VitTokens(nn.Module):
    """Slices (n, 3, S, S) to tokens (n, T, C) in raster order; there are no finer maps."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.trunk = model.image_encoder.trunk
        side = self.trunk.side
        self.blocks = nn.ModuleList(TokenBlock(block, side) for block in self.trunk.blocks)
        order = token_order(side, 0, max(block.window for block in self.trunk.blocks))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("raster", order.argsort(), persistent=False)
        level = model.image_encoder.neck.convs[0]
        self.narrow, self.spread = on_tokens(level.conv_1x1), level.conv_3x3
        self.before, self.after = TokenNorm(level.norm_0), TokenNorm(level.norm_1)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        patches = self.trunk.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = patches + self.trunk.position().flatten(1, 2)
        x = x.index_select(1, self.order)
        for block in self.blocks:
            x = block(x)
        narrow = self.narrow(x).index_select(1, self.raster)
        spread = self.spread(to_map(self.before(narrow)))
        return self.after(spread.flatten(2).transpose(1, 2)), ()
