"""Networks that people take for one of ours, told by a name that only they have."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Beginnings of names, wherever a module starts; the most telling first.
FAMILIES = (
    ("spatial_perceiver", "EdgeTAM"),
    ("image_encoder.trunk.body", "EdgeTAM"),
    ("image_encoder.neck.convs.0.conv_1x1", "EfficientTAM (also Efficient MedSAM2)"),
    ("tracker.model.interactive_", "SAM 3.1"),
    ("detector.backbone", "SAM 3"),
    ("backbone.vision_backbone", "SAM 3"),
    ("image_encoder.backbone.stages", "EfficientViT-SAM"),
    ("vision_encoder.backbone.timm_model", "EdgeTAM in the layout of Hugging Face's transformers"),
    ("vision_encoder.layers", "SAM 1 in the layout of Hugging Face's transformers"),
    ("vision_encoder", "a network in the layout of Hugging Face's transformers"),
)
_STARTS = tuple((re.compile(rf"(?:^|\.){re.escape(start)}"), family) for start, family in FAMILIES)


def family_of(names: Iterable[str]) -> str | None:
    """Which other family the names of a checkpoint's tensors belong to, or None."""
    keys = list(names)
    for start, family in _STARTS:
        if any(start.search(name) for name in keys):
            return family
    return None
