"""The table of models this project can export: one row of numbers for each, nothing else.

Numbers of the released models: facebookresearch/sam2 configs sam2/ and sam2.1/ (2b90b9f). A row is all that a smaller
or larger member of a family needs; another family adds a kind of trunk (`export.trunks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from export.trunks import HieraTrunk, RepVitTrunk, Sam1Trunk, TinyVitTrunk, Trunk, VitTrunk
from runtime.bundle.contract import PROFILES, ModelNumbers
from runtime.bundle.manifest import MIN_IMAGE_SIZE
from runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Latents:
    """Of EdgeTAM's memories, which are few tokens whatever the map.

    Attributes:
        placeless: tokens that look at the whole map.
        side: windows along a side of the map, at each of which one token looks.
        depth: layers of the perceiver that makes them.
    """

    placeless: int = 256
    side: int = 16
    depth: int = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """Every number of one model.

    Attributes:
        trunk: of the image encoder; its class says of which kind.
        d_model, mem_dim: channels of features and of memory tokens.
        memory_layers, memory_mlp_dim: of memory attention.
        decoder_heads, decoder_mlp_dim, iou_head_dim: of the mask decoder.
        mask_channels: channels of the prompt encoder's mask path before its last projection.
        pooling: which of EfficientTAM's ways of pooling the keys of memories 2x2 (its `_1` and `_2`, see
            `export.model.pooled_attention`); 0 is none.
        latents: of EdgeTAM's memories; None keeps a token for each cell. A network with them works at one size.
        is_2_1: SAM 2.1's pointer time code and absent-object embedding exist.
        image_size: side in pixels that the weights were trained at; the default for export.
        profile: how images are prepared, which also says of which kind a model is (`runtime.bundle.contract.PROFILES`):
            all but SAM 2's segment single images, at one size.
    """

    name: str
    trunk: Trunk
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
    pooling: int = 0
    latents: Latents | None = None
    is_2_1: bool = True
    image_size: int = 1024
    profile: str = "sam2"

    @property
    def kind(self) -> str:
        """A key of `runtime.bundle.contract.KINDS`."""
        return next(kind for kind, profiles in PROFILES.items() if self.profile in profiles)

    def numbers(self, image_size: int) -> ModelNumbers:
        """What the runtime needs to know, at one image size. Raises InputError for a size that does not divide."""
        step = self.trunk.size_step * (2 if self.pooling else 1)
        if image_size < MIN_IMAGE_SIZE or image_size % step:
            raise InputError(
                f"image size {image_size} is not a multiple of {step} from {MIN_IMAGE_SIZE} up"
            )
        grid = image_size // self.trunk.stride
        network = ModelNumbers(
            self.name,
            kind=self.kind,
            profile=self.profile,
            image_size=image_size,
            prompt_size=image_size,
            grid=grid,
            d_model=self.d_model,
            has_high_res=self.trunk.has_high_res,
        )
        is_fixed = self.kind == "image" or self.latents is not None
        if is_fixed and image_size != self.image_size:
            raise InputError(
                f"{self.name} works at {self.image_size} pixels alone, where its positions were learned"
            )
        if self.kind == "image":
            return network
        tokens = grid**2
        if self.latents is not None:
            tokens = self.latents.placeless + self.latents.side**2
        return replace(
            network,
            mem_dim=self.mem_dim,
            memory_tokens=tokens,
            keys_per_memory=tokens // (4 if self.pooling else 1),
            num_maskmem=self.num_maskmem,
            max_obj_ptrs=self.max_obj_ptrs,
        )


_SIZES = (
    Variant("hiera_t", HieraTrunk(96, 1, (1, 2, 7, 2), (5, 7, 9))),
    Variant("hiera_s", HieraTrunk(96, 1, (1, 2, 11, 2), (7, 10, 13))),
    Variant("hiera_b+", HieraTrunk(112, 2, (2, 3, 16, 3), (12, 16, 20), pos_embed_size=14)),
    Variant("hiera_l", HieraTrunk(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8))),
)
_TINY = _SIZES[0]
_VIT_B = Sam1Trunk(768, 12, 12, (2, 5, 8, 11))

# EfficientTAM (yformer/EfficientTAM abcd061), with SAM 2.0's memory.
_EFFICIENT = (
    Variant("s", VitTrunk(384, 6), is_2_1=False),
    Variant("ti", VitTrunk(192, 3), is_2_1=False),
)

VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in (
        *(replace(size, name=f"sam2.1_{size.name}") for size in _SIZES),
        *(replace(size, name=f"sam2_{size.name}", is_2_1=False) for size in _SIZES),
        # MedSAM2 (bowang-lab, sam2.1_hiera_t512.yaml): tiny's network, trained at 512 pixels.
        replace(_TINY, name="medsam2", image_size=512),
        *(replace(size, name=f"efficienttam_{size.name}") for size in _EFFICIENT),
        *(
            replace(size, name=f"efficienttam_{size.name}_512x512", image_size=512)
            for size in _EFFICIENT
        ),
        *(
            replace(size, name=f"efficienttam_{size.name}_{way}", pooling=way)
            for size in _EFFICIENT
            for way in (1, 2)
        ),
        # Efficient MedSAM2 (wanglab/MedSAM2): EfficientTAM's networks, trained at 512 pixels.
        replace(_EFFICIENT[0], name="eff_medsam2_small", image_size=512),
        replace(_EFFICIENT[1], name="eff_medsam2_tiny", image_size=512),
        # EdgeTAM (facebookresearch/EdgeTAM 9cc44bf, configs/edgetam.yaml).
        Variant(
            "edgetam",
            RepVitTrunk((48, 96, 192, 384), (2, 2, 14, 2)),
            memory_layers=2,
            latents=Latents(),
            is_2_1=False,
        ),
        # The embedded default: a small member of the family trained on synthetic phantoms.
        Variant(
            "sam2.1_hiera_nano",
            HieraTrunk(32, 1, (1, 2, 4, 1), (4, 6), window_spec=(8, 4, 8, 4)),
            d_model=128,
            mem_dim=32,
            memory_layers=2,
            memory_mlp_dim=256,
            image_size=256,
        ),
        # SAM 1 (facebookresearch/segment-anything build_sam.py, dca509f), and MedSAM, which is its smallest.
        Variant("sam_vit_b", _VIT_B, profile="sam"),
        Variant("sam_vit_l", Sam1Trunk(1024, 24, 16, (5, 11, 17, 23)), profile="sam"),
        Variant("sam_vit_h", Sam1Trunk(1280, 32, 16, (7, 15, 23, 31)), profile="sam"),
        Variant("medsam_vit_b", _VIT_B, profile="medsam"),
        # LiteMedSAM (bowang-lab/MedSAM, branch LiteMedSAM b0fab47).
        Variant(
            "litemedsam",
            TinyVitTrunk((64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)),
            image_size=256,
            profile="litemedsam",
        ),
    )
}
