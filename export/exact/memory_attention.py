"""`memory_attention` restated by exact algebra; `export.model` holds the plain definition that it must equal.

- *Value absorption.* Values carry no rotary code and there is one head, so
  out_proj(P (m Wv + bv)) = (P m) (Wo Wv)^T + (Wo bv + bo): P multiplies the memory's M channels, not C.
- *Weights in the values.* sum_j w_j e^s_j m_j / sum_j w_j e^s_j = (P [w m]) / (P w) with the plain softmax P,
  so one more channel that holds w, and one division, replace any mask. Weight 0 is an exact mask.
- *Half rotation.* The even and odd channels of queries and keys, which rotary codes turn in pairs, are two projections
  whose results need no taking apart. Both sides are permuted alike, so q . k does not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.attention import attention, marked_read
from export.model.memory_attention import MemoryAttentionLayer, RotaryAttention
from export.model.sam2 import Sam2

Angles = tuple[Tensor, Tensor]


def absorbed_value(layer: RotaryAttention) -> nn.Linear:
    """out_proj after v_proj as one linear layer, multiplied out in float64."""
    v, out = layer.v_proj, layer.out_proj
    merged = nn.Linear(v.in_features, out.out_features)
    merged.weight.data = (out.weight.double() @ v.weight.double()).float()
    merged.bias.data = (out.weight.double() @ v.bias.double() + out.bias.double()).float()
    return merged


class Rotated(nn.Module):
    """A query or key projection with its rotary code; even channels come first."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.even, self.odd = (every_second(projection, first) for first in (0, 1))

    def forward(self, x: Tensor, angles: Angles | None) -> Tensor:
        """x (..., T, channels) turned by the tokens' angles, or not at all."""
        even, odd = self.even(x), self.odd(x)
        if angles is not None:
            cos, sin = angles
            even, odd = even * cos - odd * sin, odd * cos + even * sin
        return torch.cat([even, odd], -1)


def every_second(projection: nn.Linear, first: int) -> nn.Linear:
    """The even (first = 0) or odd (1) output channels."""
    half = nn.Linear(projection.in_features, projection.out_features // 2)
    half.weight.data, half.bias.data = projection.weight[first::2], projection.bias[first::2]
    return half


class SelfAttention(nn.Module):
    """What a layer does with a slice's tokens (b, T, C) before it reads memory."""

    def __init__(self, layer: MemoryAttentionLayer) -> None:
        super().__init__()
        own = layer.self_attn
        self.norm, self.v_proj, self.out_proj = layer.norm1, own.v_proj, own.out_proj
        self.q_proj, self.k_proj = Rotated(own.q_proj), Rotated(own.k_proj)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        n = self.norm(x)
        q, k = self.q_proj(n, angles), self.k_proj(n, angles)
        return x + self.out_proj(attention(q, k, self.v_proj(n), 1))


class CrossAttention(nn.Module):
    """A layer from where it reads memory to its end."""

    def __init__(self, layer: MemoryAttentionLayer) -> None:
        super().__init__()
        self.layer, cross = layer, layer.cross_attn_image
        self.q_proj, self.k_proj = Rotated(cross.q_proj), Rotated(cross.k_proj)
        self.out = absorbed_value(cross)

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        spatial_key: Tensor,
        ptr_key: Tensor,
        weighted_value: Tensor,
    ) -> Tensor:
        """x (b, T, C), spatial_key (b, k, L, M), ptr_key (b, pieces, M), weighted_value (b, N, M + 1)."""
        q = self.q_proj(self.layer.norm2(x), angles)
        k = self.k_proj(spatial_key, angles).flatten(1, 2)
        k = torch.cat([k, self.k_proj(ptr_key, None)], 1)
        read = attention(q, k, weighted_value, 1)
        x = x + self.out(marked_read(x, q, k, read[..., :-1] / read[..., -1:]))
        return x + self.layer.mlp(x)


class MemoryAttentionGraph(nn.Module):
    """`memory_attention`. The first layer's self-attention is in `image_encoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model
        layers = model.memory_attention.layers
        self.own = nn.ModuleList(SelfAttention(layer) for layer in layers[1:])
        self.cross = nn.ModuleList(CrossAttention(layer) for layer in layers)

    def forward(
        self,
        attended_features: Tensor,
        memory: Tensor,
        memory_time: Tensor,
        memory_weight: Tensor,
        obj_ptrs: Tensor,
        obj_ptr_pos: Tensor,
        obj_ptr_weight: Tensor,
    ) -> Tensor:
        model, plain = self.model, self.model.memory_attention
        time = F.embedding(memory_time, model.time_codes())
        spatial_key = memory + model.memory_position.tokens() + time.unsqueeze(2)
        ptrs, ptr_code = model.pointer_tokens(obj_ptrs, obj_ptr_pos)
        pieces = obj_ptrs.shape[-1] // memory.shape[-1]
        ptr_weight = obj_ptr_weight.unsqueeze(-1).expand(-1, -1, pieces).flatten(1, 2)
        weight = memory_weight[..., None, None]
        value = torch.cat(
            [
                torch.cat([memory * weight, weight.expand_as(memory[..., :1])], -1).flatten(1, 2),
                torch.cat([ptrs * ptr_weight[..., None], ptr_weight[..., None]], -1),
            ],
            1,
        )
        x, angles, grid = attended_features, plain.angles(), model.numbers.grid
        for i, cross in enumerate(self.cross):
            if i:
                x = self.own[i - 1](x, angles)
            x = cross(x, angles, spatial_key, ptrs + ptr_code, value)
        return plain.norm(x).transpose(1, 2).unflatten(2, (grid, grid))
