"""The native TensorRT back end around a TensorRT whose engines are the typed graphs on the host."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime.backends.tensorrt.engines as engines
import runtime.backends.tensorrt.trt as trt
from kernels.bfloat16 import to_bits
from kernels.device_array import DeviceArray
from runtime import VolumePredictor, load
from runtime.backends.tensorrt.build import MODULES, profiles
from runtime.bundle.bundle import open_bundle
from runtime.bundle.contract import graph_specs
from runtime.devices.cuda.memory import CudaMemory
from runtime.errors import BackendUnavailable, BundleError, InputError
from runtime.measure.phantom import make_phantom
from runtime.model import Model
from tests.cuda import cuda_of
from tests.kernels import on_host
from tests.kernels.host_device import HostDevice
from tests.typed import half_outputs, rounded

pytestmark = pytest.mark.skipif(on_host.COMPILER is None, reason="no C++ compiler here")

BROKEN = b"broken"
ALIGNMENT = 256  # of every address that TensorRT takes
SCRATCH_BYTES = 4096


class Context:
    """One set of shapes; runs when its stream comes to it, as TensorRT's do."""

    def __init__(self, owner: Tensorrt, data: bytes) -> None:
        self.owner, self.shapes, self.addresses = owner, {}, {}
        self.profile: int | None = None
        self.scratch = 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.halves = half_outputs(data, "bfloat16")
        self.session = onnxruntime.InferenceSession(
            rounded(data, "bfloat16"), options, ["CPUExecutionProvider"]
        )
        owner.contexts.append(self)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [i.name for i in self.session.get_inputs() if i.name not in self.shapes]

    def update_device_memory_size_for_shapes(self) -> int:
        return SCRATCH_BYTES

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == SCRATCH_BYTES and memory % ALIGNMENT == 0
        self.scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory % ALIGNMENT == 0 and name != self.owner.unknown

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.scratch
        if self.owner.refuses:
            return False
        addresses, device = dict(self.addresses), self.owner.memory.device
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}

        def work() -> None:
            inputs = {
                i.name: device.view(
                    DeviceArray(addresses[i.name], self.shapes[i.name], kinds[i.type])
                )
                for i in self.session.get_inputs()
            }
            found = self.session.run(None, inputs)
            for output, array in zip(self.session.get_outputs(), found, strict=True):
                if output.name in self.halves:
                    array = to_bits(array)
                target = DeviceArray(addresses[output.name], array.shape, array.dtype)
                device.view(target)[...] = array

        device.external_stream(stream_handle).enqueue(work)
        return True


