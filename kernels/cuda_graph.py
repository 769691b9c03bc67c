"""Work captured from a stream into a CUDA graph, launched as one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Driver(Protocol):
    """The part of `kernels.device.Device` that calls the driver."""

    def driver(self, call: str, *arguments: Any) -> Any:
        """Call a function of the driver. Raises RuntimeError with its status."""

    def enumeration(self, kind: str, member: str) -> Any:
        """Give a member of one of the driver's enumerations."""


class CudaGraph:
    """A CUDA graph of captured work.

    Attributes:
        num_nodes: kernels and copies in it.
    """

    def __init__(self, device: Driver, executable: Any, num_nodes: int) -> None:
        self._device, self._executable, self.num_nodes = device, executable, num_nodes

    def launch(self, *, stream: Any) -> None:
        """Enqueue all of it."""
        self._device.driver("cuGraphLaunch", self._executable, int(stream.handle))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the driver may be gone before this object
            self._device.driver("cuGraphExecDestroy", self._executable)


def captured(device: Driver, enqueue: Callable[[], object], stream: Any) -> CudaGraph:
    """Capture what `enqueue` puts on a stream as a graph.

    It must not allocate or free, wait, or touch another stream that has not been forked from this one.
    """
    handle = int(stream.handle)
    mode = device.enumeration("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    with nothing_collected():
        device.driver("cuStreamBeginCapture", handle, mode)
        try:
            enqueue()
        except BaseException:
            with contextlib.suppress(
                RuntimeError
            ):  # of the capture, which says less than the cause
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
def nothing_collected() -> Iterator[None]:
    """Keep garbage meanwhile: it may hold tensors, and freeing one would break a capture, or become a part of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
