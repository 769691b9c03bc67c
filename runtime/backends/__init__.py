"""Back ends by name; each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtime.backends.base import Backend, Buffer, Engine
from runtime.bundle import Bundle
from runtime.errors import BackendUnavailable

__all__ = ["BACKENDS", "HINTS", "Backend", "Buffer", "Engine", "open_backend"]


@dataclass(frozen=True, slots=True)
class Row:
    """Where a back end is, what it is opened with, and what to install for it."""

    module: str
    name: str
    package: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """What it computes in where a graph does not say otherwise."""
        return str(self.options.get("precision", "fp32"))

    @property
    def package_version(self) -> str | None:
        """Of the package it needs, or None if that is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


OPENVINO = ("runtime.backends.openvino", "OpenVinoBackend", "openvino")
BACKENDS = {
    "ort": Row("runtime.backends.ort", "OrtBackend", "onnxruntime"),
    "openvino": Row(*OPENVINO),
    "openvino-bf16": Row(*OPENVINO, {"precision": "bf16"}),
    "openvino-fp16": Row(*OPENVINO, {"precision": "fp16"}),
}
DEFAULT = "ort"

HINTS = {
    "latency": "one study at a time: threads stay awake between operators",
    "throughput": "several processes share the machine: threads that wait give way",
}


def open_backend(
    name: str, bundle: Bundle, threads: int | None = None, hint: str = "latency"
) -> Backend:
    """Open a back end of `BACKENDS`.

    Args:
        name: of the back end.
        bundle: where its graphs come from.
        threads: threads within an operator; None takes every core.
        hint: a key of `HINTS`.

    Raises BackendUnavailable for an unknown name or one whose package is missing.
    """
    if name not in BACKENDS:
        raise BackendUnavailable(f"no back end '{name}'; there are: auto, {', '.join(BACKENDS)}")
    row = BACKENDS[name]
    try:
        kind = getattr(import_module(row.module), row.name)
    except ImportError as error:
        raise BackendUnavailable(
            f"back end '{name}' needs a package: {error}; pip install {row.package}"
        ) from error
    opened: Backend = kind(bundle, threads, hint, **row.options)
    return opened
