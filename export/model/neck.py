"""SAM 2's image encoder: trunk plus feature pyramid (sam2/modeling/backbones/image_encoder.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from export.model.hiera import Hiera
from export.trunks import HieraTrunk


class Lateral(nn.Module):
    """1x1 projection of one trunk stage to the feature width."""

    def __init__(self, dim: int, d_model: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Neck(nn.Module):
    """Four stages to levels of stride 4, 8 and 16; the deepest stage only feeds the third level."""

    def __init__(self, stage_dims: Sequence[int], d_model: int) -> None:
        super().__init__()
        # Named from the lowest resolution up, as the released files are.
        self.convs = nn.ModuleList(Lateral(dim, d_model) for dim in reversed(stage_dims))

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        deepest, third, second, first = (
            conv(stage) for conv, stage in zip(self.convs, reversed(stages), strict=True)
        )
        return (
            first,
            second,
            third + F.interpolate(deepest.float(), scale_factor=2.0, mode="nearest"),
        )


class HieraEncoder(nn.Module):
    """(n, 3, S, S) to three maps of d_model channels at stride 4, 8, 16."""

    def __init__(self, trunk: HieraTrunk, d_model: int, image_size: int) -> None:
        super().__init__()
        self.trunk = Hiera(trunk, image_size)
        self.neck = Neck(trunk.stage_dims, d_model)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.neck(self.trunk(image))
