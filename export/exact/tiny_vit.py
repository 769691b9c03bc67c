"""LiteMedSAM's and EdgeTAM's convolutions restated: batch norms are part of the convolutions before them.

What a batch norm multiplies and adds does not depend on the image, so that each pair is one convolution with a bias,
multiplied out in float64.
"""

from __future__ import annotations

import copy

from torch import nn

from export.model.tiny_vit import ConvNorm


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
