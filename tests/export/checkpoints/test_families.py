from __future__ import annotations

import pytest

from export.checkpoints.families import FAMILIES, WHY, family_of, why
from export.model.sam2 import Sam2
from tests.variants import TOY, TOY_EDGE, TOY_VIT


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("tracker.model.interactive_sam_mask_decoder.iou_token.weight", "SAM 3.1"),
        ("detector.backbone.vision_backbone.trunk.pos_embed", "SAM 3"),
        ("backbone.vision_backbone.trunk.pos_embed", "SAM 3"),
        ("image_encoder.backbone.stages.0.op_list.0.conv.weight", "EfficientViT-SAM"),
        ("vision_encoder.layers.0.attn.rel_pos_h", "SAM 1 in the layout of Hugging Face"),
        ("vision_encoder.backbone.timm_model.stem.0.weight", "EdgeTAM in the layout"),
        ("vision_encoder.backbone.blocks.0.attn.qkv.weight", "a network in the layout"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.model."])
def test_each_is_told_by_a_name_of_its_own(prefix: str, name: str, family: str) -> None:
    found = family_of(["other.weight", prefix + name])
    assert found is not None
    assert found.startswith(family)


def test_ours_is_none_of_them() -> None:
    for variant in (TOY, TOY_VIT, TOY_EDGE):
        names = list(Sam2(variant).state_dict())
        assert family_of(names) is None
        assert family_of([f"tracker.{name}" for name in names]) is None


def test_every_reason_is_of_a_family_that_is_told() -> None:
    families = {family for _, family in FAMILIES}
    assert families >= WHY.keys()
    assert why("EfficientViT-SAM") == "not supported yet"
    assert "256 channels" in why("SAM 3.1") and "arithmetic" in why("SAM 3")
    assert all("first published" in why(f) for f in families if "Hugging Face" in f)
