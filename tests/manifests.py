"""A manifest that is right, and the graphs it speaks of."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from runtime.bundle.contract import FORMAT_VERSION, GRAPHS, ModelNumbers
from runtime.bundle.manifest import graph_file
from tests.fakes import FAKE_NUMBERS

BYTES = {graph_file(graph): f"the bytes of {graph}".encode() for graph in GRAPHS}


def manifest(model: ModelNumbers = FAKE_NUMBERS) -> dict[str, Any]:
    """Of a whole bundle, as far as this side of the engines can tell."""
    constants = {
        "mask_downsample_weight": [[0.0625] * 4] * 4,
        "mask_downsample_bias": 0.5,
        "no_obj_ptr": [-1.0] * model.d_model,
    }
    files = [graph_file(graph) for graph in model.graphs]
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(model),
        "weights": {"kind": "checkpoint", "source": "weights.pt", "sha256": "0a" * 32},
        "licence": "unknown",
        "precision": "fp32",
        "constants": constants if model.kind == "volume" else {},
        "files": {
            name: {
                "size_bytes": len(BYTES[name]),
                "sha256": hashlib.sha256(BYTES[name]).hexdigest(),
            }
            for name in files
        },
        "calibration": {
            "iou": {"temperature": 1.5},
            "foreground": {"measured": [0.1, 0.5, 0.9], "worth": [0.0, 0.5, 1.0]},
        },
    }
