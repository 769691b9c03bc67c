"""`memory_attention` restated by exact algebra; `export.model` holds the plain definition that it must equal.

- *Value absorption.* Values carry no rotary code and there is one head, so
  out_proj(P (m Wv + bv)) = (P m) (Wo Wv)^T + (Wo bv + bo): P multiplies the memory's M channels, not C.
- *Weights in the values.* sum_j w_j e^s_j m_j / sum_j w_j e^s_j = (P [w m]) / (P w) with the plain softmax P,
  so one more channel that holds w, and one division, replace any mask. Weight 0 is an exact mask.
- *Half rotation*, and what keys memories are read by: see `export.exact.memory_keys`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.exact.memory_keys import Angles, KeySource, Rotated, sources_of
from export.model.attention import attention, marked_read
from export.model.memory_attention import MemoryAttentionLayer
from export.model.parts import only
from export.model.rotary_attention import RotaryAttention
from export.model.sam2 import Sam2


def absorbed_value(layer: RotaryAttention) -> nn.Linear:
    """out_proj after v_proj as one linear layer, multiplied out in float64."""
    v, out = layer.v_proj, layer.out_proj
    merged = nn.Linear(v.in_features, out.out_features)
    merged.weight.data = (out.weight.double() @ v.weight.double()).float()
    merged.bias.data = (out.weight.double() @ v.bias.double() + out.bias.double()).float()
    return merged


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
        sources: Sequence[KeySource],
        weighted_value: Tensor,
    ) -> Tensor:
        """x (b, T, C), sources of N keys in all, weighted_value (b, N, M + 1)."""
        q = self.q_proj(self.layer.norm2(x), angles)
        k = torch.cat([source.keys(self.k_proj) for source in sources], 1)
        read = attention(q, k, weighted_value, 1)
        result = read[..., :-1] / read[..., -1:]
        if not any(source.pooling for source in sources):  # whose keys are not counted by memories
            result = marked_read(x, q, k, result)
        x = x + self.out(result)
        return x + self.layer.mlp(x)


class MemoryAttentionGraph(nn.Module):
    """`memory_attention`. The first layer's self-attention is in `image_encoder`."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = only(
            model, "memory_attention", "memory_position", "obj_ptr_tpos_proj", "distance_code"
        )
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
        x, angles, grid = attended_features, plain.angles(), model.numbers.grid
        sources, values = sources_of(model, memory, spatial_key, memory_weight, angles)
        ptr_value = torch.cat([ptrs * ptr_weight[..., None], ptr_weight[..., None]], -1)
        value = torch.cat([*values, ptr_value], 1)
        sources = [*sources, KeySource(ptrs + ptr_code, None)]
        for i, cross in enumerate(self.cross):
            if i:
                x = self.own[i - 1](x, angles)
            x = cross(x, angles, sources, value)
        return plain.norm(x).transpose(1, 2).unflatten(2, (grid, grid))
