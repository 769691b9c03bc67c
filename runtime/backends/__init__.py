"""Back ends by name; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from runtime.backends.base import Backend, Buffer, Engine
from runtime.bundle import Bundle
from runtime.errors import BackendUnavailable

__all__ = ["BACKENDS", "Backend", "Buffer", "Engine", "open_backend"]


@dataclass(frozen=True, slots=True)
class Row:
    """Where a back end is, what it is opened with, and what to install for it."""

    module: str
    name: str
    package: str
    options: Mapping[str, Any] = field(default_factory=dict)


OPENVINO = ("runtime.backends.openvino", "OpenVinoBackend", "openvino")
BACKENDS = {
    "ort": Row("runtime.backends.ort", "OrtBackend", "onnxruntime"),
    "openvino": Row(*OPENVINO),
    "openvino-bf16": Row(*OPENVINO, {"precision": "bf16"}),
}
DEFAULT = "ort"


def open_backend(name: str, bundle: Bundle, threads: int | None = None) -> Backend:
    """Open a back end of `BACKENDS`, or the best of them for "auto".

    Raises BackendUnavailable for an unknown name or one whose package is missing.
    """
    chosen = DEFAULT if name == "auto" else name
    if chosen not in BACKENDS:
        raise BackendUnavailable(f"no back end '{name}'; there are: auto, {', '.join(BACKENDS)}")
    row = BACKENDS[chosen]
    try:
        kind = getattr(import_module(row.module), row.name)
    except ImportError as error:
        raise BackendUnavailable(
            f"back end '{chosen}' needs a package: {error}; pip install {row.package}"
        ) from error
    opened: Backend = kind(bundle, threads, **row.options)
    return opened
