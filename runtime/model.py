"""A loaded model: its graphs as calls on arrays, and `load`, which opens one.

It knows the contract and a back end; it does not know prompts, memory policy or the order of calls.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.backends import Backend, Buffer, Engine, open_backend
from runtime.backends.certificate import Choice, choose
from runtime.backends.observed import ObservedBackend, Observer
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.confidence import MEASURES, Calibration, Confidence
from runtime.bundle.contract import GraphSpec, ModelNumbers, graph_specs
from runtime.bundle.defaults import Defaults
from runtime.bundle.tensors import Decoded, Features
from runtime.devices.engine import Batched, Trimmed
from runtime.devices.memory import DeviceMemory
from runtime.errors import BundleError, InputError, NotFinite
from runtime.memory import MemoryRules
from runtime.memory.arena import Arena
from runtime.steps.features import Cache, FeatureCache, ReadSlice
from runtime.steps.steps import Steps

log = logging.getLogger("runtime")


class Model:
    """The graphs of one model on one back end; each is loaded when first called.

    Args:
        numbers: of the model.
        backend: an opened back end.
        constants: `mask_downsample_weight` (4, 4), `mask_downsample_bias` () and `no_obj_ptr` (C,), float32: the
            few weights that a mask prompt needs on the host.
        calibrations: measure of confidence to its calibration, as far as the bundle has any.
        defaults: what predictors do unless told otherwise.
    """

    def __init__(
        self,
        numbers: ModelNumbers,
        backend: Backend,
        constants: dict[str, NDArray[np.float32]],
        calibrations: Mapping[str, Calibration] | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        self.numbers = numbers
        self.defaults = defaults or Defaults()
        self.backend = backend
        self.constants = constants
        self._calibrations = calibrations or {}
        self._specs: dict[str, GraphSpec] = graph_specs(numbers)
        self._engines: dict[str, Engine] = {}

    @property
    def device_memory(self) -> DeviceMemory:
        """Where tensors between graphs live."""
        return self.backend.device_memory

    @property
    def steps(self) -> Steps:
        """How steps are carried out."""
        return self.backend.steps

    def arena(self) -> Arena:
        """Memory slots for one predictor."""
        return Arena(self.numbers, self.device_memory)

    def features(self, read_slice: ReadSlice, max_bytes: int | None = None) -> Cache:
        """A cache of encodings of numbered slices, see `runtime.steps.features.FeatureCache`."""
        if self.numbers.kind == "image":  # whose images are prepared on the host
            return FeatureCache(self, read_slice, max_bytes)
        return self.steps.features(self, read_slice, max_bytes)

    def check_memory(self) -> None:
        """Raise BundleError for a network that remembers nothing, before anything is loaded for it in vain."""
        if self.numbers.kind != "volume":
            raise BundleError(
                f"{self.numbers.name} segments single images and has no memory to follow an object with; take a bundle "
                "of SAM 2's kind, such as the embedded one, or ImagePredictor"
            )

    def run(self, graph: str, inputs: dict[str, Buffer]) -> dict[str, Buffer]:
        """Run one graph; inputs may lie on the host.

        Raises ValueError for an input that does not fit the contract, NotFinite for an output that is no number, on a
        device only when it is fetched.
        """
        outputs = self.compute(graph, inputs)
        if output := self.device_memory.not_finite(outputs):
            raise NotFinite(graph, output, self.backend.description)
        return outputs

    def compute(self, graph: str, inputs: dict[str, Buffer]) -> dict[str, Buffer]:
        """Run one graph as `run` does, and pass on NaN and infinity for others to judge."""
        spec = self._specs[graph]
        axes = spec.check_inputs(graph, inputs)
        memory = self.device_memory
        outputs = {
            name: memory.empty(out.bind(axes), out.dtype) for name, out in spec.outputs.items()
        }
        self.engine(graph).run({name: memory.put(x) for name, x in inputs.items()}, outputs)
        return outputs

    def engine(self, graph: str) -> Engine:
        """The engine of one graph, which is loaded when first asked for."""
        if graph not in self._engines:
            self._engines[graph] = self.backend.load(graph)
        return self._engines[graph]

    def encode(self, image: Buffer) -> Features:
        """Encode normalised slices (n, 3, S, S)."""
        return Features(self.run("image_encoder", {"image": image}))

    @property
    def slices_at_once(self) -> int:
        """How many slices had better be encoded at once."""
        engine = self.engine("image_encoder")
        return engine.rows_at_once if isinstance(engine, Batched) else 1

    def condition(self, **inputs: Buffer) -> Buffer:
        """Run `memory_attention`: conditioned features (b, C, G, G)."""
        return self.run("memory_attention", inputs)["conditioned_features"]

    def decode(self, **inputs: Buffer) -> Decoded:
        """Run `mask_decoder`."""
        return Decoded(**self.run("mask_decoder", inputs))

    def memorise(self, **inputs: Buffer) -> Buffer:
        """Run `memory_encoder`: memories (b, L, M), not yet rounded."""
        return self.run("memory_encoder", inputs)["memory"]

    def observed(self, observe: Observer) -> Model:
        """This model, engines and all, with every run of a graph shown to `observe`."""
        return self.on(ObservedBackend(self.backend, observe, self.engine))

    def on(self, backend: Backend) -> Model:
        """The same model on another back end."""
        return Model(self.numbers, backend, self.constants, self._calibrations, self.defaults)

    def plain(self) -> Model:
        """This model, engines and all, without its bundle's defaults: what predictors do is what SAM 2 does."""
        model = Model(self.numbers, self.backend, self.constants, self._calibrations)
        model._engines = self._engines
        return model

    def confidence(self, measure: str) -> Confidence:
        """A measure of confidence (a key of `MEASURES`), calibrated if the bundle holds a calibration of it."""
        return Confidence(MEASURES[measure], self._calibrations.get(measure))

    def trim(self) -> None:
        """Give back memory that engines keep for their next runs, where they do; from any thread."""
        for engine in list(self._engines.values()):
            if isinstance(engine, Trimmed):
                engine.trim()

    def __reduce__(self) -> str:
        """Refuse to be copied or pickled, which engines cannot be. Raises InputError."""
        raise InputError(
            "a model belongs to its process and cannot be copied or pickled; hand on its bundle's folder, and load that"
        )

    def close(self) -> None:
        """Give back engines and back end."""
        self._engines.clear()
        self.backend.close()


