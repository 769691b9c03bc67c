"""Memory attention as segments on a stand-in for TensorRT, with our own kernel, compiled for the host, between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import runtime.backends.tensorrt.trt as trt
from runtime import VolumePredictor, load
from runtime.backends import BACKENDS
from runtime.backends.tensorrt.cut import CutEngine
from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import ModelNumbers, graph_specs
from runtime.bundle.memory_reads import GRAPH
from runtime.devices.cuda.memory import CudaMemory
from runtime.errors import BackendUnavailable, InputError
from runtime.measure.phantom import make_phantom
from runtime.model import Model
from tests.graph_inputs import Arrays, graph_inputs
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice
from tests.runtime.backends.tensorrt.test_trt import Tensorrt, stood_in
from tests.typed import worst

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

NAME = "trt-bf16-kernel"
ONE, FULL = {"b": 1, "k": 1, "p": 1}, {"b": 2, "k": 7, "p": 16}
# Of the largest magnitude; measured were at most 4e-3, and 9e-3 in bfloat16.
TOLERANCES = {"fp32": 1e-2, "bf16": 2e-2}


@pytest.fixture
def tensorrt(wide_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    return stood_in(CudaMemory(HostDevice()), False, monkeypatch)


def compute_in(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What engines compute in; the kernel's inputs are bfloat16 in any case."""
    row = BACKENDS[NAME]
    options = {**row.options, "precision": precision}
    monkeypatch.setitem(BACKENDS, NAME, replace(row, options=options))


def on_device(
    memory: CudaMemory, model: ModelNumbers, arrays: Arrays
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and room for outputs."""
    spec, axes = graph_specs(model)[GRAPH], {"b": len(arrays["memory"])}
    made = {name: memory.empty(x.bind(axes), x.dtype) for name, x in spec.outputs.items()}
    return {name: memory.put(array) for name, array in arrays.items()}, made


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("axes", [ONE, FULL], ids=["one", "full"])
def test_memory_attention_is_what_it_is_on_the_host(
    axes: dict[str, int],
    precision: str,
    tensorrt: Tensorrt,
    wide_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute_in(precision, monkeypatch)
    inputs = graph_inputs(wide_bundle.model, GRAPH, axes)
    inputs["memory_weight"][:, 1::3] = 0
    inputs["obj_ptr_weight"][:] = 0.25
    model = load(wide_bundle, NAME)
    assert isinstance(model.engine(GRAPH), CutEngine)
    found = {name: model.device_memory.get(x) for name, x in model.run(GRAPH, inputs).items()}
    assert worst(found, load(wide_bundle, "ort", 1).run(GRAPH, inputs)) < TOLERANCES[precision]
    assert "attention kernel" in model.backend.description


def test_later_runs_allocate_nothing_and_can_be_captured(
    tensorrt: Tensorrt, wide_bundle: Bundle
) -> None:
    memory, engine = tensorrt.memory, load(wide_bundle, NAME).engine(GRAPH)
    device: Any = memory.device
    inputs, outputs = on_device(
        memory, wide_bundle.model, graph_inputs(wide_bundle.model, GRAPH, FULL)
    )
    engine.run(inputs, outputs)
    (name,) = outputs
    first, contexts = memory.get(outputs[name]), len(tensorrt.contexts)
    assert contexts == 4, "one for each segment"
    allocations, kernels = device.allocations, device.kernels
    graph = device.capture(lambda: engine.run(inputs, outputs), stream=memory.current)
    other = graph_inputs(wide_bundle.model, GRAPH, FULL, seed=1)
    memory.copy(other["memory"], inputs["memory"])
    graph.launch(stream=memory.current)
    changed = memory.get(outputs[name])
    assert np.abs(changed - first).max() > 0.01
    engine.run(inputs, outputs)
    np.testing.assert_array_equal(memory.get(outputs[name]), changed)
    assert (device.allocations, len(tensorrt.contexts)) == (allocations, contexts)
    assert device.kernels - kernels == 2 * (1 + 3 * 2), "packed once, three reads of two launches"


def test_each_set_of_shapes_and_each_stream_has_tensors_of_its_own(
    tensorrt: Tensorrt, wide_bundle: Bundle
) -> None:
    memory, engine = tensorrt.memory, load(wide_bundle, NAME).engine(GRAPH)
    wanted = {}
    for i, axes in enumerate((ONE, FULL, ONE)):
        inputs, outputs = on_device(
            memory, wide_bundle.model, graph_inputs(wide_bundle.model, GRAPH, axes, seed=i)
        )
        engine.run(inputs, outputs)
        wanted[i] = inputs, {name: memory.get(x) for name, x in outputs.items()}
    assert len(tensorrt.contexts) == 8
    inputs, truth = wanted[0]
    with memory.streams.on(memory.streams.encode):
        outputs = {name: memory.empty(x.shape, "float32") for name, x in truth.items()}
        engine.run(inputs, outputs)
        for name, x in truth.items():
            np.testing.assert_array_equal(memory.get(outputs[name]), x)
    assert len(tensorrt.contexts) == 12


def test_shapes_beyond_every_profile_are_refused_before_anything_is_allocated(
    tensorrt: Tensorrt, wide_bundle: Bundle
) -> None:
    engine = load(wide_bundle, NAME).engine(GRAPH)
    arrays = graph_inputs(wide_bundle.model, GRAPH, {**ONE, "k": 40})
    inputs, outputs = on_device(tensorrt.memory, wide_bundle.model, arrays)
    device: Any = tensorrt.memory.device
    allocations = device.allocations
    with pytest.raises(InputError, match=r"memory_attention.0 was not made for .* prompt fewer"):
        engine.run(inputs, outputs)
    assert device.allocations == allocations


def test_a_volume_is_what_it_is_on_the_host(
    tensorrt: Tensorrt, wide_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_in("fp32", monkeypatch)
    phantom = make_phantom((11, 64, 64))

    def run(model: Model) -> dict[int, np.ndarray]:
        predictor = VolumePredictor(model)
        predictor.set_volume(phantom.pixels, "none")
        predictor.add(phantom.box(5, 1))
        return {found.slice: found.segmented.logits > 0 for found in predictor.stream()}

    model = load(wide_bundle, NAME)
    found, truth = run(model), run(load(wide_bundle, "ort", 1))
    assert all(0.1 < right.mean() < 0.9 for right in truth.values())
    both = sum(int((found[index] & right).sum()) for index, right in truth.items())
    total = sum(int(found[index].sum() + right.sum()) for index, right in truth.items())
    assert 2 * both > 0.99 * total
    device: Any = tensorrt.memory.device
    assert device.captures >= 1 and device.launches >= 1
    model.close()


def test_a_model_of_other_channels_is_refused_before_a_device_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trt, "open_memory", lambda stream: pytest.fail("opened"))
    with pytest.raises(
        BackendUnavailable, match=r"nano has 128 channels and memories of 32, .* 256 and 64"
    ):
        load(None, NAME)
