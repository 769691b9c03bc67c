"""Memory encoder: a mask and a slice's features to one memory (sam2/modeling/memory_encoder.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import LayerNorm2d
from export.variants import Variant
from runtime.bundle.contract import LOW_RES_SCALE, MASK_SCALE


class MaskDownSampler(nn.Module):
    """Mask (b, 1, 16 G, 16 G) to (b, C, G, G): each halving multiplies the channels by four."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for _ in range((LOW_RES_SCALE * MASK_SCALE).bit_length() - 1):
            layers += [
                nn.Conv2d(channels, 4 * channels, 3, stride=2, padding=1),
                LayerNorm2d(4 * channels),
                nn.GELU(),
            ]
            channels *= 4
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, dim, 1))

    def forward(self, mask: Tensor) -> Tensor:
        return self.encoder(mask)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, two pointwise layers, scaled residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.dwconv(x)).movedim(1, -1)
        rows = self.gamma * self.pwconv2(F.gelu(self.pwconv1(rows)))
        return x + rows.movedim(-1, 1)


class Fuser(nn.Module):
    """Two ConvNeXt blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNextBlock(dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Features after `pix_feat_proj` (b, C, G, G) and scaled mask (b, 1, 16 G, 16 G) to a memory map (b, M, G, G)."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(variant.d_model)
        self.pix_feat_proj = nn.Conv2d(variant.d_model, variant.d_model, 1)
        self.fuser = Fuser(variant.d_model)
        self.out_proj = nn.Conv2d(variant.d_model, variant.mem_dim, 1)

    def forward(self, projected: Tensor, mask: Tensor) -> Tensor:
        return self.out_proj(self.fuser(projected + self.mask_downsampler(mask)))
