"""Position codes, all real-valued: sine maps, axial rotary angles, pointer distances.

Tables are kept as their small separable factors and spread out in `forward`, so that exported graphs stay
small and every engine folds them when it loads.
Formulas: sam2/modeling/position_encoding.py and sam2_utils.py (facebookresearch/sam2 2b90b9f).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


def _frequencies(count: int) -> Tensor:
    """temperature^(2 floor(j/2) / count) for j below count, fp32."""
    j = torch.arange(count, dtype=torch.float32)
    return TEMPERATURE ** (2 * (j // 2) / count)


class SineMap(nn.Module):
    """2-D sine code: (channels, grid, grid), all y channels first, sine and cosine interleaved."""

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        position = torch.arange(1, grid + 1, dtype=torch.float32) / (grid + 1e-6) * (2 * math.pi)
        angle = position / _frequencies(channels // 2)[:, None]  # (channels / 2, grid)
        even = torch.arange(channels // 2)[:, None] % 2 == 0
        self.register_buffer("axis", torch.where(even, angle.sin(), angle.cos()), persistent=False)
        self.grid = grid

    def forward(self) -> Tensor:
        shape = (-1, self.grid, self.grid)
        return torch.cat([self.axis[:, :, None].expand(shape), self.axis[:, None, :].expand(shape)])

    def tokens(self) -> Tensor:
        """The same code as (grid * grid, channels)."""
        return self().flatten(1).T


class RotaryAngles(nn.Module):
    """Axial rotary code: cosines and sines (grid * grid, dim / 2); the first half of the pairs turns with x."""

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__()
        rate = 1.0 / TEMPERATURE ** (torch.arange(0, dim, 4)[: dim // 4].float() / dim)
        angle = torch.outer(torch.arange(grid).float(), rate)  # (grid, dim / 4)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.grid = grid

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._spread(self.cos), self._spread(self.sin)

    def _spread(self, axis: Tensor) -> Tensor:
        shape = (self.grid, self.grid, -1)
        return torch.cat([axis[None].expand(shape), axis[:, None].expand(shape)], -1).flatten(0, 1)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent channel pairs (2 m, 2 m + 1) of x (..., tokens, dim) by the given angles, in fp32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


class DistanceCode(nn.Module):
    """1-D sine code of a signed distance: (...,) to (..., dim), all sines first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", _frequencies(dim // 2), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        angle = distance.unsqueeze(-1) / self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)
