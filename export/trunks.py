"""Numbers of image encoders: a class for each kind of trunk, which `export.model.image_encoder` builds by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol


class Trunk(Protocol):
    """What a model's row says of any kind of trunk."""

    @property
    def stride(self) -> int:
        """Image pixels along a feature cell."""

    @property
    def size_step(self) -> int:
        """What an image size must be a multiple of."""

    @property
    def has_high_res(self) -> bool:
        """Whether the mask decoder also sees finer features than those that are remembered."""

    @property
    def num_blocks(self) -> int:
        """How deep it is."""

    @property
    def channels(self) -> int:
        """How wide it is at first."""

    @property
    def stem(self) -> str:
        """Name of a weight in an image encoder that has `channels` on its first side."""


@dataclass(frozen=True, slots=True)
class HieraTrunk:
    """SAM 2's.

    Attributes:
        embed_dim, num_heads: of the first stage; both double with each stage.
        stages: blocks in each of the four stages.
        global_att_blocks: blocks that attend over the whole map.
        window_spec: window side in each stage.
        pos_embed_size: side of the learned background position map.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    pos_embed_size: int = 7

    stride: ClassVar[int] = 16  # of patches 4, then two poolings
    size_step: ClassVar[int] = 32  # of the last stage
    has_high_res: ClassVar[bool] = True
    stem: ClassVar[str] = "trunk.patch_embed.proj.weight"

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of the four stages, high to low resolution."""
        return tuple(self.embed_dim << stage for stage in range(len(self.stages)))

    @property
    def num_blocks(self) -> int:
        """Of all stages."""
        return sum(self.stages)

    @property
    def channels(self) -> int:
        """Of the first stage."""
        return self.embed_dim


@dataclass(frozen=True, slots=True)
class VitTrunk:
    """EfficientTAM's: a plain vision transformer, of which only the last block's output leaves.

    Attributes:
        dim, num_heads, depth: of all blocks.
        window: side of a window, in cells.
        global_att_blocks: blocks that attend over the whole map.
        pos_embed_size: side of the learned position map.
    """

    dim: int
    num_heads: int
    depth: int = 12
    window: int = 14
    global_att_blocks: tuple[int, ...] = (2, 5, 8, 11)
    pos_embed_size: int = 14

    stride: ClassVar[int] = 16
    size_step: ClassVar[int] = 16
    has_high_res: ClassVar[bool] = False
    stem: ClassVar[str] = "trunk.patch_embed.proj.weight"

    @property
    def num_blocks(self) -> int:
        """Of one width."""
        return self.depth

    @property
    def channels(self) -> int:
        """Of every block."""
        return self.dim


@dataclass(frozen=True, slots=True)
class Sam1Trunk:
    """SAM 1's: a plain vision transformer.

    Attributes:
        dim, depth, num_heads: channels, blocks, and heads of each block.
        global_blocks: blocks that attend over the whole map.
        window: side in cells within which the others attend.
    """

    dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window: int = 14

    stride: ClassVar[int] = 16  # of patches
    size_step: ClassVar[int] = 16
    has_high_res: ClassVar[bool] = False
    stem: ClassVar[str] = "patch_embed.proj.weight"

    @property
    def num_blocks(self) -> int:
        """All alike."""
        return self.depth

    @property
    def channels(self) -> int:
        """From the first block to the last."""
        return self.dim


@dataclass(frozen=True, slots=True)
class TinyVitTrunk:
    """LiteMedSAM's: TinyViT whose first and last stages do not stride.

    Attributes:
        dims, depths: channels and blocks of the four stages; the first one's blocks are convolutions.
        num_heads, windows: heads and side of the windows, in cells, of the others.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]

    stride: ClassVar[int] = 4  # of two mergings
    size_step: ClassVar[int] = 4
    has_high_res: ClassVar[bool] = False
    stem: ClassVar[str] = "patch_embed.seq.2.c.weight"

    @property
    def num_blocks(self) -> int:
        """Of all stages."""
        return sum(self.depths)

    @property
    def channels(self) -> int:
        """Of the first stage."""
        return self.dims[0]


@dataclass(frozen=True, slots=True)
class RepVitTrunk:
    """EdgeTAM's: convolutions in four stages.

    Attributes:
        dims, depths: channels and blocks of the four stages.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]

    stride: ClassVar[int] = 16
    size_step: ClassVar[int] = 32  # of the last stage
    has_high_res: ClassVar[bool] = True
    stem: ClassVar[str] = "trunk.body.stem.conv2.c.weight"

    @property
    def num_blocks(self) -> int:
        """Of all stages."""
        return sum(self.depths)

    @property
    def channels(self) -> int:
        """Of the first stage."""
        return self.dims[0]
