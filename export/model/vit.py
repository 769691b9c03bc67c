"""EfficientTAM's image encoder: a plain vision transformer and its neck.

Arithmetic and keys: yformer/EfficientTAM modeling/backbones/{vitdet,image_encoder}.py (abcd061).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import LayerNorm2d
from export.model.hiera import Block
from export.model.sam1_trunk import Patches
from export.trunks import VitTrunk


class Vit(nn.Module):
    """(n, 3, S, S) to (n, c, side, side)."""

    def __init__(self, numbers: VitTrunk, image_size: int) -> None:
        super().__init__()
        self.side = image_size // numbers.stride
        dim, own = numbers.dim, numbers.pos_embed_size
        self.patch_embed = Patches(dim)
        # The first entry is of a class token, which is not there.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + own**2, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim, dim, numbers.num_heads, 0 if i in numbers.global_att_blocks else numbers.window
            )
            for i in range(numbers.depth)
        )
        eye = torch.eye(own)[None, :, :, None]
        cubic = F.interpolate(eye, (self.side, 1), mode="bicubic")[0, :, :, 0].T
        self.register_buffer("cubic", cubic.contiguous(), persistent=False)

    def position(self) -> Tensor:
        """Learned position (1, side, side, c), resized bicubically."""
        own = self.cubic.shape[1]
        learned = self.pos_embed[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
        return (self.cubic @ learned @ self.cubic.T).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.position()
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


class VitNeck(nn.Module):
    """One level: 1x1 and 3x3 convolutions without bias, a LayerNorm over the channels after each."""

    def __init__(self, dim: int, d_model: int) -> None:
        super().__init__()
        level = OrderedDict(
            conv_1x1=nn.Conv2d(dim, d_model, 1, bias=False),
            norm_0=LayerNorm2d(d_model),
            conv_3x3=nn.Conv2d(d_model, d_model, 3, padding=1, bias=False),
            norm_1=LayerNorm2d(d_model),
        )
        self.convs = nn.ModuleList([nn.Sequential(level)])

    def forward(self, x: Tensor) -> Tensor:
        return self.convs[0](x)


class VitEncoder(nn.Module):
    """(n, 3, S, S) to one map of d_model channels."""

    def __init__(self, trunk: VitTrunk, d_model: int, image_size: int) -> None:
        super().__init__()
        self.trunk = Vit(trunk, image_size)
        self.neck = VitNeck(trunk.dim, d_model)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.neck(self.trunk(image)),)
