"""Maps as tokens and back."""

from __future__ import annotations

from torch import Tensor, nn


def on_tokens(conv: nn.Conv2d) -> nn.Linear:
    """A 1x1 convolution as a layer on tokens."""
    layer = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
    layer.weight.data = conv.weight[:, :, 0, 0]
    if conv.bias is not None:
        layer.bias.data = conv.bias
    return layer


def to_map(tokens: Tensor) -> Tensor:
    """(n, side * side, c) in raster order to (n, c, side, side)."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
