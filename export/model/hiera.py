"""Hiera trunk: a hierarchical vision transformer with windowed and a few global blocks.

Keys and arithmetic follow sam2/modeling/backbones/hieradet.py (facebookresearch/sam2 2b90b9f). Window sizes
and paddings depend on the image size alone, so they are plain numbers when the graph is traced.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import MLP, attention
from export.trunks import HieraTrunk

PATCH_STRIDE = 4
NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Overlapping 7x7 patches at stride 4: (n, 3, S, S) to (n, S/4, S/4, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


def pool(x: Tensor) -> Tensor:
    """2x2 max pooling of (n, h, w, c)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def to_windows(x: Tensor, side: int) -> Tensor:
    """(n, h, w, c) to (n * windows, side, side, c); a ragged edge is filled with zeros, which stay unmasked."""
    h, w, c = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(-1, rows, side, columns, side, c)
    return x.transpose(2, 3).reshape(-1, side, side, c)


def from_windows(windows: Tensor, h: int, w: int) -> Tensor:
    """Inverse of `to_windows`, cropped to (n, h, w, c)."""
    side, c = windows.shape[2:]
    rows, columns = -(-h // side), -(-w // side)
    x = windows.reshape(-1, rows, columns, side, side, c).transpose(2, 3)
    return x.reshape(-1, rows * side, columns * side, c)[:, :h, :w]


class WindowAttention(nn.Module):
    """Attention inside one window or map (n, h, w, c); a pooled query gives a map of half the side."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, is_pooled: bool) -> None:
        super().__init__()
        self.num_heads, self.is_pooled = num_heads, is_pooled
        self.qkv = nn.Linear(dim, dim_out * 3)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.is_pooled:
            q = pool(q)
        h, w = q.shape[1:3]
        out = attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), self.num_heads)
        return self.proj(out).unflatten(1, (h, w))


class Block(nn.Module):
    """Windowed (side > 0) or global attention, then an MLP; the first block of a stage pools by two."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim, dim_out, num_heads, is_pooled=dim != dim_out)
        self.norm2 = nn.LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = MLP(dim_out, 4 * dim_out, dim_out, activation=nn.GELU)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = x if self.proj is None else pool(self.proj(normed))
        if self.window:
            attended = self.attn(to_windows(normed, self.window))
            attended = from_windows(attended, *shortcut.shape[1:3])
        else:
            attended = self.attn(normed)
        x = shortcut + attended
        return x + self.mlp(self.norm2(x))


class Hiera(nn.Module):
    """(n, 3, S, S) to the four stage outputs (n, c, side, side), high to low resolution."""

    def __init__(self, numbers: HieraTrunk, image_size: int) -> None:
        super().__init__()
        self.side = image_size // PATCH_STRIDE
        self.patch_embed = PatchEmbed(numbers.embed_dim)
        background = (1, numbers.embed_dim, numbers.pos_embed_size, numbers.pos_embed_size)
        self.pos_embed = nn.Parameter(torch.zeros(background))
        window = numbers.window_spec[0]
        self.pos_embed_window = nn.Parameter(torch.zeros(1, numbers.embed_dim, window, window))
        self.blocks = nn.ModuleList()
        self.stage_ends: list[int] = []
        dim = numbers.embed_dim
        for stage, depth in enumerate(numbers.stages):
            for i in range(depth):
                # A stage's first block pools inside the windows of the stage before it.
                lagged = numbers.window_spec[max(stage - 1, 0) if i == 0 else stage]
                window = 0 if len(self.blocks) in numbers.global_att_blocks else lagged
                dim_out = numbers.stage_dims[stage]
                self.blocks.append(Block(dim, dim_out, numbers.num_heads << stage, window))
                dim = dim_out
            self.stage_ends.append(len(self.blocks) - 1)
        eye = torch.eye(numbers.pos_embed_size)[None, :, :, None]
        cubic = F.interpolate(eye, (self.side, 1), mode="bicubic")[0, :, :, 0].T
        self.register_buffer("cubic", cubic.contiguous(), persistent=False)

    def position(self) -> Tensor:
        """Learned position (1, side, side, c): background resized bicubically plus the tiled window."""
        background = self.cubic @ self.pos_embed @ self.cubic.T
        tiles = self.side // self.pos_embed_window.shape[-1]
        return (background + self.pos_embed_window.tile(1, 1, tiles, tiles)).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed(image) + self.position()
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs
