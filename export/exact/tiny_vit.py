"""LiteMedSAM's and EdgeTAM's convolutions, and LiteMedSAM's attention, restated.

- *Norms are part of convolutions.* What a batch norm multiplies and adds does not depend on the image, so that each
  pair is one convolution with a bias, multiplied out in float64.
- *Queries, keys and values are products of their own.* One product has them side by side, and taking them apart costs a
  twentieth of the encoder's time. The scale of scores is in the queries' weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from export.model.tiny_vit import BiasedAttention, ConvNorm, TinyVitBlock, TinyVitEncoder


class SplitAttention(nn.Module):
    """Attention within windows (n, tokens, c)."""

    def __init__(self, plain: BiasedAttention) -> None:
        super().__init__()
        self.plain, self.window = plain, plain.window
        query, key, value = parts_of(plain)
        scale = (plain.qkv.in_features // plain.num_heads) ** -0.5
        self.query, self.key, self.value = linear(query * scale), linear(key), linear(value)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain.norm(x)
        q, k, v = (
            part(x).unflatten(-1, (self.plain.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        shares = (q @ k.transpose(-2, -1) + self.plain.bias()).softmax(-1)
        return self.plain.proj((shares @ v).transpose(1, 2).flatten(2))


def parts_of(plain: BiasedAttention) -> Tensor:
    """Weights of queries, keys and values, each with its bias as last column: (3, dim, dim + 1)."""
    weight = torch.cat([plain.qkv.weight, plain.qkv.bias[:, None]], 1)
    # Each head has its query, key and value beside each other.
    return weight.unflatten(0, (plain.num_heads, 3, -1)).transpose(0, 1).flatten(1, 2)


def linear(weight: Tensor) -> nn.Linear:
    """A product whose bias is the last column."""
    made = nn.Linear(weight.shape[1] - 1, len(weight))
    made.weight.data, made.bias.data = weight[:, :-1].clone(), weight[:, -1].clone()
    return made.requires_grad_(False)


def with_norm(pair: ConvNorm) -> nn.Conv2d:
    """A convolution and its batch norm as one."""
    conv, norm = pair.c, pair.bn
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    merged = copy.deepcopy(conv)
    merged.weight.data = (conv.weight.double() * gain[:, None, None, None]).float()
    merged.bias = nn.Parameter((norm.bias.double() - gain * norm.running_mean.double()).float())
    return merged.requires_grad_(False)


def without_norms(encoder: nn.Module) -> nn.Module:
    """A copy of an encoder with plain convolutions."""
    merged = copy.deepcopy(encoder)
    for module in list(merged.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                setattr(module, name, with_norm(child))
    return merged


def restated(encoder: TinyVitEncoder) -> nn.Module:
    """A copy of LiteMedSAM's encoder with plain convolutions, and with attention in three products."""
    merged = without_norms(encoder)
    for module in list(merged.modules()):
        if isinstance(module, TinyVitBlock):
            module.attn = SplitAttention(module.attn)
    return merged
