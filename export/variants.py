"""The table of models this project can export: one row of numbers for each, nothing else.

Numbers of the released models: facebookresearch/sam2 configs sam2/ and sam2.1/ (2b90b9f). A row is all that
a smaller or larger member of the family needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtime.bundle.contract import SIZE_STEP, ModelNumbers
from runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Variant:
    """Every number of one model.

    Attributes:
        embed_dim, num_heads: of the trunk's first stage; both double with each stage.
        stages: blocks in each of the four stages.
        global_att_blocks: blocks that attend over the whole map.
        window_spec: window side in each stage.
        pos_embed_size: side of the learned background position map.
        d_model, mem_dim: channels of features and of memory tokens.
        memory_layers, memory_mlp_dim: of memory attention.
        decoder_heads, decoder_mlp_dim, iou_head_dim: of the mask decoder.
        mask_channels: channels of the prompt encoder's mask path before its last projection.
        is_2_1: SAM 2.1's pointer time code and absent-object embedding exist.
        image_size: side in pixels that the weights were trained at; the default for export.
    """

    name: str
    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    pos_embed_size: int = 7
    d_model: int = 256
    mem_dim: int = 64
    memory_layers: int = 4
    memory_mlp_dim: int = 2048
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_dim: int = 256
    mask_channels: int = 16
    num_maskmem: int = 7
    max_obj_ptrs: int = 16
    is_2_1: bool = True
    image_size: int = 1024

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of the four stages, high to low resolution."""
        return tuple(self.embed_dim << stage for stage in range(len(self.stages)))

    def numbers(self, image_size: int) -> ModelNumbers:
        """What the runtime needs to know, at one image size. Raises InputError for a size that does not divide."""
        if image_size < SIZE_STEP * 2 or image_size % SIZE_STEP:
            raise InputError(
                f"image size {image_size} is not a multiple of {SIZE_STEP} from {SIZE_STEP * 2} up"
            )
        return ModelNumbers(
            self.name, image_size, self.d_model, self.mem_dim, self.num_maskmem, self.max_obj_ptrs
        )


_SIZES = (
    Variant("hiera_t", 96, 1, (1, 2, 7, 2), (5, 7, 9)),
    Variant("hiera_s", 96, 1, (1, 2, 11, 2), (7, 10, 13)),
    Variant("hiera_b+", 112, 2, (2, 3, 16, 3), (12, 16, 20), pos_embed_size=14),
    Variant("hiera_l", 144, 2, (2, 6, 36, 4), (23, 33, 43), window_spec=(8, 4, 16, 8)),
)
_TINY = _SIZES[0]

VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in (
        *(replace(size, name=f"sam2.1_{size.name}") for size in _SIZES),
        *(replace(size, name=f"sam2_{size.name}", is_2_1=False) for size in _SIZES),
        # MedSAM2 (bowang-lab, sam2.1_hiera_t512.yaml): tiny's network, trained at 512 pixels.
        replace(_TINY, name="medsam2", image_size=512),
        # The embedded default: a small member of the family trained on synthetic phantoms.
        Variant(
            "sam2.1_hiera_nano",
            embed_dim=32,
            num_heads=1,
            stages=(1, 2, 4, 1),
            global_att_blocks=(4, 6),
            window_spec=(8, 4, 8, 4),
            d_model=128,
            mem_dim=32,
            memory_layers=2,
            memory_mlp_dim=256,
            image_size=256,
        ),
    )
}
