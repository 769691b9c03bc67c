"""Back ends by name; each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

from runtime.backends.base import Backend, Buffer, Engine
from runtime.bundle import Bundle
from runtime.errors import BackendUnavailable

__all__ = ["BACKENDS", "Backend", "Buffer", "Engine", "open_backend"]

BACKENDS = {"ort": "runtime.backends.ort:OrtBackend"}
DEFAULT = "ort"


def open_backend(name: str, bundle: Bundle, threads: int | None = None) -> Backend:
    """Open a back end of `BACKENDS`, or the best of them for "auto".

    Raises BackendUnavailable for an unknown name or one whose package is missing.
    """
    chosen = DEFAULT if name == "auto" else name
    if chosen not in BACKENDS:
        raise BackendUnavailable(f"no back end '{name}'; there are: auto, {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[chosen].partition(":")
    try:
        opened: Backend = getattr(import_module(module), attribute)(bundle, threads)
    except ImportError as error:
        raise BackendUnavailable(
            f"back end '{chosen}' needs a package: {error}; pip install onnxruntime"
        ) from error
    return opened
