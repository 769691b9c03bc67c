"""Who can race: a bundle's back ends, this project's own PyTorch model, and the official package's predictors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from benchmarks.speed.devices import has_onednn, products_by_onednn
from runtime import Model, load
from runtime.backends import BACKENDS
from runtime.bundle.bundle import Bundle
from runtime.errors import BackendUnavailable
from runtime.measure.latency import TimedRun, time_propagation, time_volume
from runtime.measure.phantom import Phantom

if TYPE_CHECKING:
    from export.model.network import Network

TRUTH = "torch-fp32"


class Contender(Protocol):
    """Whoever can follow a phantom's objects. Nothing it was given is still going on when a method returns."""

    description: str

    def run(self, phantom: Phantom, num_objects: int) -> TimedRun:
        """One propagation from the middle slice to the last, measured."""

    def volume_ms(self, phantom: Phantom, num_objects: int) -> float:
        """From the volume in memory to the masks of all its slices, followed in both directions from the middle."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A model behind this runtime's predictor, which advances both directions as one batch."""

    model: Model

    @property
    def description(self) -> str:
        return self.model.backend.description

    def run(self, phantom: Phantom, num_objects: int) -> TimedRun:
        return time_propagation(self.model, phantom, num_objects)

    def volume_ms(self, phantom: Phantom, num_objects: int) -> float:
        return time_volume(self.model, phantom, num_objects)


@dataclass(frozen=True, slots=True)
class ByOneDnn:
    """A contender whose products oneDNN computes: what PyTorch can do on a processor that MKL neglects."""

    contender: Contender

    @property
    def description(self) -> str:
        return f"{self.contender.description}, products by oneDNN"

    def run(self, phantom: Phantom, num_objects: int) -> TimedRun:
        with products_by_onednn():
            return self.contender.run(phantom, num_objects)

    def volume_ms(self, phantom: Phantom, num_objects: int) -> float:
        with products_by_onednn():
            return self.contender.volume_ms(phantom, num_objects)


@dataclass(frozen=True, slots=True)
class Race:
    """What contenders are made from."""

    bundle: Bundle
    reference: Network
    threads: int | None
    device: str


def truth(race: Race) -> Contender:
    """PyTorch in fp32, with which the others are compared."""
    return _definition(None, race)


def _ours(name: str, race: Race) -> Contender:
    return Runtime(load(race.bundle, name, race.threads))


def _definition(autocast: str | None, race: Race) -> Contender:
    import torch

    from export.torch_backend import torch_model

    dtype = getattr(torch, autocast) if autocast else None
    return Runtime(torch_model(race.reference, dtype, race.device))


def _official(kind: str, autocast: str | None, race: Race) -> Contender:
    import torch

    from export.model.sam1 import Sam1

    try:
        from benchmarks.speed.official import OfficialContender
        from benchmarks.speed.official_stills import OfficialStills
    except ImportError as error:
        raise BackendUnavailable(f"the official package is missing: {error}") from error
    dtype = getattr(torch, autocast) if autocast else None
    if isinstance(race.reference, Sam1):
        return OfficialStills(race.reference, kind, dtype, race.device)
    return OfficialContender(race.reference, kind, dtype, race.device)


def _official_by_onednn(race: Race) -> Contender:
    if race.device != "cpu" or not has_onednn():
        raise BackendUnavailable("PyTorch gives no products in fp32 to oneDNN here")
    return ByOneDnn(_official("eager", None, race))


CONTENDERS: dict[str, Callable[[Race], Contender]] = {
    **{name: partial(_ours, name) for name in BACKENDS},
    TRUTH: truth,
    "torch-bf16": partial(_definition, "bfloat16"),
    "official-fp32": partial(_official, "eager", None),
    "official-onednn": _official_by_onednn,
    "official-bf16": partial(_official, "eager", "bfloat16"),
    "official-compile": partial(_official, "compile", "bfloat16"),
    "official-vos": partial(_official, "vos_optimized", "bfloat16"),
    "official-graph": partial(_official, "graph", "bfloat16"),
}
