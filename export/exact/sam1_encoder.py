"""SAM 1's image encoder restated by exact algebra; `export.model.sam1_trunk` holds the plain definition.

- *Relative positions in wider heads.* A bias that is a number for the key's row plus one for its column is a product:
  of the query's numbers, one for each row and each column of the map, with two ones that mark the key's own. Both are
  appended to queries and keys, so that attention stays one node and its scores are never written out: for one map of
  64 x 64 cells and 12 heads the bias alone would be 800 MB.
- *No work on padding.* One row of zeros is projected and windows pick it as often as they need it.
- *Scale in the weights.* Queries and the codes of distances are scaled when they are exported, so that what the node
  multiplies by, which is of the wider head, comes out as the plain form's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.exact.hiera import rows
from export.exact.tokens import to_map
from export.model.attention import attention
from export.model.sam1_trunk import RelativeAttention, RelativeBlock, Sam1Encoder


class WideHeads(nn.Module):
    """Attention of one block on tokens (n, side * side, c) in raster order."""

    def __init__(self, attn: RelativeAttention) -> None:
        super().__init__()
        dim, side, heads = attn.proj.in_features, attn.side, attn.num_heads
        self.num_heads, self.side, self.proj = heads, side, attn.proj
        head = dim // heads
        # The node divides by the root of the wider head, the plain form by that of the head itself.
        widened = ((head + 2 * side) / head) ** 0.5
        self.q, self.k, self.v = (rows(attn.qkv, i * dim, (i + 1) * dim) for i in range(3))
        self.q.weight.data, self.q.bias.data = self.q.weight * widened, self.q.bias * widened
        # The bias is of the query before it is scaled.
        along_y, along_x = (code.transpose(1, 2) * head**0.5 for code in attn.codes())
        self.register_buffer("along_y", along_y[:, None].contiguous(), persistent=False)
        self.register_buffer("along_x", along_x.contiguous(), persistent=False)
        self.register_buffer("axis", torch.eye(side), persistent=False)

    def marks(self) -> Tensor:
        """Which row and column each key lies in, as ones among zeros: (side * side, 2 side)."""
        shape = (self.side, self.side, self.side)
        rows, columns = self.axis[:, None].expand(shape), self.axis[None].expand(shape)
        return torch.cat([rows, columns], -1).flatten(0, 1)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Projected tokens (maps, side * side, c) to what attention makes of them, in the same shape."""
        q = queries.unflatten(2, (self.num_heads, -1)).unflatten(1, (self.side, self.side))
        wide = torch.cat([q, q @ self.along_y, q @ self.along_x], -1)  # (maps, y, x, heads, wide)
        marks = self.marks()[:, None].expand(-1, self.num_heads, -1)
        k = keys.unflatten(2, (self.num_heads, -1))
        wide_keys = torch.cat([k, marks.expand(k.shape[0], -1, -1, -1)], -1)
        return attention(
            wide.flatten(3).flatten(1, 2), wide_keys.flatten(2), values, self.num_heads
        )


class WindowIndex(nn.Module):
    """How tokens of a map are cut into windows, padded to whole ones, and put back.

    Args:
        grid: side of the map.
        window: side of a window.
    """

    def __init__(self, grid: int, window: int) -> None:
        super().__init__()
        across = -(-grid // window)
        token = torch.full((across * window, across * window), grid * grid)  # the row of padding
        token[:grid, :grid] = torch.arange(grid * grid).reshape(grid, grid)
        tiles = token.reshape(across, window, across, window).transpose(1, 2).flatten()
        back = torch.zeros(grid * grid + 1, dtype=torch.long)
        back[tiles] = torch.arange(tiles.numel())
        self.size = window * window
        self.register_buffer("token", tiles, persistent=False)
        self.register_buffer("back", back[:-1].clone(), persistent=False)

    def cut(self, tokens: Tensor) -> Tensor:
        """Tokens (n, T + 1, c), padding's last, to windows (n * windows, window^2, c)."""
        return tokens.index_select(1, self.token).reshape(-1, self.size, tokens.shape[2])

    def join(self, windows: Tensor) -> Tensor:
        """Windows to tokens (n, T, c)."""
        tokens = windows.reshape(-1, self.token.shape[0], windows.shape[2])
        return tokens.index_select(1, self.back)


class RelativeTokenBlock(nn.Module):
    """A block of the trunk on tokens (n, T, c) in raster order."""

    def __init__(self, block: RelativeBlock, grid: int) -> None:
        super().__init__()
        self.block, self.wide = block, WideHeads(block.attn)
        self.windows = WindowIndex(grid, block.window) if block.window else None

    def forward(self, x: Tensor) -> Tensor:
        block, wide, windows = self.block, self.wide, self.windows
        normed = block.norm1(x)
        if windows is None:
            out = wide(wide.q(normed), wide.k(normed), wide.v(normed))
        else:
            padded = F.pad(normed, (0, 0, 0, 1))
            q, k, v = (windows.cut(part(padded)) for part in (wide.q, wide.k, wide.v))
            out = windows.join(wide(q, k, v))
        x = x + wide.proj(out)
        return x + block.mlp(block.norm2(x))


class Sam1EncoderTokens(nn.Module):
    """`image_encoder` of SAM 1 and MedSAM: (n, 3, S, S) to (n, C, G, G)."""

    def __init__(self, encoder: Sam1Encoder) -> None:
        super().__init__()
        self.encoder, self.grid = encoder, encoder.pos_embed.shape[1]
        self.blocks = nn.ModuleList(RelativeTokenBlock(b, self.grid) for b in encoder.blocks)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        encoder = self.encoder
        x = encoder.patch_embed.proj(image).flatten(2).transpose(1, 2)
        x = x + encoder.pos_embed.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        return (encoder.neck(to_map(x)),)
