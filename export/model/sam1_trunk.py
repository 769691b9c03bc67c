"""SAM 1's trunk: a plain vision transformer whose attention knows relative positions along both axes.

Keys and arithmetic: segment_anything/modeling/image_encoder.py (facebookresearch/segment-anything dca509f). The neck
behind it is also LiteMedSAM's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.model.attention import LayerNorm2d
from export.model.hiera import from_windows, to_windows
from export.trunks import Sam1Trunk

NORM_EPS = 1e-6


class TwoLayers(nn.Module):
    """Linear, activation, linear, named as SAM 1 names them."""

    def __init__(
        self, dim: int, hidden: int, dim_out: int, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim_out)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class RelativeAttention(nn.Module):
    """Attention over a square map (n, side, side, c), with a bias for each distance along y and along x.

    The bias is the product of the query, before it is scaled, with a code of the distance.
    """

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads, self.side = num_heads, side
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        codes = (2 * side - 1, dim // num_heads)
        self.rel_pos_h = nn.Parameter(torch.zeros(codes))
        self.rel_pos_w = nn.Parameter(torch.zeros(codes))

    def codes(self) -> tuple[Tensor, Tensor]:
        """Codes of the distances of each query's row, and column, to each key's: (side, side, head size)."""
        at = torch.arange(self.side)
        distance = at[:, None] - at[None, :] + self.side - 1
        return self.rel_pos_h[distance], self.rel_pos_w[distance]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).movedim(-2, 1).flatten(2, 3)
            for part in self.qkv(x).chunk(3, -1)
        )  # (n, heads, tokens, head size)
        along_y, along_x = self.codes()
        cells = q.unflatten(2, (self.side, self.side))
        bias_y = torch.einsum("nayxc,ykc->nayxk", cells, along_y).unsqueeze(-1)
        bias_x = torch.einsum("nayxc,xkc->nayxk", cells, along_x).unsqueeze(-2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + (bias_y + bias_x).flatten(4, 5).flatten(2, 3)
        out = scores.softmax(-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2)).unflatten(1, (self.side, self.side))


class RelativeBlock(nn.Module):
    """Windowed (window > 0) or global attention, then an MLP; padding comes after the norm and is not masked."""

    def __init__(self, dim: int, num_heads: int, window: int, grid: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = RelativeAttention(dim, num_heads, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = TwoLayers(dim, 4 * dim, dim, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        if self.window:
            windows = self.attn(to_windows(normed, self.window))
            attended = from_windows(windows, *x.shape[1:3])
        else:
            attended = self.attn(normed)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """16x16 patches at stride 16: (n, 3, S, S) to (n, S/16, S/16, channels)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, Sam1Trunk.stride, stride=Sam1Trunk.stride)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


def sam1_neck(dim: int, d_model: int) -> nn.Sequential:
    """1x1 and 3x3 convolution to the feature width, each with a norm over channels."""
    return nn.Sequential(
        nn.Conv2d(dim, d_model, 1, bias=False),
        LayerNorm2d(d_model),
        nn.Conv2d(d_model, d_model, 3, padding=1, bias=False),
        LayerNorm2d(d_model),
    )


class Sam1Encoder(nn.Module):
    """Trunk and neck: (n, 3, S, S) to one map (n, d_model, S/16, S/16)."""

    def __init__(self, trunk: Sam1Trunk, d_model: int, image_size: int) -> None:
        super().__init__()
        grid = image_size // trunk.stride
        self.patch_embed = Patches(trunk.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, trunk.dim))
        self.blocks = nn.ModuleList(
            RelativeBlock(
                trunk.dim, trunk.num_heads, 0 if i in trunk.global_blocks else trunk.window, grid
            )
            for i in range(trunk.depth)
        )
        self.neck = sam1_neck(trunk.dim, d_model)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return (self.neck(x.permute(0, 3, 1, 2)),)
