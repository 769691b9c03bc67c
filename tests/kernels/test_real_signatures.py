"""What is called outside, compared with the installed packages themselves: names, arguments and their types.

No GPU is needed: calls that would reach a driver get as far as asking for one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.catalogue import KERNELS
from kernels.device import why_not
from kernels.kernel import FOLDER, Launch
from tests.kernels.host_device import HostStream
from tests.kernels.test_device import Bindings, Core
from tests.runtime.backends.tensorrt.test_trt import Context, RtxContext
from tests.runtime.backends.test_ort_cuda import Binding

LAUNCHES = [
    (kernel.name, launch)
    for kernel in KERNELS
    for make in kernel.cases.values()
    for launch in kernel.planned(make())
]


@pytest.fixture
def core() -> Any:
    return pytest.importorskip("cuda.core", reason="cuda-core is not installed")


@pytest.fixture
def driver() -> Any:
    return pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


def named(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Names and kinds of parameters, without self."""
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind) for each in found if each.name != "self"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Core.create_stream, "Device.create_stream"),
        (Core.set_current, "Device.set_current"),
        (Core.allocate, "DeviceMemoryResource.allocate"),
        (Core.allocate_pinned, "LegacyPinnedMemoryResource.allocate"),
        (Core.launch, "launch"),
        (HostStream.record, "Stream.record"),
        (HostStream.wait, "Stream.wait"),
        (HostStream.sync, "Stream.sync"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stand_ins_for_cuda_core_take_what_it_takes(
    ours: Callable[..., Any], theirs: str, core: Any
) -> None:
    real = core
    for name in theirs.split("."):
        real = getattr(real, name)
    assert named(ours) == named(real)


def test_options_of_cuda_core_are_called_what_we_call_them(core: Any) -> None:
    assert core.EventOptions(timing_enabled=True).timing_enabled
    assert core.StreamOptions(priority=-1).priority == -1
    assert core.StreamOptions(priority=None).nonblocking
    options = core.ProgramOptions(arch="sm_90", include_path=str(FOLDER))
    code = core.Program('extern "C" __global__ void f() {}', "c++", options).compile("cubin")
    assert callable(code.get_kernel)
    assert int(core.Stream.from_handle(77).handle) == 77
    for pool in ("reserved_mem_current", "used_mem_current"):
        assert hasattr(type(core.DeviceMemoryResource.attributes), "__get__")
        assert pool in dir(pool_attributes())
    for name in ("arch", "name", "memory_resource"):
        assert hasattr(core.Device, name)


def pool_attributes() -> Any:
    from cuda.core._memory import _memory_pool

    return _memory_pool._MemPoolAttributes


@pytest.mark.parametrize(
    "launch", [each for _, each in LAUNCHES], ids=[f"{n}-{each.entry}" for n, each in LAUNCHES]
)
def test_a_launch_is_one_that_cuda_core_takes(launch: Launch, core: Any) -> None:
    from cuda.core._kernel_arg_handler import ParamHolder

    config = core.LaunchConfig(grid=launch.grid, block=launch.block)
    assert (config.grid, config.block) == (launch.grid, launch.block)
    numbers = [each for each in launch.arguments if not isinstance(each, str)]
    assert all(isinstance(each, np.generic) for each in numbers), "a Python number is an address"
    address = 0x7FFF_0000_0000
    assert ParamHolder([address if isinstance(a, str) else a for a in launch.arguments]).ptr


DRIVER_CALLS: dict[str, tuple[Any, ...]] = {
    "cuCtxGetCurrent": (),
    "cuMemGetInfo": (),
    "cuMemcpyAsync": (4096, 8192, 16, 77),
    "cuStreamBeginCapture": (77, "mode"),
    "cuStreamEndCapture": (77,),
    "cuGraphInstantiate": ("graph", 0),
    "cuGraphGetNodes": ("graph",),
    "cuGraphDestroy": ("graph",),
    "cuGraphLaunch": ("executable", 77),
    "cuGraphExecDestroy": ("executable",),
}
"""Handles of streams and addresses are numbers in our calls; graphs and modes are the bindings' own."""


@pytest.mark.skipif(why_not() is None, reason="made-up handles would reach the driver")
@pytest.mark.parametrize("call", DRIVER_CALLS)
def test_a_driver_call_fails_for_want_of_a_driver_alone(call: str, driver: Any) -> None:
    own = {
        "mode": driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        "graph": driver.CUgraph(),
        "executable": driver.CUgraphExec(),
    }
    given = [own[each] if isinstance(each, str) else each for each in DRIVER_CALLS[call]]
    with pytest.raises(RuntimeError, match=r"(?i)driver|libcuda|not found"):
        getattr(driver, call)(*given)
    assert len(named(getattr(Bindings, call))) == len(given), "our stand-in takes as many"


def test_what_driver_calls_give_back_is_what_stand_ins_give(driver: Any) -> None:
    results = {name: returned(getattr(driver, name)) for name in DRIVER_CALLS}
    assert results["cuGraphGetNodes"] == 3 and results["cuMemGetInfo"] == 3
    assert results["cuCtxGetCurrent"] == 2
    assert results["cuStreamEndCapture"] == results["cuGraphInstantiate"] == 2
    assert {results[n] for n in ("cuMemcpyAsync", "cuGraphLaunch", "cuStreamBeginCapture")} == {1}
    assert driver.CUresult.CUDA_SUCCESS == 0
    assert "OUT_OF_MEMORY" in driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name


def returned(function: Any) -> int:
    """How many results a driver call's documentation lists, its status among them."""
    text = re.split(r"\nReturns\n-+\n", function.__doc__)[1]
    text = re.split(r"\n\n?[A-Z][\w ]+\n-+\n", text)[0]
    return len([line for line in text.splitlines() if line and not line.startswith(" ")])


def parameters(function: Any) -> list[list[str]]:
    """Of each overload of a pybind11 function, without self."""
    found = re.findall(rf"^(?:\d+\. )?{function.__name__}\((.*)\) ->", function.__doc__, re.M)
    return [re.findall(r"(?:^|, )(?!self\b)(\w+):", each) for each in found]


@pytest.mark.parametrize(
    "name",
    [
        "set_optimization_profile_async",
        "set_input_shape",
        "infer_shapes",
        "update_device_memory_size_for_shapes",
        "set_device_memory",
        "set_tensor_address",
        "execute_async_v3",
        "is_stream_capturable",
    ],
)
def test_stand_ins_for_tensorrt_take_what_it_takes(name: str, rtx: Any) -> None:
    real = parameters(getattr(rtx.IExecutionContext, name))
    ours = getattr(RtxContext if name == "is_stream_capturable" else Context, name)
    assert [parameter for parameter, _ in named(ours)] in real


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Runtime.deserialize_cuda_engine", 1),
        ("Runtime.__init__", 1),
        ("ICudaEngine.create_runtime_config", 0),
        ("ICudaEngine.create_execution_context", 1),
        ("IRuntimeConfig.set_execution_context_allocation_strategy", 1),
        ("IBuilderConfig.create_timing_cache", 1),
        ("IBuilderConfig.add_optimization_profile", 1),
        ("IOptimizationProfile.set_shape", 4),
        ("Builder.build_serialized_network", 2),
        ("Builder.create_network", 1),
        ("OnnxParser.parse", 1),
    ],
)
def test_tensorrt_takes_as_many_as_we_give(name: str, given: int, rtx: Any) -> None:
    kind, method = name.split(".")
    real = parameters(getattr(getattr(rtx, kind), method))
    assert any(len(each) >= given for each in real), real


