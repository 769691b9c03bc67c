"""Attention with rotary codes, as upstream's memory attention has it (sam2/modeling/sam/transformer.py, 2b90b9f)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from export.model.attention import Attention, attention
from export.model.position import rotate_pairs


class RotaryAttention(Attention):
    """One-head attention with rotary codes on the queries and on the first `num_rotated` keys."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: tuple[Tensor, Tensor],
        num_rotated: int,
        log_weight: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        q = rotate_pairs(q, *angles)
        k = torch.cat([self.turned(k[:, :num_rotated], angles), k[:, num_rotated:]], 1)
        if log_weight is None:
            out = attention(q, k, v, 1)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=log_weight[:, None].to(q.dtype))
        return self.out_proj(out)

    def turned(self, keys: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Projected keys of memories (b, k * T, C), turned; the same angles repeat for every memory."""
        spatial = keys.unflatten(1, (-1, angles[0].shape[0]))
        return rotate_pairs(spatial, *angles).flatten(1, 2)
