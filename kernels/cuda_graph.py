"""Work captured from a stream into a CUDA graph, launched as one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.device import Device


class CudaGraph:
    """Captured work.

    Attributes:
        num_nodes: kernels and copies in it.
    """

    def __init__(self, device: Device, executable: Any, num_nodes: int) -> None:
        self._device, self._executable, self.num_nodes = device, executable, num_nodes

    def launch(self, *, stream: Any) -> None:
        """Enqueue all of it."""
        self._device.driver("cuGraphLaunch", self._executable, int(stream.handle))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the driver may be gone before this object
            self._device.driver("cuGraphExecDestroy", self._executable)


def captured(device: Device, enqueue: Callable[[], object], stream: Any) -> CudaGraph:
    """What `enqueue` puts on a stream as a graph.

    It must not allocate or free, wait, or touch another stream that has not been forked from this one.
    """
    handle = int(stream.handle)
    mode = device.enumeration("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    device.driver("cuStreamBeginCapture", handle, mode)
    try:
        with _nothing_collected():
            enqueue()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # of the capture, which says less than the cause
            device.driver("cuGraphDestroy", device.driver("cuStreamEndCapture", handle))
        raise
    graph = device.driver("cuStreamEndCapture", handle)
    try:
        executable = device.driver("cuGraphInstantiate", graph, 0)
        _, count = device.driver("cuGraphGetNodes", graph)
    finally:
        device.driver("cuGraphDestroy", graph)
    return CudaGraph(device, executable, int(count))


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Garbage may hold tensors: freeing one on a stream, or memory of the host, would break the capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
