"""Prompt encoder: points and a dense mask to embeddings (sam2/modeling/sam/prompt_encoder.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from export.model.attention import LayerNorm2d
from export.variants import Variant
from runtime.bundle.contract import LABEL_PAD, ModelNumbers


class FourierCode(nn.Module):
    """Random Fourier code of positions in [0, 1]^2, (x, y) order: (..., 2) to (..., dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, dim // 2))

    def forward(self, xy: Tensor) -> Tensor:
        angle = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], -1)


class PromptEncoder(nn.Module):
    """Points (b, q, 2) in pixels of a square of `prompt_size` and a mask (b, 1, 4 G, 4 G) to decoder inputs."""

    def __init__(self, variant: Variant, numbers: ModelNumbers) -> None:
        super().__init__()
        dim, channels = variant.d_model, variant.mask_channels
        self.prompt_size = numbers.prompt_size
        self.pe_layer = FourierCode(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, channels // 4, 2, stride=2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.Conv2d(channels // 4, channels, 2, stride=2),
            LayerNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, dim, 1),
        )
        centre = (torch.arange(numbers.grid).float() + 0.5) / numbers.grid
        self.register_buffer("cell_centres", centre, persistent=False)

    def points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Sparse tokens (b, q + 1, C): one for each point and the pad that upstream always appends."""
        coords = torch.cat([coords, torch.zeros_like(coords[:, :1])], 1)
        labels = torch.cat([labels, torch.full_like(labels[:, :1], LABEL_PAD)], 1)
        return self.tokens(coords, labels)

    def tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Sparse tokens (b, q, C) of points (b, q, 2) alone, with no pad but those among them."""
        code = self.pe_layer((coords + 0.5) / self.prompt_size)
        kinds = torch.cat(
            [self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)]
        )
        is_point = (labels != LABEL_PAD).unsqueeze(-1)
        return torch.where(is_point, code, 0.0) + kinds[labels - LABEL_PAD]

    def dense(self, mask: Tensor, has_mask: Tensor) -> Tensor:
        """Dense embedding (b, C, G, G): of the mask where there is one, else the no-mask embedding."""
        nothing = self.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return torch.where(has_mask[:, None, None, None], self.mask_downscaling(mask), nothing)

    def image_position(self) -> Tensor:
        """Fourier code of the cell centres, (G * G, C)."""
        grid = self.cell_centres.shape[0]
        x = self.cell_centres[None, :].expand(grid, grid)
        y = self.cell_centres[:, None].expand(grid, grid)
        return self.pe_layer(torch.stack([x, y], -1).flatten(0, 1))
