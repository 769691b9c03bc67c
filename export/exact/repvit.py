"""EdgeTAM's trunk and neck restated by exact algebra; `export.model` holds the plain definition that they must equal.

*Folding.* A batch norm is part of the convolution before it (`export.exact.tiny_vit`); then the depthwise 3x3, the
depthwise 1x1 and the identity of a token mixer are one depthwise 3x3, added up in float64.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from export.exact.hiera import composed
from export.exact.tiny_vit import with_norm, without_norms
from export.model.repvit import RepVitBlock, RepVitBody, TokenMixer
from export.model.sam2 import Sam2


def folded(body: RepVitBody) -> nn.Module:
    """A copy of the body with plain convolutions."""
    plain = copy.deepcopy(body)
    for block in plain.modules():
        if isinstance(block, RepVitBlock):
            block.token_mixer = folded_mixer(block.token_mixer)
    return without_norms(plain)


def folded_mixer(mixer: TokenMixer) -> nn.Conv2d:
    """A token mixer as one depthwise 3x3."""
    wide, point = with_norm(mixer.conv), with_norm(mixer.conv1)
    weight = wide.weight.double().clone()
    weight[:, :, 1, 1] += point.weight.double()[:, :, 0, 0] + 1
    assert wide.bias is not None and point.bias is not None
    wide.weight.data = weight.float()
    wide.bias.data = (wide.bias.double() + point.bias.double()).float()
    return wide


def as_conv(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Two 1x1 convolutions as one."""
    layer = composed(first, second)
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1)
    conv.weight.data, conv.bias.data = layer.weight.data[:, :, None, None], layer.bias.data
    return conv


class RepVitTokens(nn.Module):
    """Slices (n, 3, S, S) to tokens (n, T, C) in raster order and the decoder's finer maps."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        encoder, decoder = model.image_encoder, model.sam_mask_decoder
        self.body = folded(encoder.trunk.body)
        deepest, third, second, first = (lateral.conv for lateral in encoder.neck.convs)
        self.first, self.second = as_conv(first, decoder.conv_s0), as_conv(second, decoder.conv_s1)
        self.third, self.deepest = third, deepest

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        first, second, third, deepest = self.body(image)
        upsampled = F.interpolate(self.deepest(deepest), scale_factor=2.0, mode="nearest")
        features = self.third(third) + upsampled
        return features.flatten(2).transpose(1, 2), (self.first(first), self.second(second))
