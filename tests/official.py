"""Official packages of other families, which lie in folders of their own (`benchmarks.speed.official_parts`)."""

from __future__ import annotations

import pytest

from benchmarks.speed.official_parts import EDGE_TAM, EFFICIENT_TAM, oracle
from export.trunks import RepVitTrunk, VitTrunk
from export.variants import Variant
from runtime.errors import MissingPackage


def why_missing(name: str) -> str | None:
    """What a skipped test says, or None where the package is there."""
    try:
        oracle(name)
    except MissingPackage as error:
        return str(error)
    return None


def _needs(name: str) -> pytest.MarkDecorator:
    reason = why_missing(name)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


needs_efficient_tam = _needs(EFFICIENT_TAM)
needs_edge_tam = _needs(EDGE_TAM)


def marks_of(variant: Variant) -> list[pytest.MarkDecorator]:
    """Of a test that needs the official package of a row."""
    if isinstance(variant.trunk, RepVitTrunk):
        return [needs_edge_tam]
    return [needs_efficient_tam] if isinstance(variant.trunk, VitTrunk) else []
