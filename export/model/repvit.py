"""EdgeTAM's image encoder: RepViT and SAM 2's feature pyramid.

Keys and arithmetic: timm's RepViT in its legacy form (timm 1.0.31 repvit.py), as facebookresearch/EdgeTAM 9cc44bf uses
it. Every convolution has a batch norm of its own; all of it folds into plain convolutions (`export.exact.repvit`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.model.neck import Neck
from export.model.tiny_vit import ConvNorm
from export.trunks import RepVitTrunk

SE_RATIO, SE_STEP = 0.25, 8  # channels of a squeeze are a quarter, rounded to eights
EXPANSION = 2  # of the channel mixers


class TokenMixer(nn.Module):
    """Depthwise 3x3 and 1x1, and what they were given."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = ConvNorm(dim, dim, 3, groups=dim)
        self.conv1 = ConvNorm(dim, dim, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x


class SqueezeExcite(nn.Module):
    """Channels weighed by what their means say."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        squeezed = max(SE_STEP, int(dim * SE_RATIO + SE_STEP / 2) // SE_STEP * SE_STEP)
        self.fc1, self.fc2 = nn.Conv2d(dim, squeezed, 1), nn.Conv2d(squeezed, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with a GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, EXPANSION * dim)
        self.conv2 = ConvNorm(EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.conv1(x)))


class RepVitBlock(nn.Module):
    """A token mixer, perhaps a squeeze, and a channel mixer that is added."""

    def __init__(self, dim: int, has_squeeze: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(dim)
        self.se = SqueezeExcite(dim) if has_squeeze else nn.Identity()
        self.channel_mixer = ChannelMixer(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """Half the side and other channels, between two stages."""

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.pre_block = RepVitBlock(dim, has_squeeze=False)
        self.spatial_downsample = ConvNorm(dim, dim, 3, stride=2, groups=dim)
        self.channel_downsample = ConvNorm(dim, dim_out)
        self.ffn = ChannelMixer(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class RepVitStage(nn.Module):
    """Blocks of one width; every other one has a squeeze, the first included."""

    def __init__(self, dim: int, dim_out: int, depth: int) -> None:
        super().__init__()
        self.downsample = Downsample(dim, dim_out) if dim != dim_out else nn.Identity()
        self.blocks = nn.Sequential(*(RepVitBlock(dim_out, i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class RepVitStem(nn.Module):
    """(n, 3, S, S) to (n, c, S/4, S/4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, dim // 2, 3, stride=2)
        self.conv2 = ConvNorm(dim // 2, dim, 3, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.conv1(image)))


class RepVitBody(nn.Module):
    """(n, 3, S, S) to the outputs of the four stages, high to low resolution."""

    def __init__(self, numbers: RepVitTrunk) -> None:
        super().__init__()
        dims = (numbers.dims[0], *numbers.dims)
        self.stem = RepVitStem(dims[0])
        for i, depth in enumerate(numbers.depths):
            self.add_module(f"stages_{i}", RepVitStage(dims[i], dims[i + 1], depth))

    @property
    def stages(self) -> list[nn.Module]:
        """In order."""
        return [module for name, module in self.named_children() if name != "stem"]

    def forward(self, image: Tensor) -> list[Tensor]:
        x, outputs = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class RepVit(nn.Module):
    """The body under the name that EdgeTAM's files have for it."""

    def __init__(self, numbers: RepVitTrunk) -> None:
        super().__init__()
        self.body = RepVitBody(numbers)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.body(image)


class RepVitEncoder(nn.Module):
    """(n, 3, S, S) to three maps of d_model channels at stride 4, 8, 16."""

    def __init__(self, trunk: RepVitTrunk, d_model: int, image_size: int) -> None:
        super().__init__()
        self.trunk = RepVit(trunk)
        self.neck = Neck(trunk.dims, d_model)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.neck(self.trunk(image))
