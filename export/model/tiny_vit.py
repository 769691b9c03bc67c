"""LiteMedSAM's image encoder: TinyViT, convolutions first and windowed attention later, on maps that stay large.

Keys and arithmetic: tiny_vit_sam.py (bowang-lab/MedSAM, branch LiteMedSAM b0fab47), which is MobileSAM's with a stem
that does not stride. The neck behind it is SAM 1's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.hiera import from_windows, to_windows
from export.model.sam1_trunk import sam1_neck
from export.trunks import TinyVitTrunk

EXPANSION = 4  # of inverted bottlenecks and of the MLP's hidden layer


class ConvNorm(nn.Sequential):
    """A convolution without bias and batch norm, named as TinyViT names them."""

    def __init__(
        self, dim: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            dim, dim_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(dim_out)


class Stem(nn.Module):
    """Two 1x1 convolutions of stride 1: (n, 3, S, S) to (n, channels, S, S)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, dim // 2), nn.GELU(), ConvNorm(dim // 2, dim))

    def forward(self, image: Tensor) -> Tensor:
        return self.seq(image)


class Bottleneck(nn.Module):
    """Widen, look at neighbours, narrow; the activation comes after the sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = EXPANSION * dim
        self.conv1, self.conv3 = ConvNorm(dim, wide), ConvNorm(wide, dim)
        self.conv2 = ConvNorm(wide, wide, kernel=3, groups=wide)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class Merging(nn.Module):
    """To the next stage's channels, and to half its side where `stride` is 2."""

    def __init__(self, dim: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = ConvNorm(dim, dim_out), ConvNorm(dim_out, dim_out)
        self.conv2 = ConvNorm(dim_out, dim_out, kernel=3, stride=stride, groups=dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class BiasedAttention(nn.Module):
    """Attention within windows (n, window^2, c), with a learned bias for each distance, whatever its sign."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        at = torch.arange(window)
        self.register_buffer("away", (at[:, None] - at[None, :]).abs(), persistent=False)

    def bias(self) -> Tensor:
        """(heads, window^2, window^2)."""
        index = self.away[:, None, :, None] * self.window + self.away[None, :, None, :]
        return self.attention_biases[:, index.flatten(2).flatten(0, 1)]

    def forward(self, x: Tensor) -> Tensor:
        # Each head has its query, key and value beside each other.
        heads = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, 3, -1))
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias()
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class HiddenLayer(nn.Module):
    """Norm, linear, activation, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, EXPANSION * dim), nn.Linear(EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyVitBlock(nn.Module):
    """Windowed attention, a depthwise convolution, an MLP; padding comes before the norm and is not masked."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.attn = BiasedAttention(dim, num_heads, window)
        self.local_conv = ConvNorm(dim, dim, kernel=3, groups=dim)
        self.mlp = HiddenLayer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, h, w, c)."""
        window = self.attn.window
        windows = to_windows(x, window)
        attended = self.attn(windows.flatten(1, 2)).unflatten(1, (window, window))
        x = x + from_windows(attended, *x.shape[1:3])
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)


class TinyVitStage(nn.Module):
    """Blocks, then merging into the next stage if there is one; maps are (n, c, h, w)."""

    def __init__(self, blocks: list[nn.Module], downsample: Merging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        is_convolutional = isinstance(self.blocks[0], Bottleneck)
        x = x if is_convolutional else x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        x = x if is_convolutional else x.permute(0, 3, 1, 2)
        return x if self.downsample is None else self.downsample(x)


class TinyVitEncoder(nn.Module):
    """Stem, four stages and neck: (n, 3, S, S) to (n, d_model, S/4, S/4)."""

    def __init__(self, trunk: TinyVitTrunk, d_model: int, image_size: int) -> None:
        super().__init__()
        self.patch_embed = Stem(trunk.dims[0])
        self.layers = nn.ModuleList()
        last = len(trunk.dims) - 1
        for i, (dim, depth) in enumerate(zip(trunk.dims, trunk.depths, strict=True)):
            blocks = [
                TinyVitBlock(dim, trunk.num_heads[i], trunk.windows[i]) if i else Bottleneck(dim)
                for _ in range(depth)
            ]
            merging = None
            if i < last:
                merging = Merging(dim, trunk.dims[i + 1], stride=1 if i + 1 == last else 2)
            self.layers.append(TinyVitStage(blocks, merging))
        self.neck = sam1_neck(trunk.dims[-1], d_model)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return (self.neck(x),)
