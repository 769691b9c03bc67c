"""Networks that people take for one of ours, told by a name that only they have."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Beginnings of names, wherever a module starts; the most telling first.
FAMILIES = (
    ("tracker.model.interactive_", "SAM 3.1"),
    ("detector.backbone", "SAM 3"),
    ("backbone.vision_backbone", "SAM 3"),
    ("image_encoder.backbone.stages", "EfficientViT-SAM"),
    ("vision_encoder.backbone.timm_model", "EdgeTAM in the layout of Hugging Face's transformers"),
    ("vision_encoder.layers", "SAM 1 in the layout of Hugging Face's transformers"),
    ("vision_encoder", "a network in the layout of Hugging Face's transformers"),
)
_ORIGINAL = "take the file as it was first published, such as "
WHY = {
    "SAM 3.1": "sixteen of its objects share a memory of 256 channels, which our graphs have no place for",
    "SAM 3": "its encoder takes 90 times the arithmetic of SAM 2.1's smallest, so nobody has had a use for it here yet",
    "EdgeTAM in the layout of Hugging Face's transformers": _ORIGINAL + "edgetam.pt",
    "SAM 1 in the layout of Hugging Face's transformers": _ORIGINAL + "sam_vit_b_01ec64.pth",
    "a network in the layout of Hugging Face's transformers": _ORIGINAL + "sam2.1_hiera_tiny.pt",
}
"""Why a family is refused, and what to do instead, where there is more to say than that it is not supported yet."""
_STARTS = tuple((re.compile(rf"(?:^|\.){re.escape(start)}"), family) for start, family in FAMILIES)


def family_of(names: Iterable[str]) -> str | None:
    """Which other family the names of a checkpoint's tensors belong to, or None."""
    keys = list(names)
    for start, family in _STARTS:
        if any(start.search(name) for name in keys):
            return family
    return None


def why(family: str) -> str:
    """Why a family is refused."""
    return WHY.get(family, "not supported yet")
