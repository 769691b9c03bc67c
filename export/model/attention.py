"""Scaled dot-product attention, and the layers built on it.

Run eagerly, `attention` is PyTorch's own. The tracer meets one node of ONNX instead, ONNX Runtime's
`MultiHeadAttention`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARK_DOMAIN, MARK = "medsam2_runtime", "MemoryRead"
"""Domain and operator that mark a read of memory, until `export.to_onnx` has written it down."""


def attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(head dim)) v, unmasked.

    Shapes: query (b, s, heads * d), key (b, l, heads * d), value (b, l, heads * e) to (b, s, heads * e).
    """
    run = _attention_node if torch.compiler.is_exporting() else _attention
    return run(query, key, value, num_heads)


def _attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _attention_node(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """What the tracer sees of `attention`."""
    out: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query, key, value),
        {"num_heads": num_heads},
        dtype=query.dtype,
        shape=(*query.shape[:2], value.shape[2]),
        version=1,
    )
    return out


def marked_read(residual: Tensor, query: Tensor, key: Tensor, result: Tensor) -> Tensor:
    """`result`, which the tracer sees marked as a read of memory (see `runtime.bundle.memory_reads`)."""
    if not torch.compiler.is_exporting():
        return result
    out: Tensor = torch.onnx.ops.symbolic(
        f"{MARK_DOMAIN}::{MARK}",
        (residual, query, key, result),
        dtype=result.dtype,
        shape=result.shape,
        version=1,
    )
    return out


class MLP(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, *dims: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(dims))
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Projected attention between two token sequences (b, tokens, channels)."""

    def __init__(
        self, dim: int, num_heads: int = 1, downsample: int = 1, kv_dim: int | None = None
    ) -> None:
        super().__init__()
        inner, kv_dim = dim // downsample, kv_dim or dim
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(kv_dim, inner)
        self.v_proj = nn.Linear(kv_dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        return self.out_proj(attention(q, k, v, self.num_heads))


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of (n, c, h, w)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        rows = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return rows.movedim(-1, 1)
