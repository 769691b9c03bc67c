"""EdgeTAM's memories: few latent tokens in place of a map (modeling/perceiver.py, facebookresearch/EdgeTAM 9cc44bf).

Half of them look at the whole map and have no place in it; the other half look at a window each, keep its place, and
are the only ones whose keys turn (`LatentAttention`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.model.attention import attention
from export.model.hiera import to_windows
from export.model.position import RotaryAngles, SineMap, rotate_pairs
from export.model.rotary_attention import RotaryAttention
from export.variants import Latents


def feed_forward(dim: int) -> nn.Sequential:
    """LayerNorm, four times the channels, GELU, and back; no biases."""
    wide = 4 * dim
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, wide, bias=False),
        nn.GELU(),
        nn.Linear(wide, dim, bias=False),
    )


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of the channels, as slices: the tracer makes lists of other ways to split."""
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


class LatentRead(nn.Module):
    """Latents (b, l, M) look at tokens (b, n, M), whose position is added to keys and values alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_x, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, latents: Tensor, tokens: Tensor, position: Tensor | None) -> Tensor:
        k, v = halves(self.to_kv(self.norm_x(tokens)))
        if position is not None:
            k, v = k + position, v + position
        return self.to_out(attention(self.to_q(self.norm_latents(latents)), k, v, 1))


class LatentSelf(nn.Module):
    """Latents (b, l, M) look at each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.norm(latents)
        k, v = halves(self.to_kv(x))
        # What is alone sees itself, whatever it asks.
        return self.to_out(v if x.shape[1] == 1 else attention(self.to_q(x), k, v, 1))


class LatentLayer(nn.Module):
    """Both, each with its feed-forward, all added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn, self.ff = LatentRead(dim), feed_forward(dim)
        self.self_attn, self.self_ff = LatentSelf(dim), feed_forward(dim)

    def forward(self, latents: Tensor, tokens: Tensor, position: Tensor | None) -> Tensor:
        latents = latents + self.attn(latents, tokens, position)
        latents = latents + self.ff(latents)
        latents = latents + self.self_attn(latents)
        return latents + self.self_ff(latents)


class Perceiver(nn.Module):
    """A memory map (b, M, G, G) to latent tokens (b, L, M): those without a place, then those with one.

    Raises ValueError for a grid that the windows do not divide.
    """

    def __init__(self, numbers: Latents, dim: int, grid: int) -> None:
        super().__init__()
        if grid % numbers.side:
            raise ValueError(f"a map of {grid} cells cannot be cut into {numbers.side} windows")
        self.latents = nn.Parameter(torch.zeros(numbers.placeless, dim))
        self.latents_2d = nn.Parameter(torch.zeros(numbers.side**2, dim))
        self.layers = nn.ModuleList(LatentLayer(dim) for _ in range(numbers.depth))
        self.norm = nn.LayerNorm(dim)
        self.map_position = SineMap(dim, grid)
        self.window = grid // numbers.side

    def forward(self, memory: Tensor) -> Tensor:
        rows = memory.shape[0]
        cells = memory.permute(0, 2, 3, 1)
        tokens, position = cells.flatten(1, 2), self.map_position.tokens()
        placeless = self.latents.expand(rows, -1, -1)
        windows = to_windows(cells, self.window).flatten(1, 2)
        placed = self.latents_2d.expand(rows, -1, -1).reshape(-1, 1, memory.shape[1])
        for layer in self.layers:
            placeless = layer(placeless, tokens, position)
            placed = layer(placed, windows, None)
        placed = placed.reshape(rows, -1, memory.shape[1])
        return self.norm(torch.cat([placeless, placed], 1))


class LatentPosition(nn.Module):
    """The position code of a memory's latent tokens: zeros for those without a place."""

    def __init__(self, numbers: Latents, dim: int) -> None:
        super().__init__()
        self.placeless, self.placed = numbers.placeless, SineMap(dim, numbers.side)

    def tokens(self) -> Tensor:
        """(L, dim)."""
        placed = self.placed.tokens()
        return torch.cat([torch.zeros(self.placeless, placed.shape[1]), placed])


class LatentAttention(RotaryAttention):
    """One-head attention to latent tokens: queries turn by the image's map, placed keys by the latents' own."""

    def __init__(self, dim: int, kv_dim: int, numbers: Latents) -> None:
        super().__init__(dim, kv_dim=kv_dim)
        self.placeless, self.key_angles = numbers.placeless, RotaryAngles(dim, numbers.side)

    def turned(self, keys: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        own = self.key_angles()
        memories = keys.unflatten(1, (-1, self.placeless + own[0].shape[0]))
        still, placed = memories[:, :, : self.placeless], memories[:, :, self.placeless :]
        return torch.cat([still, rotate_pairs(placed, *own)], 2).flatten(1, 2)

    def every_angle(self) -> tuple[Tensor, Tensor]:
        """Angles of all latent tokens (L, dim / 2); those without a place turn by nothing."""
        cos, sin = self.key_angles()
        shape = (self.placeless, cos.shape[1])
        return torch.cat([torch.ones(shape), cos]), torch.cat([torch.zeros(shape), sin])
