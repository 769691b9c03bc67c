"""Engines kept on disk: known by everything that would make them wrong, so that a stale one is never found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.backends.tensorrt.build import (
    Profile,
    Progress,
    build_engine,
    import_tensorrt,
)
from runtime.backends.tensorrt.parts import EnginePart
from runtime.files.cache import cache_folder, read_cached, write_cached


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine is valid for.

    Attributes:
        graph: name in the contract, or of a segment.
        typed_sha256: of the typed graph: weights, operators, types, form of attention.
        profiles_sha256: of the shapes that it was made for.
        tensorrt: module and version.
        device: name of the card.
        architecture: its compute capability, such as "90".
    """

    graph: str
    typed_sha256: str
    profiles_sha256: str
    tensorrt: str
    device: str
    architecture: str

    @property
    def name(self) -> str:
        """Name of the file, without suffix."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.graph}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def tensorrt_version() -> str:
    """Name of TensorRT's module, and its version. Raises BackendUnavailable."""
    trt = import_tensorrt()
    return f"{trt.__name__} {trt.__version__}"


def key_of(
    graph: str,
    typed: bytes,
    wanted: Sequence[Profile],
    tensorrt: str,
    device: str,
    architecture: str,
) -> EngineKey:
    """The key of an engine."""
    shapes = json.dumps([{name: list(p[name]) for name in sorted(p)} for p in wanted])
    return EngineKey(
        graph,
        hashlib.sha256(typed).hexdigest(),
        hashlib.sha256(shapes.encode()).hexdigest(),
        tensorrt,
        device,
        architecture,
    )


class EngineCache:
    """This user's engines for one card.

    Args:
        device: name of the card.
        architecture: its compute capability.
        folder: where they are kept; None keeps none.
    """

    def __init__(self, device: str, architecture: str, folder: Path | None = None) -> None:
        self._device, self._architecture = device, architecture
        self._folder = folder

    @classmethod
    def of_this_user(cls, device: str, architecture: str) -> EngineCache:
        """Open the one in this user's cache folder (`runtime.files.cache`)."""
        return cls(device, architecture, cache_folder("engines"))

    def engine(self, part: EnginePart, progress: Progress | None = None) -> bytes:
        """A serialised engine: the one kept, or a new one, which is kept.

        Raises BackendUnavailable without TensorRT, BundleError for a graph that it refuses.
        """
        version = tensorrt_version()
        path = self._path(part, version)
        if path is not None and (plan := read_cached(path)) is not None:
            return plan
        timings = self._timings(version)
        plan = build_engine(part.typed, part.profiles, part.name, timings, progress, part.uses_tf32)
        if path is not None:
            write_cached(path, plan)
        return plan

    def _path(self, part: EnginePart, version: str) -> Path | None:
        if self._folder is None:
            return None
        device = self._device, self._architecture
        key = key_of(part.name, part.typed, part.profiles, version, *device)
        return self._folder / f"{key.name}.engine"

    def _timings(self, version: str) -> Path | None:
        if self._folder is None:
            return None
        name = f"{version}-{self._device}-{self._architecture}".replace(" ", "-").replace("/", "-")
        return self._folder / f"{name}.timings"
