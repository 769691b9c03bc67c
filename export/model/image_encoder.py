"""The image encoder of a model, by the kind of its trunk."""

from __future__ import annotations

from torch import nn

from export.model.neck import HieraEncoder
from export.model.repvit import RepVitEncoder
from export.model.sam1_trunk import Sam1Encoder
from export.model.tiny_vit import TinyVitEncoder
from export.model.vit import VitEncoder
from export.trunks import HieraTrunk, RepVitTrunk, Sam1Trunk, TinyVitTrunk, VitTrunk
from export.variants import Variant

ENCODERS: dict[type, type[nn.Module]] = {
    HieraTrunk: HieraEncoder,
    VitTrunk: VitEncoder,
    RepVitTrunk: RepVitEncoder,
    Sam1Trunk: Sam1Encoder,
    TinyVitTrunk: TinyVitEncoder,
}
"""Kind of trunk to its encoder: a module of (trunk, d_model, image_size) from slices (n, 3, S, S) to a tuple of maps of
d_model channels, high to low resolution, the last of which is what is remembered."""


def image_encoder(variant: Variant, image_size: int) -> nn.Module:
    """Untrained, at one image size."""
    return ENCODERS[type(variant.trunk)](variant.trunk, variant.d_model, image_size)
