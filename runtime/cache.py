"""Where what can be made again is kept between runs: compiled models, and certificates of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "MEDSAM2_RUNTIME_CACHE"
"""Environment variable with another folder to use; set to nothing, nothing is kept."""


def cache_folder(kind: str) -> Path | None:
    """This user's folder for one kind of thing, made if missing; None where nothing is or can be kept."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "":
        return None
    folder = (Path(chosen) if chosen else _default()) / kind
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _default() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "medsam2-runtime"
