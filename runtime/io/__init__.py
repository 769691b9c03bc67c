"""Volumes in, label masks out.

What needs SimpleITK is imported on first use, so that arrays can be segmented without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from runtime.io.volume import Volume

if TYPE_CHECKING:
    from runtime.io.read import read_volume
    from runtime.io.write import check_mask_path, write_mask

__all__ = ["Volume", "check_mask_path", "read_volume", "write_mask"]

_HOMES = {
    "read_volume": "runtime.io.read",
    "check_mask_path": "runtime.io.write",
    "write_mask": "runtime.io.write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
