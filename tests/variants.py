"""Members of the family too small to be useful, for tests that need real graphs in seconds."""

from __future__ import annotations

from dataclasses import replace

from export.variants import HieraTrunk, Variant

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
