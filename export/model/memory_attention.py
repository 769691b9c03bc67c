"""Memory attention as upstream defines it: the plain statement that the exported form is held to.

Arithmetic and keys: sam2/modeling/memory_attention.py and sam/transformer.py (2b90b9f). What differs: rotary
codes are real-valued, and slots may carry weights, stated here as log-weights on the attention logits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.model.perceiver import LatentAttention
from export.model.pooled_attention import PooledAttention
from export.model.position import RotaryAngles, SineMap
from export.model.rotary_attention import RotaryAttention
from export.variants import Variant

POSITION_SCALE = 0.1  # share of the sine code added to the input, memory_attention.py


def cross_attention(variant: Variant) -> RotaryAttention:
    """How a layer reads memories."""
    dim, mem_dim = variant.d_model, variant.mem_dim
    if variant.latents is not None:
        return LatentAttention(dim, mem_dim, variant.latents)
    if variant.pooling:
        return PooledAttention(dim, mem_dim, variant.pooling)
    return RotaryAttention(dim, kv_dim=mem_dim)


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to the memories, MLP; each behind a LayerNorm, each added."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        dim = variant.d_model
        self.self_attn = RotaryAttention(dim)
        self.cross_attn_image = cross_attention(variant)
        self.linear1 = nn.Linear(dim, variant.memory_mlp_dim)
        self.linear2 = nn.Linear(variant.memory_mlp_dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def attend_self(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens (b, T, C) after self-attention: the layer up to where it reads memory."""
        n = self.norm1(x)
        return x + self.self_attn(n, n, n, angles, n.shape[1])

    def mlp(self, x: Tensor) -> Tensor:
        """The feed-forward branch, without its residual."""
        return self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """Condition a slice's tokens on memory tokens, in two calls: one that needs the slice alone, one for the rest."""

    def __init__(self, variant: Variant, grid: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(variant) for _ in range(variant.memory_layers)
        )
        self.norm = nn.LayerNorm(variant.d_model)
        self.position = SineMap(variant.d_model, grid)
        self.angles = RotaryAngles(variant.d_model, grid)

    def attend_self(self, tokens: Tensor) -> Tensor:
        """A slice's tokens (b, T, C) with their position, after the first layer's self-attention."""
        x = tokens + POSITION_SCALE * self.position.tokens()
        return self.layers[0].attend_self(x, self.angles())

    def forward(
        self,
        attended: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        num_spatial: int,
        log_weight: Tensor | None,
    ) -> Tensor:
        """Everything after `attend_self`.

        Args:
            attended: (b, T, C).
            memory, memory_pos: (b, N, M), of which the last `N - num_spatial` belong to object pointers.
            num_spatial: tokens of memory that have a place in the image.
            log_weight: (b, N), or None where all weights are one.

        Returns (b, T, C).
        """
        x, angles = attended, self.angles()
        key = memory + memory_pos
        for i, layer in enumerate(self.layers):
            if i:
                x = layer.attend_self(x, angles)
            n = layer.norm2(x)
            x = x + layer.cross_attn_image(n, key, memory, angles, num_spatial, log_weight)
            x = x + layer.mlp(x)
        return self.norm(x)
