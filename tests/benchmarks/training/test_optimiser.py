"""What a step does to matrices and to everything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.training.optimiser import MIN_SIDE, Optimiser, is_matrix


class Small(nn.Module):
    """A layer, a convolution and a table of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 24)
        self.pos_embed = nn.Parameter(torch.ones(32, 32))
        self.convolution = nn.Conv2d(16, 16, 1)


def stepped(model: Small, optimiser: Optimiser, lr: float) -> dict[str, torch.Tensor]:
    """How each parameter is moved by a gradient of one rare and one common direction."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser.zero_grad()
    common, rare = torch.zeros(24, 32), torch.zeros(24, 32)
    common[0, 0], rare[1, 1] = 1.0, 0.01
    (model.layer.weight * (common + rare)).sum().backward()
    model.convolution.weight.sum().backward()
    optimiser.step(lr)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_a_matrix_learns_rare_directions_as_fast_as_common_ones() -> None:
    model = Small()
    nn.init.zeros_(model.layer.weight)  # nothing to decay
    moved = stepped(model, Optimiser(model.named_parameters()), 0.1)
    common, rare = moved["layer.weight"][0, 0], moved["layer.weight"][1, 1]
    assert common < 0 and rare < 0
    assert 0.5 < rare / common < 2
    assert moved["layer.weight"][2:].abs().max() < 0.1 * common.abs()
    # AdamW's first step is the rate.
    assert moved["convolution.weight"].mean() == pytest.approx(-0.1, rel=0.05)
    assert not moved["layer.bias"].any()  # no gradient


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("trunk.blocks.0.mlp.weight", (64, 32), True),
        ("trunk.blocks.0.mlp.weight", (64, MIN_SIDE - 1), False),
        ("trunk.blocks.0.mlp.bias", (64,), False),
        ("neck.conv.weight", (64, 32, 3, 3), False),
        ("sam_mask_decoder.mask_tokens.weight", (64, 64), False),
        ("trunk.pos_embed", (64, 64), False),
        ("maskmem_tpos_enc", (64, 64), False),
    ],
)
def test_a_matrix_maps_vectors(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_matrix(name, torch.zeros(shape)) is expected


def test_a_saved_state_goes_on_as_if_it_had_not_been_saved() -> None:
    torch.manual_seed(0)
    model, twin = Small(), Small()
    first = Optimiser(model.named_parameters())
    stepped(model, first, 0.1)
    twin.load_state_dict(model.state_dict())
    second = Optimiser(twin.named_parameters())
    second.load_state_dict(first.state_dict())
    ours, theirs = stepped(model, first, 0.1), stepped(twin, second, 0.1)
    for name, moved in ours.items():
        assert torch.allclose(moved, theirs[name], rtol=1e-4), name


@pytest.mark.parametrize("part", ["layer.weight", "convolution.weight"])
def test_what_is_not_trained_is_left(part: str) -> None:
    model = Small()
    for name, p in model.named_parameters():
        p.requires_grad_(name == part)
    optimiser = Optimiser(model.named_parameters())
    assert len(optimiser.parts) == 1
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.get_parameter(part).sum().backward()
    optimiser.step(0.1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {part}