class RtxContext(Context):
    """One that knows whether it can be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert self.scratch
        return self.owner.is_capturable


class Tensorrt:
    """A module with the names that the back end uses."""

    __name__, __version__ = "tensorrt", "11.4"

    def __init__(self, memory: CudaMemory, is_rtx: bool) -> None:
        self.memory, self.refuses, self.is_capturable = memory, False, True
        self.unknown = ""
        self.contexts: list[Context] = []
        self.configs: list[Any] = []
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="ours")
        self.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1)})
        if is_rtx:
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> Any:
            if plan == BROKEN:
                logger.log(1, "made for another card")
                return None
            return SimpleNamespace(
                create_runtime_config=self._config,
                create_execution_context=lambda how: self._context(how, plan),
            )

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def _config(self) -> Any:
        made = SimpleNamespace(strategy=None)
        made.set_execution_context_allocation_strategy = lambda s: setattr(made, "strategy", s)
        self.configs.append(made)
        return made

    def _context(self, how: Any, plan: bytes) -> Context:
        assert how == "ours" or how.strategy == "ours"
        return Context(self, plan) if how == "ours" else RtxContext(self, plan)


@pytest.fixture(params=[False, True], ids=["tensorrt", "rtx"])
def tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    return stood_in(CudaMemory(HostDevice()), request.param, monkeypatch)


def stood_in(memory: CudaMemory, is_rtx: bool, monkeypatch: pytest.MonkeyPatch) -> Tensorrt:
    """TensorRT on a device, until the test ends."""
    made = Tensorrt(memory, is_rtx)
    monkeypatch.setattr(trt, "open_memory", lambda stream: memory)
    monkeypatch.setattr(trt, "import_tensorrt", lambda: made)
    monkeypatch.setattr(engines, "import_tensorrt", lambda: made)
    monkeypatch.setattr(engines, "build_engine", lambda typed, *rest: typed)
    return made


def test_a_volume_on_tensorrt_is_what_it_is_on_the_host(tensorrt: Tensorrt) -> None:
    phantom = make_phantom((9, 64, 64))

    def run(model: Model) -> dict[int, np.ndarray]:
        predictor = VolumePredictor(model)
        predictor.set_volume(phantom.pixels, "none")
        predictor.add(phantom.box(4, 1))
        return {found.slice: found.segmented.logits for found in predictor.stream()}

    model = load(None, "trt-fp32").plain()
    found, truth = run(model), run(load(None, "ort", 1).plain())
    for index, right in truth.items():
        assert np.abs(found[index] - right).max() <= 1e-3 * np.abs(right).max()
    device: Any = tensorrt.memory.device
    assert device.captures >= 1 and device.launches >= 1
    assert "tensorrt 11.4, a host that plays a device, fp32" in model.backend.description
    model.close()


def inputs(memory: CudaMemory, graph: str, rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = graph_specs(open_bundle().model)[graph]
    axes = {"n": rows, "b": rows, "k": 7, "p": 16, "q": 1}
    made = [
        {name: memory.put(np.zeros(each.bind(axes), each.dtype)) for name, each in tensors.items()}
        for tensors in (spec.inputs, spec.outputs)
    ]
    return made[0], made[1]


def test_each_set_of_shapes_and_each_stream_has_a_context_of_its_own(tensorrt: Tensorrt) -> None:
    memory, model = tensorrt.memory, load(None, "trt-fp32").plain()
    engine = model.engine("memory_encoder")
    for rows, number in ((1, 0), (2, 1), (3, 2), (1, 0), (3, 2)):
        given, made = inputs(memory, "memory_encoder", rows)
        engine.run(given, made)
        (context,) = (c for c in tensorrt.contexts if c.shapes["binarize"] == (rows,))
        assert context.profile == number
        assert context.addresses["memory"] == made["memory"].address
    assert len(tensorrt.contexts) == 3
    assert len({context.scratch for context in tensorrt.contexts}) == 3
    with memory.streams.on(memory.streams.encode):
        engine.run(*inputs(memory, "memory_encoder", 1))
    assert len(tensorrt.contexts) == 4
    assert all(c.dynamic_shapes_kernel_specialization_strategy == "eager" for c in tensorrt.configs)
    model.close()


def test_shapes_beyond_every_profile_are_refused(tensorrt: Tensorrt) -> None:
    engine = load(None, "trt-fp32").engine("memory_encoder")
    rows = profiles(open_bundle().model, "memory_encoder")[-1]["binarize"][2][0] + 1
    with pytest.raises(InputError, match="follow fewer objects at a time"):
        engine.run(*inputs(tensorrt.memory, "memory_encoder", rows))


def test_what_is_not_enqueued_is_an_error(tensorrt: Tensorrt) -> None:
    engine = load(None, "trt-fp32").engine("memory_encoder")
    tensorrt.refuses = True
    with pytest.raises(
        RuntimeError, match=r"memory_encoder refuses run with .* it does not say why"
    ):
        engine.run(*inputs(tensorrt.memory, "memory_encoder", 1))


def test_a_tensor_that_is_refused_is_an_error(tensorrt: Tensorrt) -> None:
    engine = load(None, "trt-fp32").engine("memory_encoder")
    tensorrt.unknown = "memory"
    with pytest.raises(RuntimeError, match="memory_encoder refuses address of memory"):
        engine.run(*inputs(tensorrt.memory, "memory_encoder", 1))


def test_steps_are_not_captured_where_tensorrt_says_that_they_cannot_be(
    tensorrt: Tensorrt, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.is_capturable = False
    phantom, model = make_phantom((9, 64, 64)), load(None, "trt-fp32").plain()
    predictor = VolumePredictor(model)
    predictor.set_volume(phantom.pixels, "none")
    predictor.add(phantom.box(4, 1))
    predictor.propagate()
    device: Any = tensorrt.memory.device
    is_rtx = hasattr(tensorrt, "DynamicShapesKernelSpecializationStrategy")
    assert (device.captures == 0) == is_rtx == ("cannot capture" in caplog.text)
    assert caplog.text.count("not replayed") <= 1


def test_an_engine_that_does_not_run_here_is_refused_with_tensorrts_reason(
    tensorrt: Tensorrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2_RUNTIME_CACHE", "")
    monkeypatch.setattr(engines, "build_engine", lambda *rest: BROKEN)
    with pytest.raises(BundleError, match="does not run here: made for another card"):
        load(None, "trt-fp32").engine("memory_encoder")


def test_without_a_device_tensorrt_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.device.why_not", lambda: "no NVIDIA driver")
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match="no CUDA device can be used: no NVIDIA driver"):
        load(None, "trt-bf16")


def test_the_callers_stream_is_the_one_that_steps_run_on(
    tensorrt: Tensorrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = HostDevice()
    theirs = device.stream()
    monkeypatch.setattr(trt, "open_memory", lambda stream: CudaMemory(device, stream))
    model = load(None, "trt-fp32", stream=theirs.handle).plain()
    assert cuda_of(model)[0].streams.step is theirs
    with pytest.raises(InputError, match="computes on the host"):
        load(None, "ort", stream=theirs.handle)
