"""The network of a row of the variants table, whatever it does."""

from __future__ import annotations

from export.model.sam1 import Sam1
from export.model.sam2 import Sam2
from export.variants import Variant

Network = Sam2 | Sam1

NETWORKS: dict[str, type[Sam2] | type[Sam1]] = {"volume": Sam2, "image": Sam1}
"""By kind of bundle (`runtime.bundle.contract.KINDS`)."""


def network(variant: Variant, image_size: int | None = None) -> Network:
    """Untrained, at an image size; None is the one it was trained at. Raises InputError for a size it cannot have."""
    return NETWORKS[variant.kind](variant, image_size)
