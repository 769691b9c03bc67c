"""LayerNorm over few channels as a part of the convolution before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from export.exact.narrow_norms import NARROW, CentredNorm, with_narrow_norms
from export.model.attention import LayerNorm2d

ROUNDING = 1e-5


def halving(channels: int) -> nn.Sequential:
    """What each halving of a mask is, with weights whose mean is far from 0."""
    torch.manual_seed(channels)
    norm = LayerNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -1, 1)
    convolution = nn.Conv2d(1, channels, 3, stride=2, padding=1)
    nn.init.normal_(convolution.weight, 0.5)
    return nn.Sequential(convolution, norm, nn.GELU())


@pytest.mark.parametrize("channels", [2, NARROW, NARROW + 1])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_a_narrow_norm_is_the_same(channels: int, scale: float) -> None:
    plain = halving(channels).requires_grad_(False)
    mask = scale * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = plain(mask)
    exact = with_narrow_norms(plain)
    assert isinstance(exact[0], CentredNorm) is (channels <= NARROW)
    assert (exact(mask) - expected).abs().max() < ROUNDING * expected.abs().max()


def test_the_network_is_left_as_it_was() -> None:
    plain = halving(NARROW)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    with_narrow_norms(plain)
    assert isinstance(plain[1], LayerNorm2d)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_the_exported_memory_encoder_norms_no_rows_of_a_mask(graphs: Any) -> None:
    """What is left are norms of the channels that features have."""
    proto = graphs.proto("memory_encoder").graph
    widths = {init.name: init.dims for init in proto.initializer}
    norms = [n for n in proto.node if n.op_type == "LayerNormalization"]
    assert norms
    assert all(widths[norm.input[1]][0] > NARROW for norm in norms)