def test_tensorrt_names_are_called_what_we_call_them(rtx: Any) -> None:
    assert parameters(rtx.IBuilderConfig.set_timing_cache) == [["cache", "ignore_mismatch"]]
    assert hasattr(rtx.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert hasattr(rtx.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(rtx.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert rtx.ILogger.Severity.INTERNAL_ERROR <= rtx.ILogger.Severity.ERROR
    assert not rtx.ILogger.Severity.WARNING <= rtx.ILogger.Severity.ERROR


def test_stand_ins_for_onnx_runtime_take_what_it_takes() -> None:
    real = pytest.importorskip("onnxruntime")
    for name in ("bind_input", "bind_output"):
        assert named(getattr(Binding, name)) == named(getattr(real.IOBinding, name))
    assert named(real.InferenceSession.run_with_iobinding)[:2] == [
        ("iobinding", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ("run_options", inspect.Parameter.POSITIONAL_OR_KEYWORD),
    ]
    options = real.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    assert 'kwargs.get("enable_fallback"' in inspect.getsource(real.InferenceSession.__init__)


def test_torch_lends_memory_by_the_keywords_that_we_use() -> None:
    torch = pytest.importorskip("torch")
    assert "stream" in inspect.signature(torch.Tensor.__dlpack__).parameters