def check_model(model: object) -> None:
    """Raise InputError for what is no model, such as the name of a bundle."""
    if not isinstance(model, Model):
        found = reprlib.repr(model) if isinstance(model, str | Path) else type(model).__name__
        raise InputError(
            f"found {found} for a model; wanted what load gives, such as load('medsam2')"
        )


def load(
    bundle: str | Path | Bundle | None = None,
    backend: str = "auto",
    threads: int | None = None,
    hint: str = "latency",
    stream: int | None = None,
) -> Model:
    """Open a model to hand to a predictor.

    Args:
        bundle: a bundle folder; None takes the embedded demonstration model.
        backend: a name of `runtime.backends.BACKENDS`; "auto" takes the fastest one that is certified for this
            bundle on this machine (`runtime.backends.certificate`), and the log says why.
        threads: threads within an operator; None takes every core.
        hint: "latency" for one study at a time, "throughput" where several processes share the machine.
        stream: handle of the caller's own CUDA stream for a back end there, such as pycuda's `stream.handle`; not a
            default stream, and one that outlives the model.

    Raises:
        BundleError, BundleIncomplete, BundleChanged: the bundle cannot be used.
        BackendUnavailable: the back end cannot be used here.
        InputError: the bundle is no path, or threads, hint or stream are none.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    _check_defaults(opened)
    if opened.caution:
        _say_once(f"{opened.model.name}: {opened.caution}")
    choice = choose(opened) if backend == "auto" else Choice(backend, "asked for")
    chosen = open_backend(choice.backend, opened, threads, hint, stream)
    log.info(
        "%s at %d pixels on %s (%s)",
        opened.model.name,
        opened.model.image_size,
        chosen.description,
        choice.reason,
    )
    constants = {
        name: np.asarray(values, np.float32)
        for name, values in opened.manifest["constants"].items()
    }
    return Model(opened.model, chosen, constants, opened.calibrations, opened.defaults)


def _check_defaults(bundle: Bundle) -> None:
    """Raise BundleError for a memory that this runtime does not have; a manifest's rules know no names of policies."""
    try:
        replace(MemoryRules(), **bundle.defaults.memory).limits(bundle.model)
    except InputError as error:
        raise BundleError(
            f"{bundle.path} has defaults that cannot be used ({error}); upgrade medsam2-runtime, or measure them anew: "
            "medsam2 calibrate BUNDLE --defaults --folder labelled/"
        ) from error


@cache
def _say_once(text: str) -> None:
    log.warning("%s", text)
