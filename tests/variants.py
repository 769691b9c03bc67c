"""Members of the family too small to be useful, for tests that need real graphs in seconds."""

from __future__ import annotations

from dataclasses import replace

from export.trunks import HieraTrunk, RepVitTrunk, Sam1Trunk, TinyVitTrunk, VitTrunk
from export.variants import Latents, Variant

# Windows of 14 and 7 cells are larger than its maps at 128 pixels, so padding is exercised as in the large models.
TOY = Variant(
    "toy",
    HieraTrunk(embed_dim=16, num_heads=1, stages=(1, 2, 3, 1), global_att_blocks=(4,)),
    d_model=64,
    mem_dim=16,
    memory_layers=2,
    memory_mlp_dim=96,
    image_size=128,
)

# Three windows across at 128 pixels, the last of which is padded.
TOY_VIT = Variant(
    "toy_vit",
    VitTrunk(dim=32, num_heads=2, depth=4, window=3, global_att_blocks=(1, 3), pos_embed_size=6),
    d_model=64,
    mem_dim=16,
    memory_layers=2,
    memory_mlp_dim=96,
    is_2_1=False,
    image_size=128,
)

TOY_VIT_1 = replace(TOY_VIT, name="toy_vit_1", pooling=1)
TOY_VIT_2 = replace(TOY_VIT, name="toy_vit_2", pooling=2)

TOY_EDGE = Variant(
    "toy_edge",
    RepVitTrunk((16, 24, 32, 40), (2, 1, 3, 1)),
    d_model=64,
    mem_dim=16,
    memory_layers=2,
    memory_mlp_dim=96,
    latents=Latents(placeless=12, side=4),
    is_2_1=False,
    image_size=128,
)

# The channels that the kernel of memory attention is made for, and little else.
WIDE = replace(
    TOY,
    name="wide",
    trunk=HieraTrunk(embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), global_att_blocks=(3,)),
    d_model=256,
    mem_dim=64,
    memory_layers=3,
    memory_mlp_dim=64,
    decoder_mlp_dim=64,
    iou_head_dim=64,
    image_size=64,
)

# Networks of single images. Windows do not divide these maps either.
TOY_SAM = Variant(
    "toy_sam",
    Sam1Trunk(dim=32, depth=2, num_heads=2, global_blocks=(1,), window=6),
    d_model=64,
    decoder_mlp_dim=96,
    iou_head_dim=64,
    image_size=128,
    profile="sam",
)
TOY_MEDSAM = replace(TOY_SAM, name="toy_medsam", profile="medsam")
TOY_LITEMEDSAM = replace(
    TOY_SAM,
    name="toy_litemedsam",
    trunk=TinyVitTrunk((16, 32, 40, 64), (1, 1, 2, 1), (2, 4, 5, 8), (7, 7, 6, 7)),
    image_size=80,
    profile="litemedsam",
)
