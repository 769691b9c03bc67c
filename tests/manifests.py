"""A manifest that is right, the graphs it speaks of, and ways of damaging it."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import asdict
from typing import Any

from runtime.contract import FORMAT_VERSION, GRAPHS
from runtime.manifest import graph_file
from tests.fakes import FAKE_NUMBERS

BYTES = {graph_file(graph): f"the bytes of {graph}".encode() for graph in GRAPHS}

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 65, 256, 2**31, 2**63, 2**64, -(2**63), 10**19, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "0", "abc", "a\0b", "\ud800", "../x", "x" * 2000, [], [[]],
    [0], [1, 0], ["a"], [None], {}, {"": 0}, {"temperature": 1e-9}, {"measured": [0, 1], "worth": [1, 0]},
)  # fmt: skip
"""What entries are replaced by."""

PIECES = (
    b'"',
    b"{",
    b"[",
    b",",
    b":",
    b"9" * 30,
    b"1e999",
    b"NaN",
    b"-",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"[" * 5000,
)
"""What is put between bytes."""


def manifest() -> dict[str, Any]:
    """Of a whole bundle, as far as this side of the engines can tell."""
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(FAKE_NUMBERS),
        "weights": {"kind": "checkpoint", "source": "weights.pt", "sha256": "0a" * 32},
        "licence": "unknown",
        "precision": "fp32",
        "constants": {
            "mask_downsample_weight": [[0.0625] * 4] * 4,
            "mask_downsample_bias": 0.5,
            "no_obj_ptr": [-1.0] * FAKE_NUMBERS.d_model,
        },
        "files": {
            name: {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in BYTES.items()
        },
        "calibration": {
            "iou": {"temperature": 1.5},
            "foreground": {"measured": [0.1, 0.5, 0.9], "worth": [0.0, 0.5, 1.0]},
        },
    }


def damaged(seed: int) -> bytes:
    """One manifest with one to three kinds of damage, in its entries or in its bytes."""
    draw = random.Random(seed)
    content = copy.deepcopy(manifest())
    for _ in range(draw.randint(0, 3)):
        _damage_entry(content, draw)
    data = json.dumps(content, indent=draw.choice([None, 1])).encode()
    return _damage_bytes(data, draw) if draw.random() < 0.4 else data


def _damage_entry(content: Any, draw: random.Random) -> None:
    holders = list(_holders(content))
    holder, key = draw.choice(holders)
    kind = draw.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(["", "image_size", "x\0", "../../etc/passwd", str(key) + " "])] = (
            draw.choice(STRANGE)
        )
    elif kind == 2:
        holder[key] = copy.deepcopy(draw.choice(holders)[0])
    else:
        holder[key] = copy.deepcopy(draw.choice(STRANGE))


def _holders(content: Any) -> Any:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield content, key
        if isinstance(value, dict | list):
            yield from _holders(value)


def _damage_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            changed[at : at + draw.randint(1, 40)] = b""
        elif kind == 1:
            changed[at:at] = draw.choice(PIECES)
        elif kind == 2 and changed:
            changed[at % len(changed)] = draw.randrange(256)
        else:
            stop = draw.randrange(len(changed) + 1)
            changed[at:at] = changed[min(at, stop) : max(at, stop)]
    return bytes(changed)
