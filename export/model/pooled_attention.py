"""EfficientTAM's cheaper reading of memories (its `_1` and `_2`): keys and values pooled 2x2, after keys have turned.

Upstream pools only where a row reads more tokens than its image has, which is more than one memory; a single one is
read in full (modeling/sam/transformer.py EfficientRoPEAttention1 and 2, abcd061). Here a row's memories are those that
weigh something. Way 1 adds ln 4 to the logits of pooled keys, as if each stood for four; way 2 adds 2 ln 2 to every
component of the keys themselves, as upstream has it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.model.position import rotate_pairs
from export.model.rotary_attention import RotaryAttention

POOLED = 4  # tokens in one
SHIFT = 2 * math.log(2)


def pool_tokens(tokens: Tensor) -> Tensor:
    """2x2 mean pooling of tokens (..., side * side, c) in raster order: (..., side * side / 4, c)."""
    side, channels = math.isqrt(tokens.shape[-2]), tokens.shape[-1]
    # Rows in pairs, then tokens in pairs: of more than five axes OpenVINO takes means by a slow kernel.
    rows = tokens.unflatten(-2, (side // 2, 2, side)).flatten(-2).mean(-2)
    return rows.flatten(-2).unflatten(-1, (-1, 2, channels)).mean(-2)


class PooledAttention(RotaryAttention):
    """One-head attention to pooled memories, or to a single one in full, row by row.

    Args:
        dim, kv_dim: as in `export.model.attention.Attention`.
        pooling: 1 or 2.
    """

    def __init__(self, dim: int, kv_dim: int, pooling: int) -> None:
        super().__init__(dim, kv_dim=kv_dim)
        self.pooling = pooling

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: tuple[Tensor, Tensor],
        num_rotated: int,
        log_weight: Tensor | None = None,
    ) -> Tensor:
        tokens = query.shape[1]
        if log_weight is None:
            log_weight = torch.zeros(key.shape[:2])
        out = []
        for row in range(len(query)):
            is_read = log_weight[row] > -math.inf
            memories = int(is_read[:num_rotated].sum()) // tokens
            q, k, v, w = (x[row : row + 1] for x in (query, key, value, log_weight))
            k, v, w = (x[:, is_read] for x in (k, v, w))
            attend = super().forward if memories == 1 else self._pooled
            out.append(attend(q, k, v, angles, memories * tokens, w))
        return torch.cat(out)

    def _pooled(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: tuple[Tensor, Tensor],
        num_rotated: int,
        log_weight: Tensor,
    ) -> Tensor:
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        tokens = q.shape[1]
        q = rotate_pairs(q, *angles)
        spatial = k[:, :num_rotated].unflatten(1, (-1, tokens))
        pooled_key = pool_tokens(rotate_pairs(spatial, *angles)).flatten(1, 2)
        pooled_value = pool_tokens(v[:, :num_rotated].unflatten(1, (-1, tokens))).flatten(1, 2)
        weight = log_weight[:, :num_rotated:POOLED]
        if self.pooling == 1:
            weight = weight + math.log(POOLED)
        else:
            pooled_key = pooled_key + SHIFT
        k = torch.cat([pooled_key, k[:, num_rotated:]], 1)
        v = torch.cat([pooled_value, v[:, num_rotated:]], 1)
        mask = torch.cat([weight, log_weight[:, num_rotated:]], 1)[:, None]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype)))
