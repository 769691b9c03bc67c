"""The device layer: on a GPU if there is one, and anywhere against a stand-in for cuda-core that notes its calls."""

from __future__ import annotations

import ctypes
import gc
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kernels.device
from kernels import mask, slots
from kernels.catalogue import KERNELS
from kernels.device import Device, NoDevice, why_not
from kernels.device_array import DeviceArray
from kernels.kernel import Kernel

CASES = [(kernel, name) for kernel in KERNELS for name in kernel.cases]
REASON = why_not()


@pytest.mark.gpu
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize(
    ("kernel", "name"), CASES, ids=[f"{kernel.name}-{name}" for kernel, name in CASES]
)
def test_a_kernel_computes_on_the_device_what_its_reference_does(kernel: Kernel, name: str) -> None:
    device, case = Device(), kernel.cases[name]()
    found = device.run(kernel, case, stream=device.stream())
    for output, truth in kernel.reference(**case.arrays, **case.numbers).items():
        largest = max(float(np.abs(truth).max()), 1e-6)
        error = np.abs(found[output].astype(np.float64) - truth).max()
        assert error <= kernel.tolerance * largest


class Driver:
    """A CUDA driver that answers as it is told."""

    def __init__(self, init: int = 0, status: int = 0, count: int = 1) -> None:
        self.init, self.status, self.count = init, status, count

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return self.status


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver"),
        (Driver(init=100), "does not start \\(cuInit gives 100\\)"),
        (Driver(status=3), "does not count its devices \\(3\\)"),
        (Driver(count=0), "sees no device"),
    ],
)
def test_no_device_is_said_with_the_reason(
    driver: Driver | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Driver:
        if driver is None:
            raise OSError(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(NoDevice, match=reason):
        Device()


def test_a_device_without_cuda_core_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(kernels.device, "import_module", missing)
    with pytest.raises(NoDevice, match="pip install cuda-core"):
        Device()


PRIMARY = 77  # handle of the device's context


class Core:
    """What cuda-core is asked for; buffers are numpy arrays, and launches are only noted."""

    def __init__(self) -> None:
        self.compiled: list[tuple[str, str]] = []
        self.launched: list[tuple[Any, ...]] = []
        self.allocated: list[np.ndarray] = []
        self.bindings = Bindings()
        self.threads: list[int] = []
        self.pool = SimpleNamespace(reserved_mem_current=32, used_mem_current=30)
        resource = SimpleNamespace(allocate=self.allocate, attributes=self.pool)
        self.device = SimpleNamespace(
            set_current=self.set_current,
            create_stream=self.create_stream,
            memory_resource=resource,
            arch="90",
            name="Abacus",
        )
        self.Device = lambda ordinal: self.device
        self.LaunchConfig = lambda grid, block: (grid, block)
        self.EventOptions: Any = lambda *, timing_enabled: timing_enabled
        self.StreamOptions = lambda priority: priority
        self.LegacyPinnedMemoryResource = lambda: SimpleNamespace(allocate=self.allocate_pinned)
        self.ProgramOptions = lambda arch, include_path: arch
        self.Stream = SimpleNamespace(from_handle=lambda handle: ("stream", handle))

    def create_stream(self, obj: Any = None, options: Any = None) -> Any:
        return SimpleNamespace(handle=7, sync=lambda: None, priority=options)

    def set_current(self, ctx: Any = None) -> None:
        self.threads.append(threading.get_ident())
        self.bindings.current.context = PRIMARY

    def allocate_pinned(self, size: int, *, stream: Any = None) -> Any:
        return self.allocate(size, stream=stream)

    def allocate(self, size: int, *, stream: Any) -> Any:
        self.allocated.append(np.zeros(size, np.uint8))
        return SimpleNamespace(handle=self.allocated[-1].ctypes.data)

    def Program(self, code: str, code_type: str, options: str) -> Any:
        def get_kernel(name: str) -> str:
            self.compiled.append((name, options))
            return name

        made = SimpleNamespace(get_kernel=get_kernel)
        return SimpleNamespace(compile=lambda target_type: made)

    def launch(self, stream: Any, config: Any, kernel: str, *kernel_args: Any) -> None:
        self.launched.append((kernel, config, kernel_args))


class Bindings:
    """The driver's calls that the device layer makes."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="this thread")

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.status = 0
        self.current = threading.local()

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return (0, getattr(self.current, "context", 0))

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> tuple[int]:
        ctypes.memmove(target, source, size if not self.status else 0)
        return (self.status,)

    def cuMemGetInfo(self) -> tuple[int, int, int]:
        return (0, 3, 5)

    def cuStreamBeginCapture(self, stream: int, mode: str) -> tuple[int]:
        return self._note("begin", stream, mode)

    def cuStreamEndCapture(self, stream: int) -> tuple[int, str]:
        return (*self._note("end", stream), "graph")

    def cuGraphInstantiate(self, graph: str, flags: int) -> tuple[int, str]:
        return (*self._note("instantiate", graph), "executable")

    def cuGraphGetNodes(self, graph: str) -> tuple[int, list[str], int]:
        return (0, [], 9)

    def cuGraphDestroy(self, graph: str) -> tuple[int]:
        return self._note("destroy", graph)

    def cuGraphLaunch(self, executable: str, stream: int) -> tuple[int]:
        return self._note("launch", executable, stream)

    def cuGraphExecDestroy(self, executable: str) -> tuple[int]:
        return self._note("destroy", executable)

    def _note(self, *call: Any) -> tuple[int]:
        self.calls.append(call)
        return (self.status,)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    made = Core()
    modules = {"cuda.core": made, "cuda.bindings.driver": made.bindings}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(kernels.device, "import_module", modules.__getitem__)
    return made


def test_what_is_uploaded_comes_back(core: Core) -> None:
    device = Device()
    stream = device.stream()
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    uploaded = device.upload(array.T, stream=stream)
    assert (uploaded.shape, uploaded.dtype) == ((4, 3), np.float32)
    np.testing.assert_array_equal(device.download(uploaded, stream=stream), array.T)
    assert device.external_stream(41) == ("stream", 41)


def test_a_call_that_fails_is_an_error(core: Core) -> None:
    device = Device()
    core.bindings.status = 2
    with pytest.raises(RuntimeError, match="cuMemcpyAsync fails on Abacus: 2"):
        device.upload(np.zeros(1), stream=device.stream())


def test_each_thread_gets_the_devices_context_once(core: Core) -> None:
    device = Device()
    for _ in range(2):
        device.empty((1,), "uint8", stream=None)
    assert core.threads == [threading.get_ident()]
    other = threading.Thread(target=lambda: [device.memory_bytes, device.memory_bytes])
    other.start()
    other.join()
    assert len(core.threads) == 2 and core.threads[1] != core.threads[0]


def test_copies_of_unequal_sizes_are_refused(core: Core) -> None:
    device = Device()
    stream = device.stream()
    with pytest.raises(ValueError, match="12 bytes to 8"):
        device.copy(np.zeros(3, np.float32), np.zeros(2, np.float32), stream=stream)


def test_pinned_memory_is_an_array_that_keeps_its_allocation(core: Core) -> None:
    pinned = Device().pinned((2, 3), "int64")
    pinned[...] = 7
    assert (pinned.shape, pinned.dtype) == ((2, 3), np.int64)
    assert (core.allocated[0].view(np.int64) == 7).all()


def test_memory_that_does_not_suffice_is_a_memory_error(core: Core) -> None:
    def full(size: int, stream: Any) -> Any:
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: no")

    def broken(size: int, stream: Any) -> Any:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: no")

    def full_pinned(size: int) -> Any:
        full(size, None)

    device, resource = Device(), core.device.memory_resource
    assert device.memory_bytes == (3 + 2, 5), "what the pool keeps is free"
    core.device.memory_resource = SimpleNamespace()
    assert device.memory_bytes == (3, 5), "there are devices without pools"
    core.device.memory_resource = resource
    core.device.memory_resource.allocate = full
    with pytest.raises(MemoryError, match="24 bytes on Abacus"):
        device.empty((2, 3), "float32", stream=None)
    core.LegacyPinnedMemoryResource = lambda: SimpleNamespace(allocate=full_pinned)
    with pytest.raises(MemoryError, match="8 bytes on Abacus"):
        device.pinned((8,), "uint8")
    core.device.memory_resource.allocate = broken
    with pytest.raises(RuntimeError, match="ILLEGAL"):
        device.empty((2, 3), "float32", stream=None)


def test_streams_have_the_priority_asked_for(core: Core) -> None:
    assert Device().stream(-1).priority == -1
    assert Device().stream().priority is None


def test_work_is_captured_between_begin_and_end_and_launched_as_one(core: Core) -> None:
    device, calls = Device(), core.bindings.calls
    stream = device.stream()
    graph = device.capture(lambda: calls.append(("work",)), stream=stream)
    assert graph.num_nodes == 9
    graph.launch(stream=stream)
    assert [call[0] for call in calls] == [
        "begin",
        "work",
        "end",
        "instantiate",
        "destroy",
        "launch",
    ]
    assert calls[0][1:] == (7, "this thread") and calls[-1][1:] == ("executable", 7)
    del graph
    assert calls[-1] == ("destroy", "executable")


def test_a_capture_that_fails_is_ended(core: Core) -> None:
    def fail() -> None:
        raise ValueError("no")

    device = Device()
    with pytest.raises(ValueError, match="no"):
        device.capture(fail, stream=device.stream())
    assert [call[0] for call in core.bindings.calls] == ["begin", "end", "destroy"]


def test_nothing_is_collected_while_a_graph_is_captured(core: Core) -> None:
    device, seen = Device(), []
    device.capture(lambda: seen.append(gc.isenabled()), stream=device.stream())
    assert seen == [False] and gc.isenabled()


def test_a_context_that_somebody_else_has_made_current_is_replaced(core: Core) -> None:
    device = Device()
    core.bindings.current.context = PRIMARY + 1
    device.empty((1,), "uint8", stream=None)
    assert core.bindings.current.context == PRIMARY and len(core.threads) == 2


def test_launches_get_addresses_and_numbers_in_order(core: Core) -> None:
    device, case = Device(), slots.STORE.cases["two"]()
    found = device.run(slots.STORE, case, stream=device.stream())
    ((entry, (grid, block), arguments),) = core.launched
    (planned,) = slots.STORE.planned(case)
    assert (entry, grid, block) == (planned.entry, planned.grid, planned.block)
    addresses = [array.ctypes.data for array in core.allocated]
    assert list(arguments[:3]) == [addresses[0], addresses[1], addresses[3]]
    assert arguments[3] == np.int32(128) and arguments[3].dtype == np.int32
    np.testing.assert_array_equal(found["values"], case.arrays["before"])


def test_a_source_is_compiled_once_for_the_device_and_tables_are_sent_once(core: Core) -> None:
    device, case = Device(), mask.KERNEL.cases["enlarged"]()
    stream = device.stream()
    buffers = {
        name: DeviceArray(16 * i, (1,), "float32") for i, name in enumerate(("logits", "mask"), 2)
    }
    for _ in range(3):
        device.enqueue(mask.KERNEL, buffers, case.shapes, case.numbers, stream=stream)
    assert core.compiled == [("mask_of_logits", "sm_90")]
    assert len(core.allocated) == len(mask.KERNEL.tables(case.shapes, case.numbers)) == 4
    assert len(core.launched) == 3
    assert core.launched[0][2][::5][:2] == (32, 48), "a device address is taken as it is"


def test_time_is_the_devices_between_two_events(core: Core) -> None:
    seen: list[Any] = []

    def record(event: Any = None, options: Any = None) -> Any:
        seen.append(("event", options))
        return Moment(4.0 * len(seen))

    stream = SimpleNamespace(record=record)
    found = Device().time_ms(lambda: seen.append("call"), 3, stream=stream)
    assert seen == ["call", ("event", True), "call", "call", "call", ("event", True)]
    assert found == pytest.approx((24 - 8) / 3)


class Moment(float):
    """An event at a time in milliseconds."""

    def sync(self) -> None: ...
